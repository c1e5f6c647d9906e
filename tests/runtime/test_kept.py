"""Files that earlier commits wrote are read and gone on with; files of nonsense are refused or passed over."""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.em.online.state import LearnerState
from streamgmm.errors import ModelFileError
from streamgmm.estimators import mixture_estimator
from streamgmm.runtime import checkpoint, encoding
from streamgmm.runtime.array_file import CHECKPOINT, MODEL, SNAPSHOT, read_arrays, write_arrays
from streamgmm.runtime.checkpoint import FileJournal, read_state
from streamgmm.runtime.executors import Threads
from streamgmm.sources.formats.array import ArraySource
from streamgmm.stream import snapshot

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KEPT = Path(__file__).parents[1] / "data" / "kept"
FIGURES = json.loads((KEPT / "figures.json").read_text())
CASES = {
    "exact": {"covariance_type": "full", "solver": "exact", "n_init": 2, "prior": sg.NormalInverseWishart()},
    "auto": {"covariance_type": "diag", "solver": "auto", "n_init": 2},
    "incremental": {"covariance_type": "tied", "solver": "incremental", "n_init": 1},
    "sample": {"covariance_type": "full", "solver": "auto", "n_init": 4},
    "stepwise": {"covariance_type": "spherical", "solver": "stepwise", "n_init": 1},
}
STREAMS = {"plain": ({"half_life": None}, {}), "fading": ({"half_life": 700.0}, {"anomaly_rate": 0.02})}


def rows(n=1600):
    """Three groups in the plane, by integer arithmetic: the same on any machine."""
    i = np.arange(n)
    noise = np.stack([(i * 7919) % 101, (i * 104729) % 97], axis=1) / 50.0
    return noise + 4.0 * np.stack([i % 3, (i % 3) ** 2 % 2], axis=1)


def stored(name, folder):
    """A file as it was written, and its path."""
    path = folder / name
    path.write_bytes(gzip.decompress((KEPT / f"{name}.gz").read_bytes()))
    return path


class Counting(Threads):
    def __init__(self):
        super().__init__(1)
        self.chunks = 0

    def _report(self, chunk, after):
        super()._report(chunk, after)
        self.chunks += 1


@pytest.mark.parametrize("case", CASES)
def test_a_fit_goes_on_from_a_checkpoint_of_before(case, tmp_path):
    path, counting = stored(f"checkpoint-{case}", tmp_path), Counting()
    model = sg.GaussianMixture(3, tol=0, max_iter=6, random_state=0, checkpoint=path, executor=counting, **CASES[case])
    model.fit(ArraySource(rows(), chunk_rows=200))
    assert model.report_["checkpoint"]["resumed"]
    np.testing.assert_allclose(model.lower_bound_, FIGURES[case]["lower_bound"], rtol=1e-9)
    np.testing.assert_allclose(sorted(model.means_.tolist()), FIGURES[case]["means"], rtol=1e-6)
    if case != "sample":
        assert counting.chunks < 0.4 * FIGURES[case]["chunks"], "what was read is not read again"


def test_a_model_of_before_is_loaded(tmp_path):
    model = sg.load(stored("model.safetensors", tmp_path))
    np.testing.assert_array_equal(model.means_, FIGURES["model"]["means"])
    np.testing.assert_allclose(model.score(rows()), FIGURES["model"]["score"], rtol=1e-12)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_goes_on_from_a_snapshot_of_before(name, tmp_path):
    options, watched = STREAMS[name]
    path = stored(f"stream-{name}", tmp_path)
    session = sg.StreamSession(sg.GaussianMixture(3, random_state=0, **options), snapshot=path, **watched)
    figures = FIGURES[f"stream-{name}"]
    assert (session.counts.rows, session.position) == (figures["rows"], figures["position"])
    np.testing.assert_array_equal(session.mixture.means, figures["means"])
    X = rows(6000)
    for _ in session.run((X[i : i + 170], min(i + 170, 6000)) for i in range(0, 6000, 170)):
        pass
    np.testing.assert_allclose(session.mixture.means, figures["after"], rtol=1e-9)


@pytest.mark.parametrize("name", ["learner", "learner-bayesian"])
def test_an_estimator_of_before_goes_on_learning(name, tmp_path):
    gm = sg.load(stored(f"{name}.safetensors", tmp_path))
    figures = FIGURES[name]
    assert (type(gm).__name__, gm.report_["rows"], gm.report_["rows_waiting"]) == tuple(figures["told"])
    np.testing.assert_array_equal(gm.means_, figures["means"])
    gm.save(tmp_path / "again.safetensors")
    X = rows(3000)[1100:]
    for one in (gm, sg.load(tmp_path / "again.safetensors")):
        np.testing.assert_allclose(one.partial_fit(X).means_, figures["after"], rtol=1e-9)


def test_one_registry_and_one_encoder_write_all_state(tmp_path, monkeypatch):
    """Checkpoints, learners in models, and snapshots: each is what `packed` makes of plain values."""
    made = []
    for place in (checkpoint, snapshot, mixture_estimator):
        monkeypatch.setattr(place, "packed", lambda value: made.append(type(value).__name__) or encoding.packed(value))
    monkeypatch.setattr(FileJournal, "share", 1.0)
    gm = sg.GaussianMixture(2, random_state=0, max_iter=2, checkpoint=tmp_path / "c").fit(rows(300))
    assert set(made) == {"dict"}
    gm.partial_fit(rows(300)).save(tmp_path / "m.safetensors")
    assert made[-1] == "LearnerState"
    session = sg.StreamSession(sg.GaussianMixture(2, random_state=0), snapshot=tmp_path / "s", anomaly_rate=0.1)
    count = len(made)
    list(session.run([(rows(700), 700)]))
    assert len(made) > count
    arrays, header = read_arrays(tmp_path / "s", SNAPSHOT)
    assert header == {} and isinstance(encoding.unpacked(arrays)["learner"], LearnerState)


def test_names_in_files_are_stable_and_their_classes_plain():
    for name, home in encoding.HOMES.items():
        module, _, attribute = home.partition(":")
        cls = getattr(importlib.import_module(module), attribute)
        assert (cls.__module__, cls.__qualname__) == (module, attribute), f"{name} stands elsewhere"
        assert is_dataclass(cls) or issubclass(cls, tuple)
    assert set(encoding._SPELLINGS) <= set(encoding.HOMES), "a name in the first files is not known any more"


def test_a_field_added_since_has_its_default():
    tree, arrays = encoding.encode(sg.NormalInverseWishart(shrinkage=0.5))
    del tree["fields"]["dof"]
    assert vars(encoding.decode(tree, arrays)) == vars(sg.NormalInverseWishart(shrinkage=0.5))
    tree["fields"]["more"] = 1
    with pytest.raises(ValueError, match="other fields"):
        encoding.decode(tree, arrays)


# Files of nonsense with a right hash -------------------------------------------------------------------------------


def forged(path, change):
    """Write `path` again with its tree, or header where it has none, changed and everything else as it was."""
    kind = CHECKPOINT if path.name.startswith(("fit", "checkpoint")) else SNAPSHOT
    kind = MODEL if path.name.endswith("safetensors") else kind
    arrays, header = read_arrays(path, kind)
    trees = [name for name in arrays if name.rpartition(".")[2] == "tree"]
    for name in trees:
        tree = change(json.loads(arrays[name].tobytes()))
        arrays[name] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    if not trees:
        kind, header = kind._replace(version=1), change(header)
    write_arrays(path, arrays, header, kind)


def places(tree, at=()):
    """Every place in a tree of dicts and lists."""
    yield at
    for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(item, (*at, key))


def put(tree, at, value):
    if not at:
        return value
    inner = tree
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return tree


NONSENSE = [None, -1, 1e300, "x", [], {}, [[1]], {"$": "array", "name": "a0"}, 10**25, True]


def nonsense(seed, tree):
    rng = np.random.default_rng(seed)
    at = list(places(tree))
    return put(tree, at[1 + rng.integers(len(at) - 1)], NONSENSE[rng.integers(len(NONSENSE))])


def test_a_checkpoint_that_names_other_code_runs_none(tmp_path):
    def name_main(tree):
        tree["items"].insert(0, ["x", {"$": "object", "class": "streamgmm.__main__:main", "fields": {}, "number": 0}])
        return tree

    path = stored("checkpoint-exact", tmp_path)
    forged(path, name_main)
    with pytest.raises(ModelFileError, match="not a class of streamgmm"):
        read_state(path)


def test_nonsense_in_a_checkpoint_is_refused_as_such(tmp_path):
    path = stored("checkpoint-exact", tmp_path)
    whole = path.read_bytes()
    refused = 0
    for seed in range(150):
        path.write_bytes(whole)
        forged(path, lambda tree, seed=seed: nonsense(seed, tree))
        try:
            read_state(path)
        except ModelFileError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("version", [1, 2])
def test_nonsense_in_a_snapshot_gives_way_to_the_one_before_or_is_refused(version, tmp_path):
    path = stored("stream-fading", tmp_path)
    options = {"snapshot": path, "anomaly_rate": 0.02}
    if version == 2:
        sg.StreamSession(sg.GaussianMixture(3, random_state=0, half_life=700.0), **options).save()
        path.with_name(path.name + ".previous").unlink()
    whole = path.read_bytes()
    refused = 0
    for seed in range(60):
        path.write_bytes(whole)
        forged(path, lambda header, seed=seed: nonsense(seed, header))
        try:
            sg.StreamSession(sg.GaussianMixture(3, random_state=0, half_life=700.0), **options)
        except sg.errors.StreamGMMError:
            refused += 1
    assert refused > 5
    path.write_bytes(whole)
    shutil.copy(path, path.with_name(path.name + ".previous"))
    forged(path, lambda tree: put(tree, ("learner", "online") if version == 1 else ("items",), "x"))
    session = sg.StreamSession(sg.GaussianMixture(3, random_state=0, half_life=700.0), **options)
    assert session.counts.rows == FIGURES["stream-fading"]["rows"]


@pytest.mark.parametrize("kind", [sg.GaussianMixture, sg.BayesianGaussianMixture])
def test_nonsense_in_a_learner_is_refused_or_harmless(kind, tmp_path):
    path = tmp_path / "learner.safetensors"
    kind(3, random_state=0, half_life=700.0).partial_fit(rows(900)).save(path)
    whole, refused = path.read_bytes(), 0
    for seed in range(80):
        path.write_bytes(whole)
        forged(path, lambda tree, seed=seed: nonsense(seed, tree))
        try:
            found = sg.load(path)
        except ModelFileError:
            refused += 1
        else:
            assert np.isfinite(found.means_).all()
    assert refused > 20


def test_arrays_that_a_learner_cannot_have_are_refused(tmp_path):
    path = tmp_path / "learner.safetensors"
    sg.GaussianMixture(3, random_state=0).partial_fit(rows(900)).save(path)
    arrays, header = read_arrays(path, MODEL)
    names = [name for name, array in arrays.items() if name.startswith("stream.a") and array.size]
    assert len(names) >= 6
    for name in names:
        right = arrays[name]
        for wrong in (np.full(right.shape, np.nan), right[..., :0].copy(), right.astype(np.float32)):
            write_arrays(path, {**arrays, name: wrong}, header, MODEL)
            with pytest.raises(ModelFileError):
                sg.load(path)


def test_nonsense_in_a_model_is_refused_as_such(tmp_path):
    path = stored("model.safetensors", tmp_path)
    whole = path.read_bytes()
    refused = 0
    for seed in range(60):
        path.write_bytes(whole)
        forged(path, lambda header, seed=seed: nonsense(seed, header))
        try:
            sg.load(path)
        except ModelFileError:
            refused += 1
    assert refused > 5


def test_a_fit_passes_over_nonsense_and_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(FileJournal, "share", 1.0)
    X = ArraySource(rows(400), chunk_rows=100)
    settings = {"n_components": 2, "max_iter": 2, "random_state": 0, "tol": 0, "checkpoint": tmp_path / "c"}
    whole = sg.GaussianMixture(**settings).fit(X)
    for path in (tmp_path / "c").glob("*.ckpt"):
        forged(path, lambda tree: put(tree, ("items",), [["about", {}], ["entries", {"$": "dict", "items": 3}]]))
    again = sg.GaussianMixture(**settings).fit(X)
    assert not again.report_["checkpoint"]["resumed"] and again.report_["checkpoint"]["damaged"]
    assert again.lower_bounds_ == whole.lower_bounds_


def test_a_checkpoint_of_the_version_before_is_not_gone_on_with(tmp_path):
    """Its statistics were about another origin: going on would end in a wrong model."""
    path = stored("checkpoint-exact", tmp_path)
    arrays, content = read_arrays(path, CHECKPOINT)
    write_arrays(path, arrays, content, CHECKPOINT._replace(version=1))
    with pytest.raises(ModelFileError, match="version"):
        read_state(path)
