"""The benchmark of the cluster runs, tiny, with a worker that dies."""

from __future__ import annotations

from benchmarks import cluster


def test_the_cluster_is_measured_and_tabled(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin:cluster -->\n<!-- end:cluster -->\n")
    tiny = ["--rows", "300000", "--components", "2", "--repeats", "1", "--empty", "40"]
    cluster.main([*tiny, "--workers", "2", "--deaths", "1", "--dir", str(tmp_path), "--readme", str(page)])
    text = page.read_text()
    assert "300,000 x 8 float64 in 10 chunks" in text and "40 chunks without work" in text
    assert "killed at a random moment" in text and "the same bits" in text and "1000 workers" in text
    assert list(tmp_path.iterdir()) == [page], "the rows are deleted"
