"""A start of minutes on a expensive sample is kept on its way like everything else."""

from __future__ import annotations

from dataclasses import replace

import pytest

import streamgmm as sg
from streamgmm.em.initialization import search_settings
from streamgmm.runtime.checkpoint import FileJournal, read_state
from tests.helpers.interruption import Breaking, BrokenError, eager, same  # noqa: F401
from tests.helpers.slow_data import K, slow

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def expensive(monkeypatch):
    monkeypatch.setattr("streamgmm.em.sample_em.CHEAP", 1e3)
    quick = replace(search_settings.SEARCH, sample_stages=((1, 3, 3), (5, 3, 1)), steps_per_check=2)
    monkeypatch.setattr(search_settings, "SEARCH", quick)


def fit(X, **kwargs):
    return sg.GaussianMixture(K, n_init=4, random_state=0, max_iter=5, reg_covar=1e-2, tol=0.0, **kwargs).fit(X)


def test_interrupted_anywhere_it_goes_on_to_the_same_bits(tmp_path):
    X, _ = slow()
    whole = Breaking(10**9)
    expected = fit(X, executor=whole)
    total = 10**9 - whole.left
    saved = []
    for part in (0.4, 0.6, 0.8, 0.99):
        folder = tmp_path / str(part)
        with pytest.raises(BrokenError):
            fit(X, checkpoint=folder, executor=Breaking(int(part * total)))
        counting = Breaking(10**9)
        found = fit(X, checkpoint=folder, executor=counting)
        same(found, expected)
        assert found.report_["checkpoint"]["resumed"]
        saved.append(total - (10**9 - counting.left))
    # All but the steps since the last two on the sample, or the last pass.
    assert saved == sorted(saved) and saved[-1] > 0.8 * total, (saved, total)


def test_what_was_kept_of_the_start_is_dropped_at_its_end(tmp_path):
    X, _ = slow()
    seen = []
    put = FileJournal.put

    def spying(self, name, value, *, last=False):
        put(self, name, value, last=last)
        seen.append(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileJournal, "put", spying)
        fit(X, checkpoint=tmp_path)
    assert seen[0] == "sample" and seen.count("ladder") == 2 and seen.count("walk") > 1
    newest = max(tmp_path.iterdir())
    assert set(read_state(newest)["entries"]) == {"generator", "begin", "rows", "em"}
