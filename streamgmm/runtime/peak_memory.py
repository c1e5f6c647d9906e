"""Memory of this machine, and of this process: now, and the highest since a moment."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def _field(name: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def machine_memory() -> int | None:
    """Bytes of memory of this machine, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


class Peak:
    """Resident bytes when this was made, and the highest since.

    Where the kernel cannot set its high-water mark back (not Linux), the peak is that of the whole process.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            _CLEAR.write_text("5")
        self.before = _field("VmRSS:")

    @property
    def highest(self) -> int | None:
        """Highest resident bytes so far."""
        highest = _field("VmHWM:")
        if highest is None and sys.platform != "win32":
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return highest

    def report(self) -> dict[str, int | None]:
        """Both figures in bytes, and their difference."""
        highest, before = self.highest, self.before
        growth = highest - before if highest is not None and before is not None else None
        return {"before": before, "peak": highest, "growth": growth}
