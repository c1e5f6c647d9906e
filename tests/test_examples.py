"""The worked examples run, end where they say they do, and draw their picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("name", "settings", "holds"),
    [
        ("segmentation", {}, lambda r: r["segments"] == 6 and r["variance explained"] > 0.88),
        ("anomalies", {}, lambda r: r["K by BIC"] == 4 and min(r["AUC, K by BIC"], r["precision, K by BIC"]) > 0.95),
        (
            "patches",
            {"every": 40},  # fewer rows, and 10 covariances of 63 x 63 learn them by heart
            lambda r: r["held-out nats per row, K = 10"] - r["held-out nats per row, K = 1"] > 50,
        ),
        (
            "factors",
            {"size": 6, "step": 16, "n_factors": 5},
            lambda r: r["factor"] > max(r["diag"], r["tied"], r["full"]),
        ),
        ("background", {"n": 42}, lambda r: r["object found"] > 0.95 and r["false alarms"] < 0.01),
        (
            "returns",
            {},
            lambda r: (
                abs(r["stormy share"] - r["true share"]) < 0.02
                and abs(r["of the mixture"] / r["0.1 % quantile"] - 1) < 0.06
                and r["of one Gaussian"] / r["0.1 % quantile"] < 0.7
            ),
        ),
        ("customers", {}, lambda r: r["K"] == 5 and r["adjusted Rand index"] > 0.95),
        ("failure", {}, lambda r: r["moons, agreement"] < 0.7 and r["rings, agreement"] < 0.1 and r["rings, findings"]),
    ],
)
def test_example(name, settings, holds, tmp_path):
    result = example(name).main(tmp_path, **settings)
    assert holds(result), result
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000


def test_every_example_is_listed():
    text = (FOLDER.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    assert all(path.name in text for path in FOLDER.glob("*.py"))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_anomalies_of_shuttle(shared, tmp_path):
    result = example("anomalies").main(tmp_path, str(shared / "adbench" / "32_shuttle.npz"))
    assert result["AUC, K by elbow"] > 0.85 and result["AUC, K by elbow"] > result["AUC, K by BIC"] + 0.1
