"""The notebook runs from top to bottom in a kernel of its own, and its cells show tables and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'streamgmm[test]'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'streamgmm[test]'")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"

SHOWN = {
    "found": "Selection", "gm": "GaussianMixture", "gm.report_": "Report of the fit", "explained": "3 components",
    "sg.diagnose(gm, X)": "finding", "sg.cluster_scores(gm, X)": "Cluster scores",
    "sg.open_source(path, chunk_rows=50)": "rows.npy", "sg.KMeans(3, random_state=0).fit(X)": "deviation within",
    "sg.OutlierDetector(range(1, 4), contamination=0.02, random_state=0).fit(X)": "below the threshold of",
}  # fmt: skip
"""Last lines of cells that show HTML, and what it says."""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    folder = str(tmp_path_factory.mktemp("notebook"))
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": folder}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cell, kind):
    return [out.data[kind] for out in cell.outputs if kind in out.get("data", {})]


def test_cells_show_html(executed):
    shown = {cell.source.splitlines()[-1]: outputs(cell, "text/html") for cell in executed}
    for line, words in SHOWN.items():
        assert len(shown[line]) == 1 and 'class="streamgmm"' in shown[line][0], line
        assert words.lower() in shown[line][0].lower()
    drawn = ("found", "gm", *(line for line in SHOWN if line.startswith(("sg.KMeans", "sg.OutlierDetector"))))
    assert sum("<svg" in shown[line][0] for line in drawn) == len(drawn) == 4
    assert "sk-" in shown["gm"][0]  # scikit-learn's diagram beside it


def test_a_fit_shows_its_progress_in_one_line(executed):
    [cell] = [cell for cell in executed if "verbose=1" in cell.source]
    [line] = [text for text in outputs(cell, "text/plain") if text.startswith("pass ")]
    assert "log-likelihood -" in line and "\n" not in line


def test_cells_show_pictures(executed):
    drawn = [cell for cell in executed if ".plot(" in cell.source]
    assert len(drawn) == 4
    for cell in drawn:
        assert len(outputs(cell, "image/png")) == 1


def test_nothing_is_written_to_the_error_stream(executed):
    assert not [out for cell in executed for out in cell.outputs if out.get("name") == "stderr"]
