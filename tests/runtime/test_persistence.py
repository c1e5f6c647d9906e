"""Model files: what goes in comes out; nothing forged gets through or takes memory."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.errors import ModelFileError
from streamgmm.estimators.model_file import load_model, save_model
from streamgmm.runtime.array_file import CHECKPOINT, MODEL, FileKind, _header_digest, read_arrays, write_arrays
from streamgmm.utils.atomic import atomic_path
from tests.helpers.mixtures import FAMILIES, random_mixture


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, random_mixture("full", 3, 2), header={"name": "x"}, arrays={"extra": np.arange(4)})
    return path


def parts(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def forge(path, layout, payload, *, rehash=True):
    if rehash and isinstance(layout, dict) and "__metadata__" in layout:
        meta = layout["__metadata__"]
        meta["sha256"] = hashlib.sha256(payload).hexdigest()
        meta["header_sha256"] = _header_digest(layout, meta)
    text = layout if isinstance(layout, bytes) else json.dumps(layout).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + payload)


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_round_trip_keeps_every_bit(tmp_path, covariance_type):
    mixture = random_mixture(covariance_type, 3, 4)
    header = {"report": {"trace": [np.float64(-1.5), np.nan]}, "names": ("a", "b")}
    save_model(tmp_path / "m.safetensors", mixture, header=header)
    back = load_model(tmp_path / "m.safetensors")
    for name in ("weights", "means", "covariances"):
        assert np.array_equal(getattr(back.mixture, name), getattr(mixture, name))
    assert back.mixture.family is mixture.family
    assert back.header == {"report": {"trace": [-1.5, None]}, "names": ["a", "b"]}


def test_other_readers_of_safetensors_read_it(model_file):
    from safetensors.numpy import load_file

    assert load_file(model_file)["means"].shape == (3, 2)


def test_extra_arrays(model_file):
    assert np.array_equal(load_model(model_file).arrays["extra"], np.arange(4))
    with pytest.raises(ValueError, match="belong to the mixture"):
        save_model(model_file, random_mixture("full", 3, 2), arrays={"means": np.zeros(3)})


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def huge_shape(path):
    layout, payload = parts(path)
    layout["means"]["shape"] = [2**40, 2]
    forge(path, layout, payload)


def huge_shape_and_offsets(path):
    layout, payload = parts(path)
    begin = layout["means"]["data_offsets"][0]
    layout["means"] |= {"shape": [2**36, 2], "data_offsets": [begin, begin + 2**40]}
    forge(path, layout, payload)


def huge_header(path):
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def negative_shape(path):
    layout, payload = parts(path)
    layout["means"]["shape"] = [-3, -2]
    forge(path, layout, payload)


def overlapping(path):
    layout, payload = parts(path)
    layout["means"]["data_offsets"] = layout["extra"]["data_offsets"]
    forge(path, layout, payload)


def other_format(path):
    layout, payload = parts(path)
    layout["__metadata__"]["format"] = "pt"
    forge(path, layout, payload)


def later_version(path):
    layout, payload = parts(path)
    layout["__metadata__"]["version"] = str(MODEL.version + 1)
    forge(path, layout, payload)


def object_dtype(path):
    layout, payload = parts(path)
    layout["means"]["dtype"] = "O"
    forge(path, layout, payload)


def not_json(path):
    forge(path, b"cos\nsystem\n(S'echo'\ntR." * 4, b"")


def nested(path):
    forge(path, b"[" * 200_000, b"")


def pickle(path):
    import pickle as p

    path.write_bytes(p.dumps({"weights": [1.0]}))


def lost_array(path):
    save_model(path, random_mixture("full", 1, 2))
    layout, payload = parts(path)
    layout["wights"] = layout.pop("weights")
    forge(path, layout, payload)


def not_a_number(path):
    layout, payload = parts(path)
    begin, _ = layout["covariances"]["data_offsets"]
    forge(path, layout, payload[:begin] + np.float64(np.nan).tobytes() + payload[begin + 8 :])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [
        flip_bit, truncate, huge_shape, huge_shape_and_offsets, huge_header, negative_shape, overlapping, other_format,
        later_version, object_dtype, not_json, nested, pickle, lost_array, not_a_number, empty,
    ],
)  # fmt: skip
def test_damaged_and_forged_files_are_refused_without_taking_memory(model_file, damage):
    damage(model_file)
    tracemalloc.start()
    with pytest.raises(ModelFileError) as caught:
        load_model(model_file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model_file.name in str(caught.value)
    assert peak < 8 * 2**20


def test_every_flipped_bit_of_a_header_is_noticed(tmp_path):
    """Positions, counts and names stand there: a changed digit is valid JSON."""
    path = tmp_path / "x"
    written = {"position": 1000, "counts": {"rows": 12345}, "names": ["a", "b"], "threshold": -1.5}
    write_arrays(path, {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3)}, written, FileKind("k"))
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    for bit in range(8 * (8 + length)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(ModelFileError):
            read_arrays(path, FileKind("k"))


def test_a_header_without_a_hash_is_of_an_older_release(model_file):
    layout, payload = parts(model_file)
    del layout["__metadata__"]["header_sha256"]
    forge(model_file, layout, payload, rehash=False)
    assert load_model(model_file).header == {"name": "x"}
    layout["__metadata__"]["header_sha2%6"] = "0"  # as a flipped bit would leave it
    forge(model_file, layout, payload, rehash=False)
    with pytest.raises(ModelFileError, match="names 'header_sha2%6', which save"):
        load_model(model_file)


def test_kind_is_checked(tmp_path):
    write_arrays(tmp_path / "c", {"a": np.ones(3)}, {"step": 1}, CHECKPOINT)
    arrays, header = read_arrays(tmp_path / "c", CHECKPOINT)
    assert header == {"step": 1} and np.array_equal(arrays["a"], np.ones(3))
    with pytest.raises(ModelFileError, match="streamgmm-model"):
        read_arrays(tmp_path / "c", MODEL)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as part:  # noqa: PT012
        part.write_text("half of the n")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    with atomic_path(target) as part:
        part.write_text("new")
    assert target.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_an_estimator_survives_save_and_load(tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 3))
    gm = sg.GaussianMixture(2, covariance_type="tied", random_state=np.random.RandomState(0), tol=1e-4).fit(rows)
    gm.save(tmp_path / "m.safetensors")
    back = sg.load(tmp_path / "m.safetensors")
    assert np.array_equal(back.predict_proba(rows), gm.predict_proba(rows))
    assert (back.tol, back.covariance_type, back.random_state) == (1e-4, "tied", None)
    for name in ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_passes_", "n_features_in_"):
        assert getattr(back, name) == getattr(gm, name), name


def test_a_forged_header_of_an_estimator_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    for header in ({}, {"parameters": {"tol": "x"}, "fitted": {}, "feature_names": None}, {"parameters": 3}):
        save_model(path, random_mixture("full", 2, 2), header=header)
        with pytest.raises(ModelFileError, match="does not describe a GaussianMixture"):
            sg.load(path)


FORGED = [
    {"fitted": {"lower_bounds_": "abc"}},
    {"fitted": {"lower_bounds_": [1.0, "x"]}},
    {"fitted": {"lower_bounds_": [[1.0]]}},
    {"fitted": {"converged_": "no"}},
    {"fitted": {"n_iter_": True}},
    {"fitted": {"lower_bound_": "1.0"}},
    {"fitted": {"report_": [["a", 1]]}},
    {"feature_names": "ab"},
    {"feature_names": [1, 2]},
]


@pytest.mark.parametrize("changed", FORGED, ids=str)
def test_a_forged_value_of_an_estimator_is_refused(tmp_path, changed):
    header = {"estimator": "GaussianMixture", "parameters": {"n_components": 2}, "fitted": {}, "feature_names": None}
    path = tmp_path / "m.safetensors"
    save_model(path, random_mixture("full", 2, 2), header=header)
    assert sg.load(path).n_features_in_ == 2
    save_model(path, random_mixture("full", 2, 2), header=header | changed)
    with pytest.raises(ModelFileError, match="does not describe a GaussianMixture"):
        sg.load(path)


def test_numbers_that_json_lacks_come_back_as_nan(tmp_path):
    header = {"parameters": {}, "fitted": {"lower_bounds_": [-np.inf, -2.0], "lower_bound_": np.nan}}
    save_model(tmp_path / "m.safetensors", random_mixture("full", 2, 2), header=header | {"feature_names": None})
    found = sg.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal([*found.lower_bounds_, found.lower_bound_], [np.nan, -2.0, np.nan])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="this is a pipe"):
        sg.load(tmp_path / "m.safetensors")


def test_steps_of_a_fit_are_the_fit(tmp_path):
    rows = np.random.default_rng(0).normal(size=(300, 2))
    chunks = []
    gm = sg.GaussianMixture(2, random_state=0, tol=1e-3)
    steps = list(gm.fit_steps(rows, on_chunk=chunks.append))
    same = sg.GaussianMixture(2, random_state=0, tol=1e-3).fit(rows)
    assert np.array_equal(gm.means_, same.means_) and len(steps) == gm.n_iter_ and len(chunks) >= gm.n_passes_
