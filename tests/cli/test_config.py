"""Configs: what is unknown is refused with a suggestion; what is known comes through."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from streamgmm.cli.commands.fit import estimator
from streamgmm.cli.config import Config, dump_toml, load_config
from streamgmm.errors import ConfigError
from streamgmm.estimators.gaussian_mixture import GaussianMixture

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("toll=1", "did you mean 'tol' in [fit]"),
        ("model.n_component=3", "did you mean 'n_components'"),
        ("fitt.tol=2", "did you mean 'fit'"),
        ("model.tol=3", "belongs in [fit]"),
        ("moves=-1", "fit.moves = -1: input should be greater than or equal to 0"),
        ("fit.tol=-1", "fit.tol = -1: input should be greater than or equal to 0"),
        ("covariance_type=ful", "'full', 'tied', 'diag', 'spherical', 'EII'"),
        ("n_components=two", "valid integer"),
        ("qwertz=1", "Known keys: path"),
        ("tol", "expected key=value"),
    ],
)
def test_wrong_settings(setting, words):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [setting])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[modle]\nn_components = 2", "unknown section [modle]: did you mean 'model'"),
        ("n_components = 2", "belongs in [model]"),
        ("[model]\nk = 2", "unknown key 'k' in [model]"),
        ("model = 3", "must be a section"),
        ("[model", "not valid TOML"),
        ("[fit]\nmax_iter = 1.5", "fit.max_iter = 1.5"),
        ("[fit]\nn_init = 0", "fit.n_init = 0"),
    ],
)
def test_wrong_files(tmp_path, text, words):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_settings_lie_over_the_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[data]\npath = "a.npy"\n[fit]\ntol = 1e-4\n')
    config = load_config(path, ["tol=1e-8", "model.n_components=7", "weight=none"])
    assert (config.data.path, config.fit.tol, config.model.n_components, config.data.weight) == ("a.npy", 1e-8, 7, None)


def test_a_path_beside_the_config_is_found(tmp_path):
    (tmp_path / "rows.npy").touch()
    (tmp_path / "c.toml").write_text('[data]\npath = "rows.npy"')
    assert load_config(tmp_path / "c.toml").data.path == str(tmp_path / "rows.npy")


def test_written_out_and_read_back(tmp_path):
    config = load_config(None, ['columns=["a", "b\\"c"]', "path=x.npy", "tol=1e-9", "memory_limit=64MB"])
    (tmp_path / "c.toml").write_text(dump_toml(config))
    assert load_config(tmp_path / "c.toml") == config


def test_keys_are_unique_so_that_a_section_can_be_left_out():
    tree = Config().model_dump()
    assert len(Config().flat()) == sum(len(keys) for keys in tree.values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_configs_in_the_repository_are_understood(path):
    assert load_config(path) and tomllib.loads(path.read_text())


def test_moves_reach_the_estimator():
    assert estimator(load_config(None, ["moves=2", "n_components=3"])).moves == 2
    assert estimator(load_config(None, [])).moves == GaussianMixture().moves == 0
