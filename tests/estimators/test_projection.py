"""A model of principal components carries its projection: it takes and gives rows of the data, and refuses the rest."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import run
from streamgmm.errors import ModelFileError
from streamgmm.estimators.model_file import load_model, save_model
from streamgmm.estimators.projection import Projection

pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # arrays have none; the table had


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(600, 2)) + np.repeat([[0.0, 0.0], [8.0, 2.0]], 300, axis=0)
    return hidden @ rng.normal(size=(2, 5)) + 0.05 * rng.normal(size=(600, 5)) + 100


@pytest.fixture(scope="module")
def parts(rows):
    """The steps by hand: principal components, and a mixture of them."""
    pca = sg.PCA(2).fit(rows)
    Y = pca.transform(rows)
    return pca, Y, sg.GaussianMixture(2, n_init=2, random_state=0).fit(Y)


@pytest.fixture(scope="module")
def path(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pca")
    table = folder / "table.csv"
    np.savetxt(table, rows, delimiter=",", header="a,b,c,d,e", comments="")
    words = ["fit", str(table), "-k", "2", "--pca", "2", "--set", "n_init=2", "--out", str(folder / "m")]
    assert run(words) == 0
    return folder / "m" / "model.safetensors"


@pytest.fixture
def gm(path):
    return sg.load(path)


def test_what_the_command_line_wrote_answers_in_python(gm, rows, parts):
    pca, Y, by_hand = parts
    assert (gm.n_features_in_, list(gm.feature_names_in_)) == (5, list("abcde"))
    assert np.array_equal(gm.predict(rows), gm.mixture_.labels(Y))
    match = [0, 1] if gm.predict(rows)[0] == by_hand.predict(Y)[0] else [1, 0]
    assert gm.predict_proba(rows)[:, match] == pytest.approx(by_hand.predict_proba(Y), abs=1e-4)
    assert gm.score_samples(rows) == pytest.approx(by_hand.score_samples(Y), abs=1e-3)
    assert gm.score(rows) == pytest.approx(gm.score_samples(rows).mean(), abs=1e-12)
    assert gm.bic(rows) == pytest.approx(by_hand.bic(Y), rel=1e-6)
    drawn, labels = gm.sample(4000)
    assert drawn.shape == (4000, 5) and drawn.mean(axis=0) == pytest.approx(rows.mean(axis=0), abs=0.5)
    assert (gm.predict(drawn) == labels).mean() > 0.99
    assert np.cov(drawn.T) == pytest.approx(pca.inverse_transform(Y).T @ Y @ pca.components_ / 600, rel=0.2, abs=0.5)


@pytest.mark.parametrize("kind", ["npy", "zarr", "dask", "pandas"])
def test_any_source(gm, rows, kind, tmp_path):
    labels = gm.predict(rows)
    if kind == "npy":
        np.save(tmp_path / "x.npy", rows)
        assert np.array_equal(np.concatenate(list(gm.predict(tmp_path / "x.npy"))), labels)
    elif kind == "zarr":
        import zarr

        zarr.save_array(tmp_path / "x.zarr", rows)
        out = np.empty(len(rows), np.int64)
        assert np.array_equal(gm.predict(tmp_path / "x.zarr", out=out), labels)
    elif kind == "dask":
        import dask.array as da

        lazy = gm.predict(da.from_array(rows, chunks=(200, 5)))
        assert isinstance(lazy, da.Array) and np.array_equal(lazy.compute(), labels)
    else:
        import pandas as pd

        assert np.array_equal(gm.predict(pd.DataFrame(rows, columns=list("abcde"))), labels)


def test_saved_and_pickled_it_stays_what_it_is(gm, rows, tmp_path):
    gm.save(tmp_path / "again.safetensors")
    for same in (sg.load(tmp_path / "again.safetensors"), pickle.loads(pickle.dumps(gm))):
        assert np.array_equal(same.score_samples(rows), gm.score_samples(rows))
        assert np.array_equal(same.sample(3)[0].shape, (3, 5)) and list(same.feature_names_in_) == list("abcde")


def test_pictures_scores_and_diagnosis_see_the_components(gm, rows):
    pytest.importorskip("matplotlib").use("agg")
    assert "principal component" in gm.plot("ellipses", rows).get_xlabel()
    assert {finding.code for finding in sg.diagnose(gm, rows)} <= {"unscaled-features"}
    assert sg.cluster_scores(gm, rows).silhouette > 0.5


@pytest.mark.parametrize(
    "ask",
    [
        lambda gm: gm.marginal([0]),
        lambda gm: gm.condition({"a": 1.0}),
        lambda gm: gm.regression([[1.0]], ["a"]),
        lambda gm: gm.merge_components(n_components=1),
        lambda gm: gm.impute(np.full((1, 5), np.nan)),
        lambda gm: gm.to_sklearn(),
        lambda gm: gm.to_json(),
    ],
)
def test_what_has_no_answer_in_the_features_is_refused_with_a_remedy(gm, ask):
    with pytest.raises(ValueError, match=r"2 principal components of 5 features.*gm\.mixture_"):
        ask(gm)


def test_wrong_rows(gm, rows):
    with pytest.raises(ValueError, match="expecting 5 features"):
        gm.predict(rows[:, :2])
    holes = rows.copy()
    holes[7, 3] = np.nan
    with pytest.raises(ValueError, match="row 7, column 3"):
        gm.predict(holes)


def test_a_new_fit_drops_it_and_a_stream_refuses(gm, rows):
    with pytest.raises(ValueError, match="principal components"):
        gm.partial_fit(rows)
    with pytest.raises(ValueError, match="warm_start=False"):
        gm.set_params(warm_start=True).fit(rows)
    gm.set_params(warm_start=False).fit(rows)
    assert gm.projection_ is None and gm.means_.shape == (2, 5) and gm.marginal([0]).n_features == 1


@pytest.mark.parametrize("harm", ["shape", "nan", "dtype", "missing"])
def test_a_forged_projection_is_a_model_file_error(path, tmp_path, harm):
    content = load_model(path)
    arrays = dict(content.arrays)
    if harm == "shape":
        arrays["projection_shift"] = arrays["projection_shift"][:2]
    elif harm == "nan":
        arrays["projection_matrix"] = np.full((5, 2), np.nan)
    elif harm == "dtype":
        arrays["projection_inverse"] = arrays["projection_inverse"].astype(np.float32)
    else:
        del arrays["projection_inverse"]
    save_model(tmp_path / "forged.safetensors", content.mixture, header=content.header, arrays=arrays)
    with pytest.raises(ModelFileError):
        sg.load(tmp_path / "forged.safetensors")


def test_of_another_number_of_components():
    gm = sg.GaussianMixture().fit([[0.0], [1.0]])
    with pytest.raises(ValueError, match="1 features needs as many components; got 2"):
        gm.project(Projection(np.zeros(3), np.zeros((3, 2)), np.zeros((2, 3))))
