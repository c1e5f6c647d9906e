"""Trajectories of exact EM against R's mclust, through every chunking and both doors."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from streamgmm.mixture.covariance import family
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.runtime.fold import fold
from streamgmm.sources import array_source
from tests.helpers.reference_models import MODELS

SMALL = Path(__file__).parents[1] / "data" / "mclust.json"
CHUNKS = (None, 7, 64)


def first_model(X, labels, K, covariance_type):
    """The M-step of hard labels."""
    return stats_from_responsibilities(X, np.ones(len(X)), labels, K, family(covariance_type)).maximize()


def check(X, labels, fit, chunk_rows):
    covariance_type = MODELS[fit["model"]]
    model = first = first_model(X, labels, fit["G"], covariance_type)
    wanted = dict(zip(fit["iters"], fit["loglik_at_iter"], strict=True))
    steps = max(fit["iters"])
    size = chunk_rows or len(X)
    for step in range(1, steps + 1):
        parts = (model.accumulate(X[i : i + size]) for i in range(0, len(X), size))
        stats = fold(parts, sg.merge)
        if step in wanted:
            assert stats.loglik == pytest.approx(wanted[step], rel=1e-10)
        model = stats.maximize()
    gm = sg.GaussianMixture(
        fit["G"], covariance_type=covariance_type, tol=0, reg_covar=0, max_iter=steps, solver="exact",
        weights_init=first.weights, means_init=first.means,
        precisions_init=first.family.precisions(first.precisions_cholesky),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(array_source(X, None, chunk_rows=size))
    assert gm.n_iter_ == steps == len(gm.lower_bounds_)
    for step, value in wanted.items():
        assert gm.lower_bounds_[step - 1] * len(X) == pytest.approx(value, rel=1e-10)


@cache
def small():
    return json.loads(SMALL.read_text())["sets"]


CASES = [
    (name, i, chunk_rows)
    for name in ("faithful", "iris")
    for i in range(len(small()[name]["fits"]))
    for chunk_rows in CHUNKS
]


@pytest.mark.parametrize(("name", "index", "chunk_rows"), CASES)
def test_trajectories_of_the_shipped_sets(name, index, chunk_rows):
    data = small()[name]
    fit = data["fits"][index]
    labels = np.array(data["init_labels"][fit["init_labels_id"]]) - 1
    check(np.array(data["X"]), labels, fit, chunk_rows)


GVHD = [(model, G, chunk_rows) for model in MODELS for G in (3, 6) for chunk_rows in CHUNKS]
# Chunks of 7 rows cost 1300 merges a step: one such fit stands for all in the normal run.
SLOW = [case for case in GVHD if case[2] == 7 and case[:2] != ("VVV", 3)]


@pytest.mark.parametrize(
    ("model", "G", "chunk_rows"),
    [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else ()) for case in GVHD],
)
def test_trajectories_of_gvhd(shared, model, G, chunk_rows):
    data = json.loads((shared / "mclust" / "reference.json").read_text())["sets"]["GvHD_pos"]
    X = np.loadtxt(shared / "mclust" / "GvHD_pos.csv", delimiter=",", skiprows=1)
    (fit,) = [fit for fit in data["fits"] if (fit["model"], fit["G"]) == (model, G)]
    labels = np.array(data["init_labels"][fit["init_labels_id"]]) - 1
    check(X, labels, fit, chunk_rows)
