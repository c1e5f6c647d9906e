"""What the death of a worker costs a fit: the same fit again and again, with a SIGKILL at a random moment of each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np


class Killer:
    """Counts the chunks that the driver hears of, and sends SIGKILL to one of the workers when there are `moment`.

    So the death falls into the middle of a pass by construction, however fast the machine is.

    Parameters
    ----------
    client : distributed.Client
    moment : count of finished chunks, or None for no death
    rng : numpy.random.Generator
        Chooses the victim.
    """

    def __init__(self, client: Any, moment: int | None, rng: np.random.Generator) -> None:
        self.alive = processes(client)
        self.moment = moment
        self.victim = self.alive[rng.integers(len(self.alive))]
        self.chunks = 0

    def __call__(self, chunk: Any) -> None:
        self.chunks += 1
        if self.chunks == self.moment:
            os.kill(self.victim, signal.SIGKILL)

    def mourn(self, client: Any) -> None:
        """Wait until there are as many workers as before, the dead one not among them."""
        assert self.moment is not None and self.chunks >= self.moment
        client.wait_for_workers(len(self.alive), timeout=120)
        assert self.victim not in processes(client)


def processes(client: Any) -> list[int]:
    """Process ids of the workers."""
    return list(client.run(os.getpid, on_error="ignore").values())


def fitted(model: Any, source: Any, on_chunk: Callable[[Any], None] | None = None) -> tuple[Any, float]:
    """The model, fitted, and the seconds that took."""
    began = time.perf_counter()
    for _ in model.fit_steps(source, on_chunk=on_chunk):
        pass
    return model, time.perf_counter() - began


def same_bits(a: Any, b: Any) -> bool:
    """Whether two fits ended with the same parameters and the same trace."""
    names = ("weights_", "means_", "covariances_")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names) and a.lower_bounds_ == b.lower_bounds_


def lost(
    make: Callable[[], Any], source: Any, client: Any, *, deaths: int, rng: np.random.Generator
) -> tuple[float, list[tuple[float, float, bool]]]:
    """Seconds of a fit without deaths; and for each death when it came (as a share of the fit), what the fit took
    longer, the tasks made again included, and whether the bits are the same.

    Parameters
    ----------
    make : callable () -> GaussianMixture, on the client's cluster
    """
    counted = Killer(client, None, rng)
    fitted(make(), source, counted)  # compiles, and counts chunks
    expected, usual = fitted(make(), source)
    found = []
    for share in rng.uniform(0.1, 0.9, deaths):
        killer = Killer(client, int(share * counted.chunks), rng)
        model, seconds = fitted(make(), source, killer)
        found.append((float(share), seconds - usual, same_bits(expected, model)))
        killer.mourn(client)
    return usual, found
