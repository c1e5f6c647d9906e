"""Fits that are interrupted, and how to tell that nothing was lost."""

from __future__ import annotations

import os

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.runtime.checkpoint import FileJournal
from streamgmm.runtime.executors import Threads
from streamgmm.sources.formats.array import ArraySource


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Write after every chunk, and do not wait for the disk: what a power cut costs is not in question here."""
    monkeypatch.setattr(FileJournal, "share", 1.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def rows(n=4000, D=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) + 3.0 * rng.integers(0, 3, size=(n, 1))


def source(**kwargs):
    return ArraySource(rows(**kwargs), chunk_rows=256)


def model(**kwargs):
    return sg.GaussianMixture(
        3, **{"solver": "exact", "tol": 0, "max_iter": 6, "random_state": 0, "n_init": 2, **kwargs}
    )


class BrokenError(Exception):
    pass


class Breaking(Threads):
    """Raises in the driver after so many chunks."""

    def __init__(self, chunks):
        super().__init__(2)
        self.left = chunks

    def _report(self, chunk, after):
        super()._report(chunk, after)
        self.left -= 1
        if self.left == 0:
            raise BrokenError


def same(a, b):
    assert a.lower_bounds_ == b.lower_bounds_
    assert a.n_passes_ == b.n_passes_
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
