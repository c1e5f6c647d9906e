"""Few calls lead from `fit` and `predict` to the rows, and the contributors' page lists them as they are traced.

``python -m tests.test_tour`` writes the tables; the lines may drift a little between two writings.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.kernels.plain import reference
from streamgmm.sources.base import Chunk
from streamgmm.sources.formats.array import ArrayChunk
from streamgmm.sources.formats.npy import FileChunk

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "streamgmm"
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- tour -->\n", "<!-- end of tour -->\n"
DRIFT = 80
"""Lines that a function may have moved since the tables were written."""

WORDS = {
    "leaving_out_text": "fits again without a column that turns out to be text",
    "MixtureEstimator.fit": "makes a source and an executor, takes the steps",
    "MixtureEstimator._steps": "memory, journal, initialization, then pass by pass",
    "GaussianMixture._begin": "settings of the initialization, or the last fit with `warm_start`",
    "begin": "what to begin with: given parameters, a sample, first models",
    "survey": "the first pass: sample, mean and covariance",
    "survey_chunk": "loads the rows of a chunk; its sample and moments",
    "passes": "stages, each a variant of EM with its update",
    "em": "the loop: blocks of chunks become statistics, those the next models",
    "Threads.run": "threads take chunks, and add values to the fold",
    "in_all": "the size of the whole pass, which decides between NumPy and compiled code",
    "e_step": "loads the rows of a chunk; every model takes its statistics of them",
    "Mixture.frame_stats": "pieces of at most 131,072 rows; raw sums become `Stats`",
    "Fitted.predict": "what answers, and where: here or on a graphics card",
    "Reader._ask": "X as a source; an array for arrays, an iterator or a lazy collection for others",
    "Threads.map": "a few chunks ahead are in work",
    "answer": "loads the rows of a chunk, and asks the model",
    "Mixture.labels": "checks the rows",
    "answers": "room for the answers, and the kernel of the family",
    "run": "the form of the kernel, which reads the rows",
}  # fmt: skip


class Trail:
    """Calls that were on the way when a chunk was loaded or a kernel began, for the first time."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[str, str, int]]] = {}

    def mark(self, place: str) -> None:
        frame, calls = sys._getframe(2), []
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(str(PACKAGE)) and "<genexpr>" not in code.co_qualname:
                file = Path(code.co_filename).relative_to(PACKAGE).as_posix()
                calls.append((file, code.co_qualname.partition(".<locals>")[0], code.co_firstlineno))
            frame = frame.f_back
        self.found.setdefault(place, calls[::-1])


def followed(patch: pytest.MonkeyPatch) -> Trail:
    trail, run = Trail(), reference.run

    def marking(plan, *arguments, **options):
        trail.mark("kernel")
        return run(plan, *arguments, **options)

    patch.setattr(reference, "run", marking)
    for kind in (ArrayChunk, FileChunk):

        def load(self: Chunk, real=kind.load):
            trail.mark("rows")
            return real(self)

        patch.setattr(kind, "load", load)
    return trail


def fitted(X, n_jobs: int):
    given = {"weights_init": [0.5, 0.5], "means_init": [[0.0], [4.0]], "precisions_init": [[[1.0]], [[1.0]]]}
    return sg.GaussianMixture(2, n_jobs=n_jobs, max_iter=1, tol=0.0, **given).fit(X)


def rows(many: bool):
    return np.random.default_rng(0).normal(size=(9000 if many else 60, 1))


@pytest.mark.parametrize("where", ["array", "path"])
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_few_calls_lead_to_the_rows(where, n_jobs, tmp_path, monkeypatch):
    X = rows(many=True)
    np.save(tmp_path / "rows.npy", X)
    source = sg.open_source(X if where == "array" else tmp_path / "rows.npy", chunk_rows=3000)
    gm = fitted(X, n_jobs)
    monkeypatch.setenv("STREAMGMM_KERNELS", "reference")
    fast = {"n_jobs": n_jobs, "max_iter": 1, "random_state": 0}
    asked = {
        "fit": (lambda data: sg.GaussianMixture(2, **fast, solver="exact").fit(data), 14, 8),
        "fit, given": (lambda data: fitted(data, n_jobs), 14, 8),
        "predict": (lambda data: np.concatenate(list(gm.predict(data))), 8, 5),
        "predict_proba": (lambda data: list(gm.predict_proba(data)), 8, 5),
        "score_samples": (lambda data: list(gm.score_samples(data)), 8, 5),
    }
    if where == "array":
        asked |= {
            "predict, array": (lambda _: gm.predict(X), 8, 5),
            "score, array": (lambda _: gm.score_samples(X), 8, 5),
        }
    for name, (call, most_calls, most_files) in asked.items():
        with pytest.MonkeyPatch.context() as patch:
            trail = followed(patch)
            call(source)
        assert {"rows", "kernel"} == trail.found.keys()
        for calls in trail.found.values():
            assert len(calls) <= most_calls and len({file for file, _, _ in calls}) <= most_files, (name, calls)


def tours() -> dict[str, list[tuple[str, str, int]]]:
    """Calls in one thread: to the first rows that `fit` loads, and to the kernels."""
    X = rows(many=False)
    with pytest.MonkeyPatch.context() as patch:
        trail = followed(patch)
        gm = sg.GaussianMixture(2, n_jobs=1, max_iter=1, tol=1e9, random_state=0).fit(X)
        first = trail.found["rows"]
        trail.found.clear()
        fitted(X, 1)
        kernel = trail.found["kernel"]
        trail.found.clear()
        gm.predict(X)
        return {
            "From `fit` to the first rows": first,
            "From `fit` to the kernels": kernel,
            "From `predict` to the kernels": trail.found["kernel"],
        }


def written() -> str:
    parts = []
    for title, calls in tours().items():
        files = len({file for file, _, _ in calls})
        parts.append(
            f"{title}: {len(calls)} calls in {files} files.\n\n| call | place | what it does |\n|---|---|---|\n"
        )
        parts += [f"| `{name}` | `{file}:{line}` | {WORDS[name]} |\n" for file, name, line in calls]
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def without_lines(text: str) -> str:
    return re.sub(r"(\.py):\d+", r"\1", text)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_page_shows_the_calls_with_file_and_line():
    stands = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    now = written()
    assert without_lines(stands) == without_lines(now), "python -m tests.test_tour"
    lines = [[int(n) for n in re.findall(r"\.py:(\d+)", text)] for text in (stands, now)]
    assert all(abs(a - b) <= DRIFT for a, b in zip(*lines, strict=True)), "python -m tests.test_tour"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + written() + END + rest.partition(END)[2], encoding="utf-8")
