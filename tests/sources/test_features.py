"""What a fit takes of a table: text is left out and told, at the shell and in Python, wherever it turns up."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest

import streamgmm as sg
from streamgmm.errors import LateTextError
from streamgmm.sources.features import identifiers, open_features
from streamgmm.sources.formats.tables import NotNumbersError

X = np.random.default_rng(3).normal(size=(120, 2)).round(4)


@pytest.fixture
def penguins(tmp_path):
    """A table like palmerpenguins: text beside numbers."""
    frame = pd.DataFrame({"species": ["Adelie", "Gentoo"] * 60, "bill": X[:, 0], "island": "Dream", "mass": X[:, 1]})
    frame.to_csv(tmp_path / "penguins.csv", index=False)
    frame.to_parquet(tmp_path / "penguins.parquet")
    return tmp_path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_python_leaves_out_text_as_the_shell_does(cli, penguins, caplog, suffix):
    path = str(penguins / f"penguins.{suffix}")
    with caplog.at_level(logging.WARNING):
        gm = sg.GaussianMixture(2, random_state=0).fit(path)
    assert "left out the columns species, island, which hold no numbers" in caplog.text
    assert list(gm.feature_names_in_) == ["bill", "mass"]
    code, out, err = cli("fit", path, "-k", 2, "--out", "m", "--json")
    assert code == 0 and "left out, because they hold no numbers: species, island. Used: bill, mass." in err
    assert json.loads(out)["means"] == pytest.approx(gm.means_, abs=1e-12)
    # a model that was loaded answers for the file as it is
    labels = np.concatenate(list(sg.load("m").predict(path)))
    np.testing.assert_array_equal(labels, gm.predict(pd.DataFrame(X, columns=["bill", "mass"])))
    assert sg.load("m").score(path) == pytest.approx(gm.lower_bound_, abs=1e-6)
    assert sg.select(path, range(1, 3), n_init=1, random_state=0).best.n_features_in_ == 2
    assert sg.KMeans(2, random_state=0).fit(path).cluster_centers_.shape == (2, 2)
    assert sg.Scaler().fit(path).mean_ == pytest.approx(X.mean(axis=0))
    assert sg.OutlierDetector(2, random_state=0).fit(path).n_features_in_ == 2


def test_named_columns_and_tables_of_words_are_refused(penguins):
    with pytest.raises(NotNumbersError, match="'species' holds text"):
        sg.open_source(penguins / "penguins.csv")
    with pytest.raises(NotNumbersError, match="'species' holds text"):
        open_features(penguins / "penguins.csv", columns=["species", "bill"])
    (penguins / "w.csv").write_text("a,b\nred,x\nblue,y\n")
    with pytest.raises(NotNumbersError, match="No other column holds numbers"):
        sg.GaussianMixture().fit(str(penguins / "w.csv"))


@pytest.fixture
def late(tmp_path):
    """Grades that are numbers in the first 100,000 bytes, and words in one or many lines after them."""

    def write(at, name="late.csv", weight=False):
        rows = [f"{i % 17}.5,{i % 5},{(i * 7) % 11}.25" for i in range(20_000)]
        for i in at:
            rows[i] = rows[i].split(",")[0] + ",Ex," + rows[i].split(",")[2]
        head = "a,w,b" if weight else "a,grade,b"
        (tmp_path / name).write_text("\n".join([head, *rows]) + "\n")
        return tmp_path / name

    return write


@pytest.mark.parametrize("at", [[11_234], range(11_000, 11_300)])
def test_text_that_turns_up_far_down_is_left_out_with_a_note(cli, late, caplog, at):
    path = late(at)
    with caplog.at_level(logging.WARNING):
        gm = sg.GaussianMixture(2, random_state=0, tol=1e-2).fit(str(path))
    assert list(gm.feature_names_in_) == ["a", "b"]
    assert f"column 'grade' holds text (line {at[0] + 2}: 'Ex'), so it is left out" in caplog.text
    assert "left out the columns grade, which hold no numbers" in caplog.text
    path.touch()  # another state of the file: nothing is remembered of it
    steps = list(sg.GaussianMixture(2, random_state=0, tol=1e-2).fit_steps(str(path)))
    assert steps[-1].candidates[0].model.n_features == 2
    path.touch()
    for command in (["fit", "-k", 2, "--set", "tol=1e-2"], ["fit", "-k", 2, "--scale", "--set", "tol=1e-2"],
                    ["select", "--k-max", 2, "--set", "n_init=1"]):  # fmt: skip
        path.touch()
        code, _, err = cli(command[0], path, *command[1:])
        assert code in (0, 3) and err.count("column 'grade' holds text") == 1
        assert "left out, because they hold no numbers: grade. Used: a, b." in err
    path.touch()
    code, out, err = cli("data", "check", path, "--json")
    assert code == 0 and set(json.loads(out)["min"]) == {"a", "b"} and "'grade' holds text" in err


def test_a_column_that_was_named_is_an_error_where_text_turns_up(cli, late):
    path = late([11_234])
    source = sg.open_source(path, columns=["a", "grade"])
    with pytest.raises(LateTextError, match="line 11236, column 'grade': expected a number, found 'Ex'"):
        sg.GaussianMixture().fit(source)
    code, _, err = cli("fit", path, "--columns", "a,grade")
    assert code == 1 and "line 11236, column 'grade': expected a number, found 'Ex'" in err and "left out" not in err
    assert cli("fit", path, "--exclude", "grade")[0] == 0
    weighted = late([11_234], "weighted.csv", weight=True)
    code, _, err = cli("fit", weighted, "--set", "weight=w")
    assert code == 1 and "column 'w': expected a number, found 'Ex'" in err


def test_text_in_the_second_of_several_files(cli, late, tmp_path):
    first, second = late([], "1.csv"), late([11_234], "2.csv")
    gm = sg.GaussianMixture(random_state=0).fit([str(first), str(second)])
    assert list(gm.feature_names_in_) == ["a", "b"] and gm.report_["rows"] == 40_000
    second.touch()
    code, out, _ = cli("fit", first, second, "--json")
    assert code == 0 and json.loads(out)["feature_names"] == ["a", "b"]


@pytest.mark.parametrize("cell", ["?", '"3,750"', "NA", "-", '"1,003,750.5"'])
def test_one_odd_cell_does_not_make_a_column_text(cli, tmp_path, cell):
    lines = [f"{a},{b}" for a, b in X[:30].tolist()]
    lines[4] = f"1.5,{cell}"
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *lines]))
    gm = sg.GaussianMixture(missing="marginalize", random_state=0).fit(str(tmp_path / "t.csv"))
    assert list(gm.feature_names_in_) == ["a", "b"] and gm.report_["rows"] == 30
    code, _, err = cli("fit", "t.csv", "--set", "missing=marginalize")
    assert code == 0 and "hold no numbers" not in err


def test_row_numbers_and_identifiers_get_a_notice(cli, tmp_path, caplog):
    n = np.arange(120)
    for name in ("PassengerId", "customer_id", "ID", "rownum", "Row No", "PID"):
        frame = pd.DataFrame({name: 1000 + 7 * n, "a": X[:, 0], "b": X[:, 1]})
        frame.to_csv(tmp_path / "t.csv", index=False)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            sg.GaussianMixture(random_state=0).fit(str(tmp_path / "t.csv"))
        assert f"{name} look like row numbers or identifiers" in caplog.text
        code, _, err = cli("fit", "t.csv")
        assert code == 0 and f"note: {name} looks like row numbers or identifiers" in err and "--exclude" in err
    assert "looks like" not in cli("fit", "t.csv", "--columns", "PID,a")[2]


def test_what_is_no_identifier_gets_none(tmp_path):
    n = np.arange(120)
    for column in (("valid", 5 * n), ("width", n), ("id", n % 60), ("id", X[:, 0]), ("humid", n), ("kidney", n)):
        pd.DataFrame({column[0]: column[1], "a": X[:, 0]}).to_csv(tmp_path / "t.csv", index=False)
        assert identifiers(sg.open_source(tmp_path / "t.csv")) == []
