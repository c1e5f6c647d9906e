"""`fit --bayesian`: how many components are in use, in every command that shows a model."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import run as command
from tests.helpers.mixtures import separated


@pytest.fixture
def run(capsys):
    """Run a command line in this process, which must succeed: its standard output."""

    def call(*words, code=0):
        got = command([str(word) for word in words])
        captured = capsys.readouterr()
        assert got == code, captured.err
        return captured.err if code else captured.out

    return call


@pytest.fixture
def table(tmp_path):
    X = separated(4, 3, 1500, seed=1) * [1.0, 50.0, 0.01] + [0.0, 300.0, 7.0]
    np.savetxt(tmp_path / "rows.csv", X, delimiter=",", header="a,b,c", comments="")
    return tmp_path / "rows.csv"


@pytest.mark.parametrize("options", [(), ("--scale",), ("--pca", "2"), ("--scale", "--covariance", "spherical")])
def test_fit_shows_the_components_in_use(run, table, tmp_path, options):
    folder = tmp_path / "model"
    document = json.loads(run("fit", table, "-k", 9, "--bayesian", "--out", folder, "--json", *options))
    used = document["components_in_use"]
    assert len(document["weights"]) == len(document["means"]) == used < 9
    assert used == 4 or "spherical" in options
    gm = sg.load(folder)
    assert isinstance(gm, sg.BayesianGaussianMixture) and gm.n_components_in_use_ == used
    np.testing.assert_allclose(gm.lower_bounds_[-1], document["evidence"], rtol=1e-12)
    np.testing.assert_allclose(document["evidence_per_row"] * 1500, document["evidence"], rtol=1e-12)
    assert f"{used} Gaussians" in (run("report", folder) and (folder / "report.html").read_text())
    assert re.search(rf"components in use +{used}\n", run("inspect", folder))
    if "--pca" not in options:  # the posterior in the units of the data answers as that of scaled rows
        X = np.loadtxt(table, delimiter=",", skiprows=1)
        stats = gm.mixture_.accumulate(X)
        np.testing.assert_allclose(stats.loglik - gm.mixture_.divergence, document["evidence"], rtol=1e-6)
        assert "bic" not in run("score", folder, table)


def test_settings_of_the_other_kind_are_refused(run, table):
    said = run("fit", table, "-k", 2, "--set", "weight_concentration_prior=2.0", code=2)
    assert "weight_concentration_prior: not understood by fit without model.bayesian = true" in said
    said = run("fit", table, "-k", 2, "--bayesian", "--set", "noise=uniform", code=2)
    assert "noise: not understood by fit of a Bayesian mixture" in said
