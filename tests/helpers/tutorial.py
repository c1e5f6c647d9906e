"""The steps of the tutorial on other tables: the commands of the page, with the options that `data check` proposes.

``python -m tests.helpers.tutorial`` follows them on the five tables that are made here; the base install is enough.
``--write docs/tutorial.md`` puts the table of what came out into the page.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score

import streamgmm as sg
from tests.helpers.documents import blocks

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BEGIN, END = "<!-- begin:other-tables -->\n", "<!-- end:other-tables -->"
EXAMPLE = "visits.csv"
"""The table of the page."""


class Followed(NamedTuple):
    """What the steps led to."""

    check: str  # what `data check` said
    gm: sg.GaussianMixture
    codes: list[str]  # of the findings that `select` printed
    labels: np.ndarray
    said: str  # what `select` said


def commands() -> list[list[str]]:
    """The command lines of the page, in words."""
    texts = [text for _, language, text in blocks(PAGE) if language == "sh"]
    return [shlex.split(line) for text in texts for line in text.splitlines() if line.startswith("streamgmm ")]


def said_by(words: list[str]) -> str:
    """What a command says on stdout and stderr; it must end well."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    return f"{done.stdout}\n{done.stderr}"


def follow(table: str, more: str = "--k-max 6", columns: str = "") -> Followed:
    """Take the steps of the page in the present folder, and hold their results against each other.

    Parameters
    ----------
    table : what takes the place of the table of the page
    more : options of `select` beside those that `data check` proposes
    columns : options of `data` that leave columns out
    """
    check, proposed, selected = "", [], ""
    for words in commands():
        words = [table if word == EXAMPLE else word for word in words]
        if words[1] == "select":
            assert "--out chosen --proba soft.csv" in shlex.join(words)
            words = [*proposed, *shlex.split(more), "--out", "chosen", "--proba", "soft.csv"]
        said = said_by([*words, *shlex.split(columns)] if words[1] == "data" else words)
        if words[1:3] == ["data", "check"]:
            found = re.search(r"next: (streamgmm select .*?)   or   ", said)
            assert found, said
            check, proposed = said, shlex.split(found[1])
        selected = said if words[1] == "select" else selected
    assert "--report" in proposed and Path("chosen/report.html").stat().st_size < 3_000_000
    said_by(["streamgmm", "report", "chosen"])
    assert Path("chosen/chosen.html").exists()
    gm = sg.load("chosen/model.safetensors")
    names = getattr(gm, "feature_names_in_", None)
    source = sg.open_source(table, columns=None if names is None else list(names))
    codes = re.findall(r"(?m)^  ([a-z0-9-]+): ", selected.partition("diagnosed, the chosen K only")[2])
    assert codes == [finding.code for finding in sg.diagnose(gm, source)]
    labels, soft = np.loadtxt("labels.csv", skiprows=1), np.loadtxt("soft.csv", skiprows=1, delimiter=",", ndmin=2)
    density = np.loadtxt("density.csv", skiprows=1)
    document = json.loads(Path("chosen/report.json").read_text(encoding="utf-8"))
    assert len(labels) == len(soft) == len(density) == document["rows"] + document.get("dropped", 0)
    assert (soft.argmax(axis=1) == labels).all() and soft.shape[1] == gm.n_components
    assert abs(density.sum() / document["rows"] - gm.score(source)) < 1e-6
    return Followed(check, gm, codes, labels, selected)


class Made(NamedTuple):
    """A table that is made here, and what is to come out."""

    file: str
    words: str  # what it is like
    write: Callable[[str], np.ndarray]  # writes the file; the true group of each row
    check: tuple[str, ...]  # what `data check` says, among others
    K: int | None  # the K to be chosen; None where no K is right
    codes: tuple[str, ...]
    verdict: str
    columns: str = ""


def drawn(weights, means, deviations, n, seed):
    """Values (n, D) of separate Gaussians without correlations, in any order, and their groups (n,)."""
    rng = np.random.default_rng(seed)
    group = rng.choice(len(weights), size=n, p=weights)
    return np.array(means)[group] + rng.normal(size=(n, len(means[0]))) * np.array(deviations)[group], group


def orders(file: str) -> np.ndarray:
    """Orders of a shop as a spreadsheet writes them; amounts and weights over decades, unless in logarithms."""
    logs, group = drawn([0.7, 0.3], [[3.7, 0.4, 5], [7.8, 4.4, 12]], [[0.5, 0.6, 1], [0.8, 0.7, 2]], 1500, 0)
    values = logs.copy()
    if "log" not in file:
        values[:, :2] = np.exp(logs[:, :2])
    with open(file, "w", newline="", encoding="latin-1") as stream:
        table = csv.writer(stream, delimiter=";")
        table.writerow(["Auftrag", "Käufer", "Betrag", "Gewicht", "Rabatt"])
        for i, row in enumerate(values):
            cells = [f"{value:.4f}".replace(".", ",") for value in row]
            table.writerow([f"A-{i:05d}", f"Käufer {i % 97}", *cells])
    return group


def machines(file: str) -> np.ndarray:
    """Sensors of machines in three regimes, with a time, a name, SI units, and gaps."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values, group = drawn(
        [0.5, 0.4, 0.1],
        [[300, 101e3, 0.5, 2], [330, 140e3, 2, 12], [365, 150e3, 4.5, 15]],
        [[2, 1500, 0.1, 0.4], [3, 3000, 0.3, 1], [4, 3000, 0.6, 1.2]], 2400, 1,
    )  # fmt: skip
    values[:, 2:][np.random.default_rng(2).random((2400, 2)) < 0.08] = np.nan
    columns = {
        "time": pa.array(np.datetime64("2026-01-01", "s") + 60 * np.arange(2400)),
        "machine": [f"press {i % 7}" for i in range(2400)],
        **{
            name: pa.array(column, from_pandas=True)
            for name, column in zip(("temperature", "pressure", "vibration", "current"), values.T, strict=True)
        },
    }
    pq.write_table(pa.table(columns), file)
    return group


def survey(file: str) -> np.ndarray:
    """People by number, sex as 1 and 2, an answer from 1 to 5, and three measures of the body."""
    values, group = drawn([0.5, 0.5], [[178, 82, 48], [165, 66, 29]], [[6, 9, 6], [6, 8, 5]], 1200, 3)
    answers = np.random.default_rng(4).integers(1, 6, 1200)
    with open(file, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, delimiter="\t")
        table.writerow(["respondent_id", "sex", "mood", "height", "weight", "grip"])
        for i, row in enumerate(values):
            table.writerow([1000 + i, group[i] + 1, answers[i], *(f"{value:.1f}" for value in row)])
    return group


def moons(file: str) -> np.ndarray:
    """Two bent groups in single precision."""
    from sklearn.datasets import make_moons

    X, group = make_moons(3000, noise=0.06, random_state=5)
    np.save(file, X.astype(np.float32))
    return group


def cells(file: str) -> np.ndarray:
    """Twelve markers of five populations of cells, the smallest one twentieth, an empty channel and a name."""
    import pyarrow as pa
    import pyarrow.feather

    rng = np.random.default_rng(6)
    means = rng.choice([1.0, 4.0], size=(5, 12))
    values, group = drawn([0.4, 0.25, 0.2, 0.1, 0.05], means, np.full((5, 12), 0.5), 2500, 7)
    columns = {"well": [f"A{i % 12}" for i in range(2500)], "blank": np.zeros(2500)}
    columns |= {f"CD{j}": column for j, column in enumerate(values.T.astype(np.float32), 3)}
    pyarrow.feather.write_feather(pa.table(columns), file)
    return group


TABLES = (
    Made(
        "orders.csv", "semicolons, decimal commas, Latin-1, texts; amounts and weights over decades", orders,
        ("hold no numbers: Auftrag, Käufer", "Feature(s) Betrag, Gewicht are positive, skewed"), None, ("long-tails",),
        "not to be trusted before the tails are dealt with",
    ),
    Made(
        "orders_log.csv", "the same with logarithms of the two, as advised", orders,
        ("hold no numbers: Auftrag, Käufer",), 2, (), "right: private and wholesale buyers",
    ),
    Made(
        "machines.parquet", "a time, a name, SI units, 8 % of two sensors missing", machines,
        ("hold no numbers: time, machine", "values are missing", "add --scale"), 3, (), "right: idle, busy and hot",
    ),
    Made(
        "survey.tsv", "a number of the person, sex as 1 and 2, an answer from 1 to 5, three measures", survey,
        ("two values only, as codes have, so left out below: sex", "identifiers, so left out below: respondent_id"),
        None, ("categorical-columns",), "the answer is no measure",
    ),
    Made(
        "survey.tsv", "the same without the answer, as advised", survey,
        ("two values only, as codes have, so left out below: sex",), 2, (), "right: men and women", "--exclude mood",
    ),
    Made(
        "moons.npy", "two bent groups, single precision", moons, (), None, ("too-few-components", "not-gaussian"),
        "right: no K makes one component of a bent group",
    ),
    Made(
        "cells.feather", "a name, an empty channel, twelve markers in single precision", cells,
        ("hold no numbers: well", "the same in every row, so left out below: blank"), 5, (), "right: five populations",
    ),
)  # fmt: skip
"""Five tables, two of them once more after the remedy of the finding."""


def tried(one: Made) -> Followed:
    """Follow the steps on a table in the present folder; what comes out must be what is to come out."""
    group = one.write(one.file)
    done = follow(one.file, columns=one.columns)
    said = " ".join(done.check.split())
    assert all(words in said for words in one.check), (one.check, done.check)
    assert tuple(done.codes) == one.codes, done.said
    if one.K is not None:
        assert done.gm.n_components == one.K, done.said
        assert adjusted_rand_score(group, done.labels) > 0.9
    return done


def summary() -> str:
    """The table of the page."""
    lines = ["| table | what it is like | chosen K | finding | |", "|---|---|---|---|---|"]
    for one in TABLES:
        found = ", ".join(f"`{code}`" for code in one.codes) or "none"
        lines.append(f"| {one.file} | {one.words} | {one.K or '-'} | {found} | {one.verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="write the table into this page")
    page = parser.parse_args().write
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(before + BEGIN + summary() + END + rest.partition(END)[2], encoding="utf-8")
        return 0
    for one in TABLES:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            done = tried(one)
            print(f"{one.file} ({one.words}): K = {done.gm.n_components}, findings: {', '.join(done.codes) or 'none'}")
            os.chdir(PAGE.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
