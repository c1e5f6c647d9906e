"""The benchmarks of the cluster and of larger than memory run, tiny, with a worker that dies."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.costs import cluster, out_of_core
from streamgmm.runtime.thread_limits import available_cores


def test_the_cluster_is_measured_and_tabled(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin:cluster -->\n<!-- end:cluster -->\n")
    tiny = ["--rows", "300000", "--components", "2", "--repeats", "1", "--empty", "40"]
    cluster.main([*tiny, "--workers", "2", "--deaths", "1", "--dir", str(tmp_path), "--write", str(page)])
    text = page.read_text()
    assert "300,000 x 8 float64 in 10 chunks" in text and "40 chunks without work" in text
    assert "killed at a random moment" in text and "the same bits" in text and "1000 workers" in text
    assert list(tmp_path.iterdir()) == [page], "the rows are deleted"


def test_out_of_core_fits_within_its_limit(tmp_path):
    rows = out_of_core.write_store(tmp_path / "rows.zarr", 0.01)
    figures = out_of_core.fit(str(tmp_path / "rows.zarr"), "200MB", 2)
    assert rows == 156_250 and figures["memory"]["limit"] == 200_000_000
    assert figures["seconds"] > 0 and np.isfinite(figures["lower_bound"])


def test_busy_share_counts_this_process_and_the_others():
    marks = [out_of_core.Mark(0.0, 0.0, 0.0), out_of_core.Mark(1.0, 0.5, 1.0), out_of_core.Mark(3.0, 2.5, 4.0)]
    own, others = out_of_core.busy_share(marks, 0.5)
    assert own * available_cores() == pytest.approx(1.0) and others * available_cores() == pytest.approx(0.5)
    assert out_of_core.busy_share(marks, 2.0) is None
    assert "?" in out_of_core.percent(None)
