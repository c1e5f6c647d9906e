"""The line of progress: named phases, totals that are true, and a time left."""

from __future__ import annotations

import re

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.report.progress import ProgressLine, left_passes, showing
from streamgmm.utils.phases import Phase, watched


class Recorder(ProgressLine):
    """Keeps every line that could have been seen, and all phases."""

    def __init__(self, **given):
        super().__init__(**given)
        self.lines, self.phases = [], []

    def begin(self, phase):
        super().begin(phase)
        self.phases.append(phase)
        self.lines.append(self.text(200))

    def advance(self, unit, count):
        super().advance(unit, count)
        self.lines.append(self.text(200))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6000, 3)) + rng.choice([-6.0, 0.0, 6.0], size=(6000, 1))


def counts(lines, unit):
    """(done, total) of every line that counts these."""
    return [tuple(map(int, found.groups())) for line in lines if (found := re.search(rf"(\d+)/(\d+) {unit}", line))]


def test_chunks_are_those_of_the_data_in_every_phase_of_a_fit(rows, tmp_path):
    np.save(tmp_path / "x.npy", rows)
    source = sg.open_source(tmp_path / "x.npy", chunk_rows=300)
    gm = sg.GaussianMixture(3, n_init=3, random_state=0)
    line = Recorder(tol=gm.tol, max_iter=gm.max_iter)
    with watched(line):
        for step in gm.fit_steps(source):
            line.step(step)
    names = list(dict.fromkeys(phase.name for phase in line.phases))
    assert names[0] == "sampling the data" and {"EM on the sample", "pass"} <= set(names)
    assert {phase.total for phase in line.phases if phase.unit == "chunks"} == {20}
    seen = counts(line.lines, "chunks")
    assert seen and all(0 <= done <= 20 == total for done, total in seen)
    full = [text.partition(":")[0] for text in line.lines if "20/20 chunks" in text]
    passes = sorted({int(name.split()[1]) for name in full if name.startswith("pass ")})
    assert passes == list(range(1, gm.n_passes_))  # the first pass of all takes the sample


def test_select_counts_candidates_and_steps(rows):
    line = Recorder()
    with watched(line):
        sg.select(sg.open_source(rows, chunk_rows=500), range(1, 5), n_init=2, random_state=0, on_step=line.step)
    assert (4, 4) in counts(line.lines, "candidates")
    assert all(done <= total for done, total in counts(line.lines, r"\w+"))
    assert any(re.match(r"growing initial models: \d/3 components", text) for text in line.lines)
    assert any(text.startswith("EM on the sample: ") for text in line.lines)


def test_a_solver_that_works_on_the_sample_between_passes_counts_chunks_of_the_data(rows):
    for solver in ("squarem", "incremental", "stepwise", "exact"):
        source = sg.open_source(rows, chunk_rows=250)
        line = Recorder()
        with watched(line):
            sg.GaussianMixture(3, solver=solver, random_state=0, max_iter=8, tol=0.1).fit(source)
        assert all(done <= total == 24 for done, total in counts(line.lines, "chunks")), solver


def test_times_and_rates_are_those_of_the_phase():
    now = [0.0]
    line = ProgressLine(clock=lambda: now[0])
    line.begin(Phase("sampling the data", 23, rows=2_300_000))
    for _ in range(23):
        line.advance("chunks", 1)
    assert "rows/s" not in line.text(200)  # nothing is known after no time
    now[0] = 100.0
    line.begin(Phase("EM on the sample", 200, "steps"))
    for _ in range(509):
        line.advance("chunks", 1)
    line.advance("steps", 50)
    now[0] = 105.0
    assert line.text(200).startswith("EM on the sample: 50/200 steps [####............], 0:15 left, 1:45 so far")
    line.begin(Phase("pass", 23, rows=2_300_000))
    line.advance("chunks", 10)
    now[0] = 107.0
    assert line.text(200) == "pass 1: 10/23 chunks [######..........], 0:03 left, 500,000 rows/s, 1:47 so far"
    assert line.text(40) == "pass 1: 10/23 chunks, 0:03 left"
    assert line.text(10) == "pass 1: 10"


def test_passes_that_are_left():
    # Gains 0.1 * 0.5^i: after 4 of them 0.0125 are left, and each pass halves it.
    trace = np.cumsum([0.0, 0.1, 0.05, 0.025, 0.0125])
    assert left_passes(trace, 1e-3, None) == 4  # 0.0125 -> 0.00078
    assert left_passes(trace, 1e-3, 2) == 2
    assert left_passes([0.0, 0.1, 0.3], 1e-3, None) is None
    assert left_passes([0.0, 0.1], 1e-3, None) is None


def test_the_line_of_a_terminal_is_drawn_and_taken_away(rows):
    import io

    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, color_system=None)
    line = ProgressLine()
    with showing(line, console):
        sg.GaussianMixture(2, random_state=0).fit(sg.open_source(rows, chunk_rows=500))
    shown = [re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", part).strip("\r ") for part in re.split(r"[\r\n]", out.getvalue())]
    assert any(shown) and all(len(part) <= 60 for part in shown)
    quiet = io.StringIO()
    with showing(ProgressLine(), Console(file=quiet)):
        sg.GaussianMixture(2, random_state=0).fit(rows)
    assert quiet.getvalue() == ""


CALLS = {
    "GaussianMixture": lambda X, **v: sg.GaussianMixture(2, random_state=0, **v).fit(X),
    "BayesianGaussianMixture": lambda X, **v: sg.BayesianGaussianMixture(3, random_state=0, **v).fit(X),
    "KMeans": lambda X, **v: sg.KMeans(2, n_init=1, random_state=0, **v).fit(X),
    "select": lambda X, **v: sg.select(X, [1, 2], n_init=1, random_state=0, **v),
}


@pytest.fixture
def terminal(monkeypatch, capsys):
    """What a terminal would show; rich takes the captured stream for one."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")

    def read():
        out, err = capsys.readouterr()
        return out, [part for part in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", err)) if part.strip()]

    return read


@pytest.mark.parametrize("name", CALLS)
def test_verbose_shows_one_line_in_a_terminal(name, rows, terminal):
    source = sg.open_source(rows, chunk_rows=1000)
    CALLS[name](source)
    assert terminal() == ("", [])  # silent by default
    CALLS[name](source, verbose=1)
    out, lines = terminal()
    assert out == "" and re.match(r"pass \d+: 6/6 chunks", lines[-1])
    if name != "KMeans":
        assert "log-likelihood -" in lines[-1]


@pytest.mark.parametrize("name", ["GaussianMixture", "KMeans"])
def test_two_asks_for_printed_lines_everywhere(name, rows, terminal):
    CALLS[name](rows, verbose=2)
    out, lines = terminal()
    assert "Iteration" in out and not lines


def test_a_context_shows_every_long_call(rows, terminal):
    source = sg.open_source(rows, chunk_rows=1000)
    with sg.progress():
        gm = CALLS["GaussianMixture"](source, verbose=1)  # draws no line of its own
        sg.cluster_scores(gm, source)
    assert terminal()[1][-1].startswith("distances: 6/6 chunks")
    for call, words in (
        (lambda: sg.describe(gm, source), "counting rows: 6/6 chunks"),
        (lambda: sg.diagnose(gm, source), "shapes of components: 2/2 components"),
        (lambda: gm.score(source), "scoring: 6/6 chunks"),
        (lambda: gm.predict(source, out=np.empty(6000, int)), "reading and answering: 6/6 chunks"),
    ):
        with sg.progress():
            call()
        assert terminal()[1][-1].startswith(words)


def test_elsewhere_a_context_shows_nothing(rows, capsys):
    with sg.progress():
        CALLS["GaussianMixture"](rows)
    assert capsys.readouterr() == ("", "")


def test_the_line_of_a_notebook_is_drawn_anew_in_its_place(rows, monkeypatch):
    display = pytest.importorskip("IPython.display", reason="IPython is not installed")
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def fake(data, *, raw, display_id):
        assert raw and display_id
        shown.append(data["text/plain"])
        return Handle()

    from rich.console import Console

    monkeypatch.setattr(display, "display", fake)
    monkeypatch.setattr("streamgmm.report.progress._NotebookLine.EVERY", 0.0)
    with showing(ProgressLine(), Console(force_jupyter=True), transient=False):
        sg.GaussianMixture(2, random_state=0).fit(sg.open_source(rows, chunk_rows=1000))
    assert shown[0] == "starting" and any(text.startswith("sampling the data: 3/6 chunks") for text in shown)
    assert re.match(r"pass \d+: 6/6 chunks.*log-likelihood -", shown[-1])
