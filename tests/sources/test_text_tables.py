"""Text tables as people have them: every dialect gives the right rows, or one clear error."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

import streamgmm as sg
from streamgmm.errors import ChunkReadError
from streamgmm.sources.formats.tables import NotNumbersError

X = np.random.default_rng(0).normal(size=(100, 3)).round(5)
ROWS = [",".join(map(repr, row)) for row in X.tolist()]
HEADED = "a,b,c\n" + "\n".join(ROWS) + "\n"


def rows_of(source):
    return np.concatenate([chunk.load()[0] for chunk in source.chunks()])


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


SAME = {
    "commas": HEADED,
    "carriage returns": HEADED.replace("\n", "\r"),
    "both": HEADED.replace("\n", "\r\n"),
    "mixed line ends": HEADED.replace("\n", "\r\n", 20).replace("\n", "\r", 10),
    "no line end": HEADED[:-1],
    "tabs": HEADED.replace(",", "\t"),
    "semicolons": HEADED.replace(",", ";"),
    "bars": HEADED.replace(",", "|"),
    "bars at both ends": "\n".join(f"|{line}|" for line in HEADED.replace(",", "|").splitlines()),
    "blanks": HEADED.replace(",", " "),
    "runs of blanks": "\n".join(f"  {line} " for line in HEADED.replace(",", "    ").splitlines()),
    "blanks and tabs": HEADED.replace(",", " \t "),
    "commas and blanks": HEADED.replace(",", " , "),
    "decimal commas": HEADED.replace(",", ";").replace(".", ","),
    "decimal commas and tabs": HEADED.replace(",", "\t").replace(".", ","),
    "quoted decimal commas": "\n".join(
        ",".join(f'"{field}"'.replace(".", ",") for field in line.split(",")) for line in HEADED.splitlines()
    ),
    "comments above": "# made by x\n# run 2, of 3\n" + HEADED,
    "names in a comment": "# " + HEADED,
    "comments between": HEADED.replace("\n", "\n# a, b\n", 3),
    "comments of as many fields": "#1,2,3\n" + HEADED.replace("\n", "\n#1,2,3\n", 3),
    "empty lines above": "\n\n" + HEADED,
    "blank lines between": HEADED.replace("\n", "\n  \n\t\n", 5),
    "commas at all ends": HEADED.replace("\n", ",\n"),
    "commas at the ends of rows": HEADED.replace("\n", ",\n").replace("c,", "c", 1),
    "quotes around all": "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in HEADED.splitlines()),
    "blanks before quotes": '"a", "b", "c"\n' + "\n".join(row.replace(",", ", ") for row in ROWS),
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("size", [4 * 2**20, 333])
def test_the_same_rows_in_every_dialect(tmp_path, monkeypatch, kind, size):
    monkeypatch.setattr("streamgmm.sources.formats.csv.CHUNK_BYTES", size)
    source = sg.open_source(write(tmp_path / "t.csv", SAME[kind]))
    assert source.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(rows_of(source), X)
    counted = sg.open_source(tmp_path / "t.csv", chunk_rows=7)
    assert counted.n_rows == 100 and counted.max_chunk_rows == 7
    np.testing.assert_array_equal(rows_of(counted), X)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings(tmp_path, monkeypatch, encoding, line_end):
    monkeypatch.setattr("streamgmm.sources.formats.csv.CHUNK_BYTES", 500)
    text = HEADED.replace("a,b,c", "Größe,b,c").replace("\n", line_end)
    source = sg.open_source(write(tmp_path / "t.csv", text, encoding))
    assert source.feature_names == ("Größe", "b", "c") and source.n_chunks > 4
    np.testing.assert_array_equal(rows_of(source), X)
    assert sg.open_source(tmp_path / "t.csv", chunk_rows=9).n_rows == 100


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_lines_end_nowhere_else(tmp_path, mark):
    lines = ["x,note,y", *(f"{a},n,{b}" for a, b in X[:, :2].tolist())]
    lines[50] = lines[50].replace("n", f"wait{mark}more")
    write(tmp_path / "t.csv", "\n".join(lines))
    np.testing.assert_array_equal(rows_of(sg.open_source(tmp_path / "t.csv", columns=["x", "y"])), X[:, :2])


@pytest.mark.parametrize("note", ["two\nlines", "1,2,3\n4,5,6", 'a ""quoted""\r\nword', ',"",\n', "\n\n"])
def test_line_ends_in_quotes_wherever_a_chunk_is_cut(tmp_path, monkeypatch, note):
    text = "a,note,b\n" + "".join(f'{a},"{note}",{b}\n' for a, b in X[:40, :2].tolist())
    write(tmp_path / "t.csv", text)
    for size in range(60, 120):
        monkeypatch.setattr("streamgmm.sources.formats.csv.CHUNK_BYTES", size)
        np.testing.assert_array_equal(rows_of(sg.open_source(tmp_path / "t.csv", columns=["a", "b"])), X[:40, :2])
    assert sg.open_source(tmp_path / "t.csv", columns=["a", "b"], chunk_rows=3).n_rows == 40


def test_a_header_longer_than_the_look(tmp_path):
    names = [f"column_{i:05d}_{'x' * 30}" for i in range(3000)]
    table = np.arange(6000.0).reshape(2, 3000) + 0.5
    text = "\n".join([",".join(names), *(",".join(map(repr, row)) for row in table.tolist())])
    source = sg.open_source(write(tmp_path / "t.csv", text))
    assert source.n_features == 3000 and source.feature_names[-1] == names[-1]
    np.testing.assert_array_equal(rows_of(source), table)


def test_a_file_of_carriage_returns_is_read_from_its_beginning(tmp_path):
    big = np.arange(60_000.0).reshape(-1, 2) + 0.25
    text = "a,b\r" + "\r".join(f"{a},{b}" for a, b in big.tolist()) + "\r"
    np.testing.assert_array_equal(rows_of(sg.open_source(write(tmp_path / "t.csv", text))), big)


# Headers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "index"), [(None, False), ([2001, 2002, 2003], False), (None, True), ([10, 20, 50], False)]
)
def test_headers_of_numbers(tmp_path, caplog, columns, index):
    frame = pd.DataFrame(X, columns=columns)
    frame.to_csv(tmp_path / "t.csv", index=index)
    source = sg.open_source(tmp_path / "t.csv")
    assert source.feature_names == tuple(map(str, frame.columns))
    assert "was taken for the names of the columns; if it is data: header=False" in caplog.text
    np.testing.assert_array_equal(rows_of(source), X)
    gm = sg.GaussianMixture(1).fit(tmp_path / "t.csv")
    assert gm.report_["rows"] == 100
    np.testing.assert_allclose(gm.means_[0], X.mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "text",
    ["0,1,2\n3,4,5\n6,7,8\n", "1,2\n3,4\n", "5.1,3.5,setosa\n4.9,3,setosa\n", "7,1,4\n2,2,2\n", "0.5,1\n2,3.5\n"],
)
def test_first_rows_that_are_data(tmp_path, text):
    source = sg.open_source(write(tmp_path / "t.csv", text), columns=[0, 1])
    assert source.feature_names is None
    expected = [list(map(float, line.split(",")[:2])) for line in text.splitlines()]
    np.testing.assert_array_equal(rows_of(source), expected)


def test_the_user_has_the_last_word_on_the_header(tmp_path, caplog):
    write(tmp_path / "t.csv", "1,2\n3,4\n")
    source = sg.open_source(tmp_path / "t.csv", header=True)
    assert source.feature_names == ("1", "2")
    np.testing.assert_array_equal(rows_of(source), [[3, 4]])
    write(tmp_path / "u.csv", "0,1,2\n.5,.5,.5\n")
    caplog.clear()
    source = sg.open_source(tmp_path / "u.csv", header=False)
    np.testing.assert_array_equal(rows_of(source), [[0, 1, 2], [0.5, 0.5, 0.5]])
    assert not caplog.text
    with pytest.raises(ValueError, match="header must be True, False or None"):
        sg.open_source(tmp_path / "u.csv", header=3)


# Fields ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a,b\n"1,234.50",1\n"12",2\n"-1,000,000",3\n', [[1234.5, 1], [12, 2], [-1e6, 3]]),
        ('a;b\n1.234,5;1\n"1.000.000,25";2\n', [[1234.5, 1], [1000000.25, 2]]),
        ("a;b\n1,234.5;1\n2,000;2\n", [[1234.5, 1], [2000, 2]]),
        ("a,b\nTrue,1.5\nFalse,2\n", [[1, 1.5], [0, 2]]),
        ("a,b\ntrue,1.5\n,2\n", [[1, 1.5], [np.nan, 2]]),
        ("a,b\nTRUE,FALSE\nFALSE,FALSE\n", [[1, 0], [0, 0]]),
        ("a,b\n1,?\n2,5\n", [[1, np.nan], [2, 5]]),
        ("a,b\n1,\\N\n2,5\n", [[1, np.nan], [2, 5]]),
        ("a,b\n1, NA \n2,.\n3,-\n4,null\n5,6\n", [[1, np.nan], [2, np.nan], [3, np.nan], [4, np.nan], [5, 6]]),
        ("a;b\n1,234;5\n2,5;6\n", [[1.234, 5], [2.5, 6]]),
    ],
)
def test_what_fields_mean(tmp_path, text, expected):
    np.testing.assert_array_equal(rows_of(sg.open_source(write(tmp_path / "t.csv", text))), expected)


def test_one_odd_field_is_an_error_with_a_remedy_that_works(tmp_path):
    lines = ["a,b", *(f"{a},{b}" for a, b in X[:, :2].tolist())]
    for odd in ("Ex", "1_000", "0x10", "1.5.2", "12:30"):
        lines[60] = f"1.5,{odd}"
        write(tmp_path / "t.csv", "\n".join(lines))
        with pytest.raises(ChunkReadError, match=rf"line 61, column 'b': .*{odd}.* exclude=\['b'\]") as caught:
            rows_of(sg.open_source(tmp_path / "t.csv"))
        assert str(tmp_path / "t.csv") in str(caught.value)
        assert sg.open_source(tmp_path / "t.csv", exclude=["b"]).feature_names == ("a",)
    lines[60] = '1.5,"3,750"'
    write(tmp_path / "t.csv", "\n".join(lines))
    assert rows_of(sg.open_source(tmp_path / "t.csv"))[59, 1] == 3750


def test_comments_that_only_come_further_down(tmp_path):
    lines = ["a,b", *["1.5,2.5"] * 30_000, "# restart", "3,4", *["1.5,2.5"] * 500, "5,Ex"]
    write(tmp_path / "t.csv", "\n".join(lines[:-1]))
    assert len(rows_of(sg.open_source(tmp_path / "t.csv"))) == 30_501
    assert sg.open_source(tmp_path / "t.csv", chunk_rows=1000).n_rows == 30_501
    assert len(rows_of(sg.open_source(tmp_path / "t.csv", chunk_rows=1000))) == 30_501
    write(tmp_path / "t.csv", "\n".join(lines))
    with pytest.raises(ChunkReadError, match=f"line {len(lines)}, column 'b': expected a number, found 'Ex'"):
        rows_of(sg.open_source(tmp_path / "t.csv"))


def test_lines_of_errors_are_counted_as_editors_do(tmp_path, monkeypatch):
    monkeypatch.setattr("streamgmm.sources.formats.csv.CHUNK_BYTES", 100)
    for end in ("\n", "\r\n", "\r"):
        lines = ["# c", "", "a,b", *["1.5,2.5"] * 60, "1,Ex", "3,4"]
        write(tmp_path / "t.csv", end.join(lines))
        with pytest.raises(ChunkReadError, match="line 64, column 'b'"):
            rows_of(sg.open_source(tmp_path / "t.csv"))


def test_columns_that_are_empty_where_one_looks_are_left_out_unless_named(tmp_path):
    lines = ["a,pool", *["1.5,NA"] * 30_000, "2,Ex", *["1.5,NA"] * 20_000]
    write(tmp_path / "t.csv", "\n".join(lines))
    with pytest.raises(NotNumbersError, match="'pool' holds no value in any of the lines looked at") as caught:
        sg.open_source(tmp_path / "t.csv")
    assert caught.value.numeric == ["a"]
    with pytest.raises(ChunkReadError, match="line 30002, column 'pool': expected a number, found 'Ex'"):
        rows_of(sg.open_source(tmp_path / "t.csv", columns=["pool"]))


def test_exclude(tmp_path):
    path = write(tmp_path / "t.csv", HEADED)
    assert sg.open_source(path, exclude="b").feature_names == ("a", "c")
    assert sg.open_source(path, exclude=["a", 2]).feature_names == ("b",)
    assert sg.open_source(X, exclude=[1]).n_features == 2
    assert sg.open_source(pd.DataFrame(X, columns=list("abc")), exclude=["c"]).feature_names == ("a", "b")
    with pytest.raises(ValueError, match="no column 'd'; expected some of 'a', 'b', 'c'"):
        sg.open_source(path, exclude=["d"])
    with pytest.raises(ValueError, match="give one of the two"):
        sg.open_source(path, columns=["a"], exclude=["b"])
    with pytest.raises(ValueError, match="0 feature"):
        sg.open_source(path, exclude=["a", "b", "c"])
    text = write(tmp_path / "u.csv", "a,t,u,c\n1,x,y,2\n3,x,y,4\n")
    np.testing.assert_array_equal(rows_of(sg.open_source(text, exclude=["t", "u"])), [[1, 2], [3, 4]])
    with pytest.raises(NotNumbersError) as caught:
        sg.open_source(text, exclude=["t", "a"])
    assert (caught.value.numeric, caught.value.other) == (["c"], ["u"])


def test_reads_that_fail_for_a_moment_are_tried_again(tmp_path, monkeypatch):
    import errno

    import streamgmm.sources.formats.csv as module

    monkeypatch.setattr("streamgmm.sources.retry._PAUSES", (0, 0, 0))
    path = write(tmp_path / "t.csv", HEADED)
    real, failures = module.lines_between, []

    def flaky(*args):
        if len(failures) < 2:
            failures.append(args)
            raise OSError(errno.ETIMEDOUT, "timed out")
        return real(*args)

    source = sg.open_source(path)
    monkeypatch.setattr(module, "lines_between", flaky)
    np.testing.assert_array_equal(rows_of(source), X)
    assert len(failures) == 2
    monkeypatch.setattr("streamgmm.sources.formats.csv_records.read_into", lambda file, into: 5)
    with pytest.raises(ChunkReadError, match="cannot be read"):
        rows_of(source)
    monkeypatch.setattr(module, "_head", lambda path, size: (_ for _ in ()).throw(OSError(errno.EACCES, "no")))
    with pytest.raises(ChunkReadError) as caught:
        sg.open_source(path)
    assert str(path) in str(caught.value)


def test_no_notice_without_a_doubt(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        sg.open_source(write(tmp_path / "t.csv", HEADED))
        sg.open_source(write(tmp_path / "u.csv", "\n".join(ROWS)))
    assert not caplog.text


# Command line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["carriage returns", "bars", "runs of blanks", "decimal commas", "comments between"])
def test_a_fit_of_every_dialect(cli, tmp_path, kind):
    write(tmp_path / "t.csv", SAME[kind])
    assert cli("fit", "t.csv", "-k", 1, "--out", "m")[0] == 0
    gm = sg.load("m")
    assert gm.report_["rows"] == 100 and list(gm.feature_names_in_) == ["a", "b", "c"]
    np.testing.assert_allclose(gm.means_[0], X.mean(0), rtol=0, atol=1e-12)


def test_headers_are_told_and_chosen(cli, tmp_path):
    pd.DataFrame(X).to_csv(tmp_path / "t.csv", index=False)
    err = cli("data", "check", "t.csv")[2]
    assert "was taken for the names of the columns; if it is data: --no-header" in err
    code, out, err = cli("data", "check", "t.csv", "--no-header")
    assert code == 0 and "101" in out and "was taken" not in err and "--no-header" in err
    assert cli("fit", "t.csv", "-k", 1, "--no-header", "--out", "m")[0] == 0
    assert sg.load("m").report_["rows"] == 101
    (tmp_path / "c.toml").write_text('[data]\npath = "t.csv"\nheader = false\n')
    assert cli("fit", "c.toml", "--out", "n")[0] == 0
    assert sg.load("n").report_["rows"] == 101


def test_exclude_at_the_command_line(cli, tmp_path):
    lines = ["a,note,b", *(f"{a},x,{b}" for a, b in X[:, :2].tolist())]
    lines[60] = "1.5,x,Ex"
    write(tmp_path / "t.csv", "\n".join(lines))
    code, _, err = cli("fit", "t.csv", "-k", 1)
    assert code == 0 and "column 'b' holds text (line 61: 'Ex'), so it is left out" in err
    assert cli("fit", "t.csv", "-k", 1, "--exclude", "b", "--out", "m")[0] == 0
    assert list(sg.load("m").feature_names_in_) == ["a"]
    code, _, err = cli("fit", "t.csv", "-k", 1, "--exclude", "c")
    assert code == 1 and "there is no column 'c'" in err
    assert cli("fit", "t.csv", "-k", 1, "--set", 'exclude=["b", "note"]')[0] == 0


HOSTILE = ("price, CHF", "=1+1\nx", "+a", "-b", "@c", 'd"q"', "\x1b[31mred", "e\u202etxt", "f\u2028g", "plain", "a b")


def test_names_that_would_act_are_shown_and_quoted(cli, tmp_path):
    import csv
    import io

    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(200, len(HOSTILE))), columns=HOSTILE)
    frame.to_parquet("t.parquet")
    for words in (("data", "describe"), ("data", "check"), ("fit", "-k", 1, "--out", "m")):
        code, out, err = cli(*words, "t.parquet")
        assert code == 0
        for text in (out, err):
            assert not set(text) & set("\x1b\u202e\u2028")
            assert not any(line.startswith("x") for line in text.splitlines())
    code, out, _ = cli("inspect", "m", "--features", len(HOSTILE))
    assert code == 0 and not set(out) & set("\x1b\u202e\u2028") and "\\x1b[31mred" in out
    code, out, _ = cli("sample", "m", "-n", 3)
    assert code == 0 and next(csv.reader(io.StringIO(out))) == list(HOSTILE)
    assert [len(row) for row in csv.reader(io.StringIO(out, newline=""))] == [len(HOSTILE)] * 4
    head = out[: out.index('"plain"') if '"plain"' in out else out.index("plain")]
    assert not any(f",{mark}" in head for mark in "=+-@")
    assert cli("sample", "m", "-n", 50, "--out", "s.csv")[0] == 0
    assert sg.open_source("s.csv").feature_names == tuple(name.strip() for name in HOSTILE)
    assert cli("predict", "m", "s.csv", "--out", "l.npy")[0] == 0


def test_columns_with_commas_in_their_names(cli, tmp_path):
    write(tmp_path / "t.csv", '"a, in m",b,c\n' + "\n".join(ROWS))
    assert cli("fit", "t.csv", "-k", 1, "--columns", '"a, in m",c', "--out", "m")[0] == 0
    assert list(sg.load("m").feature_names_in_) == ["a, in m", "c"]
