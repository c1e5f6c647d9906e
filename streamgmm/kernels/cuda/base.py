"""Interface of the kernels to a graphics card: memory, copies, products of matrices, launches."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib import resources
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["INSTALL", "Backend", "DeviceArray", "Kernel", "source"]

INSTALL = "install CuPy: pip install 'streamgmm[cuda13]', or 'streamgmm[cuda12]' for an older driver (see nvidia-smi)"


class DeviceArray(Protocol):
    """An array in the memory of a card, as far as it is used here: CuPy's, and those of emulated cards."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def ndim(self) -> int: ...

    @property
    def size(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: Any, /) -> DeviceArray: ...

    def reshape(self, *shape: int) -> DeviceArray: ...


Kernel = Callable[..., None]
"""A compiled function of a card; see `Backend.launch`."""


class Backend(ABC):
    """One card. Work is queued on the current stream of the thread; arrays know their `shape` and `dtype`.

    Attributes
    ----------
    index : number of the card
    name : its model
    capability : compute capability (major, minor)
    shared_bytes : shared memory of a multiprocessor that blocks may use
    weak_float64 : double precision runs at 1/32 of the single rate, or less
    """

    index: int
    name: str
    capability: tuple[int, int]
    shared_bytes: int
    weak_float64: bool

    def __init__(self) -> None:
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    @abstractmethod
    def free_bytes(self) -> int:
        """Memory of the card that can still be had."""

    @abstractmethod
    def peak_bytes(self) -> int:
        """The most memory that was held here at a time."""

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float64) -> DeviceArray:
        """An array of the card, C-contiguous, with undefined content."""

    @abstractmethod
    def zero(self, array: DeviceArray) -> None:
        """Fill with zero bytes."""

    @abstractmethod
    def wrap(self, x: object) -> DeviceArray:
        """An array of this or another library on the card, as an array of this backend; no copy."""

    @abstractmethod
    def address(self, array: DeviceArray) -> int:
        """Where the array begins in the memory of the card."""

    @abstractmethod
    def contiguous(self, array: DeviceArray) -> DeviceArray:
        """The array in C order: itself, or a copy on the card."""

    @abstractmethod
    def upload(self, host: NDArray[Any], out: DeviceArray | None = None) -> DeviceArray:
        """Copy to the card, into `out` if given; from pinned memory the copy is only queued."""

    @abstractmethod
    def download(self, array: DeviceArray, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy to the host, as much as `out` takes where that is given, and wait for it."""

    @abstractmethod
    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Host memory that the card copies from and to at full speed."""

    def is_pinned(self, host: NDArray[Any]) -> bool:
        """Whether host memory is pinned already, by whoever made it."""
        return False

    def pin(self, host: NDArray[Any]) -> Callable[[], None] | None:
        """Pin an array where it lies; what ends that, or None where it cannot be done."""
        return None

    @abstractmethod
    def stream(self) -> AbstractContextManager[Any]:
        """A stream of its own, current for this thread within the context."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the current stream is done."""

    @abstractmethod
    def mark(self) -> Callable[[], None]:
        """A mark behind what was queued on the current stream; to call it waits until the stream has come there."""

    @abstractmethod
    def build(self, code: str, defines: Mapping[str, str], name: str, shared: int) -> Kernel:
        """The compiled function `name`, which may use `shared` bytes of dynamic shared memory."""

    @abstractmethod
    def launch(
        self, kernel: Kernel, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any], shared: int = 0
    ) -> None:
        """Queue a kernel. Arguments: arrays of the card, int (64 bits; 0 is also the null pointer), float, and NumPy
        arrays of size one, which are passed by value.
        """

    @abstractmethod
    def product(self, a: DeviceArray, b: DeviceArray, out: DeviceArray, *, turned: bool, add: bool) -> None:
        """Products of stacks of matrices: out = a b^T, or a^T b if `turned`; added to `out` if `add`.

        a (s, m, k), b (s, n, k), out (s, m, n); turned: a (s, k, m), b (s, k, n). All C-contiguous float64.
        """

    # What is the same for all ----------------------------------------------------------------------------------------

    def kernel(self, file: str, defines: Mapping[str, str], name: str, shared: int = 0) -> Kernel:
        """`build` of a source of this package, once for each set of `defines`."""
        key = (file, name, *defines.items())
        found = self._kernels.get(key)
        if found is None:
            with self._lock:
                found = self._kernels.get(key)
                if found is None:
                    found = self._kernels[key] = self.build(source(file), defines, name, shared)
        return found

    def staging(self, use: str, count: int) -> NDArray[np.float64]:
        """(count,) pinned numbers of this thread, the same ones in every call for one `use`."""
        held: dict[tuple[str, int], NDArray[np.float64]] = self._local.__dict__.setdefault("staging", {})
        found = held.get((use, count))
        if found is None:
            found = held[use, count] = self.pinned(8 * count).view(np.float64)
        return found

    def scratch(self, use: str, count: int, dtype: DTypeLike = np.float64) -> DeviceArray:
        """(count,) or more numbers of the card, for this thread's next call alone; they are not given back."""
        held: dict[str, DeviceArray] = self._local.__dict__.setdefault("scratch", {})
        found = held.get(use)
        if found is None or found.size < count or found.size > 4 * count + 65536:
            found = held[use] = self.empty(count, dtype)
        return found


@cache
def source(file: str) -> str:
    """The text of a kernel source of this package, after what all have in common."""
    folder = resources.files("streamgmm.kernels.cuda")
    return "".join((folder / name).read_text(encoding="utf-8") for name in ("common.cuh", file))
