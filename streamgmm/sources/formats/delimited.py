"""Text tables: records, fields, and the dialect that the first lines show. Every reader of such lines agrees on these.

Lines end at ``\\n``, ``\\r\\n`` or ``\\r`` and nowhere else; a line end between double quotes belongs to a field.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

__all__ = [
    "BLANKS", "COMMENT", "MISSING", "Dialect", "Head", "Record", "column_kinds", "delimiter_of", "doubt_of",
    "fields_of", "is_comment", "number_of", "quoting_fault", "records", "sniff",
]  # fmt: skip

BLANKS = " "
"""The delimiter of tables whose fields are separated by runs of blanks and tabs."""
_DELIMITERS = (",", ";", "\t", "|", BLANKS)
MISSING = (
    "na", "n/a", "nan", "-nan", "null", "none", "<na>", "\\n", "?", ".", "-", "--", "*", "#n/a", "#n/a n/a", "#na",
    "#div/0!", "#null!", "#num!", "#ref!", "#value!", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
)  # fmt: skip
"""Fields that stand for a missing value, besides the empty one, in any case."""
_MISSING = frozenset(MISSING) | {""}
COMMENT = r"[ \t]*#(?!(?i:n/a|n/a n/a|na|div/0!|null!|num!|ref!|value!)[ \t]*(?:[,;\t|\r\n]|\Z))"
"""Beginning of a comment: #, but not one of the fields that stand for a missing value."""
_A_LOOK = 200
"""Records by which the delimiter is judged."""
_MOSTLY = 0.9
"""Share of numbers among the values of a column above which the others are errors, and the column is no text."""
_A_TITLE = 20
"""Lines that may stand above a header."""
_SURE = 10
"""Rows that must differ from a first line of whole numbers in kind, before this is taken for a header of one name."""

_LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")
_NUMBER = {
    ".": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE | re.ASCII),
    ",": re.compile(r"[+-]?(\d+(,\d+)?|,\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE | re.ASCII),
}
_NUMBERS = {
    mark: re.compile(rf"(?:(?:{number.pattern})?\0)*+", re.IGNORECASE | re.ASCII) for mark, number in _NUMBER.items()
}
"""Fields of a column that are numbers or empty, each with a zero byte behind it: one look for all of them."""
_MARKS = "'\u2019 \u00a0\u202f"
"""Apostrophes and blanks that set thousands apart: they never part decimals."""
_GROUPED = {
    ".": re.compile(rf"[+-]?\d{{1,3}}(?:(?:,\d{{3}})+|(?:[{_MARKS}]\d{{3}})+)(?:\.\d*)?", re.ASCII),
    ",": re.compile(rf"[+-]?\d{{1,3}}(?:(?:\.\d{{3}})+|(?:[{_MARKS}]\d{{3}})+)(?:,\d+)?", re.ASCII),
}
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+", re.ASCII)
_TRUTH = {"true": 1.0, "false": 0.0}
_WHOLE = re.compile(r"\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Form in which a table is written.

    Attributes
    ----------
    delimiter : one of ``, ; tab |``, or `BLANKS`
    decimal : "." or ","
    comment : lines that begin with # are no records
    quoted : fields between double quotes occur
    padded : blanks occur between a delimiter and an opening quote
    """

    delimiter: str
    decimal: str = "."
    comment: bool = False
    quoted: bool = False
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One record: number of its first line, from 1, its place in the text, its fields without blanks around them."""

    line: int
    start: int
    end: int
    fields: list[str]


@dataclass(frozen=True, slots=True)
class Head:
    """Facts that the first lines of a table give.

    Attributes
    ----------
    names : of the columns, or None without a header
    n_fields : fields of a record
    body : the records after the header
    first : where in the text the first of them begins
    notice : a sentence where the first lines may have been taken for the wrong thing
    header : the record that names the columns
    """

    dialect: Dialect
    names: tuple[str, ...] | None
    n_fields: int
    body: list[Record]
    first: int
    notice: str | None
    header: Record | None = None


def is_comment(line: str) -> bool:
    """True for lines that begin as comments do.

    Examples
    --------
    >>> is_comment("# made today"), is_comment("#N/A,3.5")
    (True, False)
    """
    return "#" in line and re.match(COMMENT, line) is not None


def delimiter_of(line: str) -> str:
    """Comma, semicolon, tab or bar: the one that a line holds most of, quoted ones not counted; else blanks."""
    best = max(_DELIMITERS[:-1], key=lambda mark: len(fields_of(line, mark)))
    return best if len(fields_of(line, best)) > 1 or len(fields_of(line, BLANKS)) == 1 else BLANKS


def fields_of(line: str, delimiter: str) -> list[str]:
    """The fields of one record; what stands between double quotes is one field.

    Raises
    ------
    ValueError
        Where a field is too long to be one.

    Examples
    --------
    >>> fields_of('"Bern, Wabern",3.5', ",")
    ['Bern, Wabern', '3.5']
    """
    if delimiter == BLANKS:
        line = line.strip(" \t").replace("\t", " ")
        if '"' not in line:
            return line.split()
        line = re.sub(" +", " ", line)
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def quoting_fault(text: str, delimiter: str) -> str | None:
    """Fault of the quotes of one record in words, or None.

    A quote within a field that does not begin with one is text, and blanks may follow a quote that closes a field.

    Examples
    --------
    >>> quoting_fault('5" pipe,"3.2" ,1', ","), quoting_fault('1,"2', ",")
    (None, 'unexpected end of data')
    """
    text = re.sub(f'" +(?={re.escape(delimiter)}|$)', '"', text)
    try:
        list(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        return str(error)
    return None


def _unfinished(text: str, dialect: Dialect) -> bool:
    """True if a quoted field goes on in the next line."""
    return text.count('"') % 2 == 1 and quoting_fault(text, dialect.delimiter) == "unexpected end of data"


def records(text: str, dialect: Dialect, *, whole: bool = True, line: int = 1) -> Iterator[Record]:
    """The records of a text; blank lines and comments are none.

    Parameters
    ----------
    whole : the text is not cut off: what follows the last line end is a record too
    line : number of the first line
    """
    start, first, pending = 0, line, ""
    for number, found in enumerate(_LINE.finditer(text), line):
        content, end = found[1], found.end()
        if found.start() == len(text) and not pending:
            return
        if not pending:
            start, first = found.start(), number
            if not content.strip() or (dialect.comment and is_comment(content)):
                continue
        pending += content
        last = end == len(text)
        if last and not whole and not found[2]:
            return
        if '"' in pending and _unfinished(pending, dialect) and not (last and whole):
            pending += found[2]
            continue
        yield Record(first, start, end, [field.strip() for field in fields_of(pending, dialect.delimiter)])
        pending = ""


def number_of(field: str, decimal: str = ".", kind: str = "number") -> float | None:
    """The number that a field holds; NaN where it says that there is none, None where it is something else.

    Parameters
    ----------
    kind : "number"; "grouped", where thousands may be set apart; "truth", for true and false

    Examples
    --------
    >>> number_of("1,234.5", kind="grouped"), number_of("2,5", ","), number_of("True", kind="truth"), number_of("Ex")
    (1234.5, 2.5, 1.0, None)
    """
    field = field.strip()
    if field.lower() in _MISSING:
        return float("nan")
    if kind == "truth" and field.lower() in _TRUTH:
        return _TRUTH[field.lower()]
    if kind == "grouped" and _GROUPED[decimal].fullmatch(field):
        field = re.sub(rf"[{'.' if decimal == ',' else ','}{_MARKS}]", "", field)
    return float(field.replace(decimal, ".")) if _NUMBER[decimal].fullmatch(field) else None


def _kind(values: Sequence[str], delimiter: str, decimal: str) -> tuple[str, str | None]:
    """Kind of a column by its fields: "number", "grouped", "truth", "empty" or "text"; the first that is none.

    A mark that sets thousands apart is believed where it cannot part fields or decimals: in a field that is quoted for
    it, or one with both marks or two groups; apostrophes and blanks always.
    """
    if any(values) and _NUMBERS[decimal].fullmatch("\0".join([*values, ""])):
        return "number", None
    present = [value for value in values if value.lower() not in _MISSING]
    if not present:
        return ("empty" if values else "number"), None
    if sum(value.lower() in _TRUTH for value in present) >= _MOSTLY * len(present):
        return "truth", None
    other = "." if decimal == "," else ","
    grouped = [value for value in present if _GROUPED[decimal].fullmatch(value)]
    decisive = delimiter == other or any(
        value.count(other) > 1 or decimal in value or not set(_MARKS).isdisjoint(value) for value in grouped
    )
    grouped = [v for v in grouped if not _NUMBER[decimal].fullmatch(v)] if decisive else []
    odd = [v for v in present if not _NUMBER[decimal].fullmatch(v) and not (grouped and _GROUPED[decimal].fullmatch(v))]
    if len(odd) > (1 - _MOSTLY) * len(present):
        return "text", odd[0]
    return ("grouped" if grouped else "number"), None


def column_kinds(rows: Sequence[Sequence[str]], n: int, dialect: Dialect) -> list[tuple[str, str | None]]:
    """For each of `n` columns what it holds (see `number_of`, or "empty", or "text"), and a field that is no number."""
    whole = [row for row in rows if len(row) == n]
    return [_kind([row[j] for row in whole], dialect.delimiter, dialect.decimal) for j in range(n)]


def _good(rows: Sequence[Sequence[str]], n: int, delimiter: str, decimal: str) -> int:
    kinds = column_kinds(rows, n, Dialect(delimiter, decimal))
    return sum(kind in ("number", "grouped", "truth") for kind, _ in kinds)


def _choose(text: str, whole: bool, comment: bool, delimiters: Sequence[str]) -> tuple[str, str, int]:
    """Delimiter, decimal mark and fields of a record.

    First, those with which a line of names stands above the numbers; then those that explain every comma as a decimal
    mark; then those with which most columns hold numbers in most records.
    """
    best, found = (False, False, -1.0, -1.0), (",", ".", 1)
    for delimiter in delimiters:
        if delimiter != "," and delimiter not in text and not (delimiter == BLANKS and "\t" in text):
            continue  # records of one field
        look = list(islice(records(text, Dialect(delimiter, comment=comment), whole=whole), _A_LOOK))
        some = [record.fields for record in look]
        if not some:
            continue
        counts = Counter(map(len, some[1:] or some))
        n, often = max(counts.items(), key=lambda item: (item[1], item[0]))
        if n == 1 and delimiter != ",":
            continue
        above = next(i for i, row in enumerate(some) if len(row) == n)  # the header, where there is one
        body = [row for row in some[above + 1 :] if len(row) == n] or [some[above]]
        # Equal: the one that cannot set thousands apart; or else the point, which is what most programs write.
        decimal = max(".,", key=lambda mark: (_good(body, n, delimiter, mark), _parts(body, n, delimiter, mark)))
        share = often / max(1, len(some) - 1 or 1)
        header = float(len(some[0]) in (n - 1, n, n + 1))
        numbers = (_good(body, n, delimiter, decimal) + _empty(body, n)) / n
        sure = n > 1 and share >= _MOSTLY
        named = sure and above <= _A_TITLE and _names(some[above], look[above + 1 :], n, Dialect(delimiter, decimal))
        parted = sure and delimiter not in (",", BLANKS) and _commas_part_decimals(body, n, delimiter)
        score = round(numbers * share * (0.5 + 0.5 * header), 3), round(share * (n > 1), 3)
        if (named, parted, *score) > best:
            best, found = (named, parted, *score), (delimiter, decimal, n)
    return found


def _parts(rows: Sequence[Sequence[str]], n: int, delimiter: str, decimal: str) -> int:
    """Columns of numbers in which `decimal` parts decimals beyond doubt: their values could not be groups of digits."""
    other = _GROUPED["." if decimal == "," else ","]
    kinds = column_kinds(rows, n, Dialect(delimiter, decimal))
    return sum(
        kind == "number" and any(decimal in row[j] and not other.fullmatch(row[j]) for row in rows)
        for j, (kind, _) in enumerate(kinds)
    )


def _commas_part_decimals(rows: Sequence[Sequence[str]], n: int, delimiter: str) -> bool:
    """True if there are commas, and all of them are within columns of numbers that have a decimal comma."""
    kinds = column_kinds(rows, n, Dialect(delimiter, ","))
    inside = [j for j in range(n) if any("," in row[j] for row in rows)]
    return bool(inside) and all(kinds[j][0] in ("number", "grouped") for j in inside)


def _empty(rows: Sequence[Sequence[str]], n: int) -> int:
    return sum(all(row[j].lower() in _MISSING for row in rows) for j in range(n)) if rows else 0


def sniff(text: str, *, whole: bool = True, header: bool | None = None) -> Head | None:
    """Dialect, header and records of the beginning of a table; None where there is no record.

    Parameters
    ----------
    whole : the text is the whole table
    header : whether the first record names the columns; None: it does where its fields differ in kind from those below,
        and lines of a title above it are passed over
    """
    lines = [found[1].strip() for found in _LINE.finditer(text)]
    comment = is_comment(next((line for line in lines if line), ""))
    told = re.match(r"sep=([,;\t|])[ \t]*(?:\r\n?|\n)", text, re.IGNORECASE)  # as Excel writes it
    table, delimiters = (text, _DELIMITERS) if told is None else (text[told.end() :], (told[1],))
    delimiter, decimal, n = _choose(table, whole, comment or any(map(is_comment, lines)), delimiters)
    if not comment:  # further down: comments where they are no records of the table
        comment = _has_comments(lines, n, delimiter, decimal)
    mark, quotes = re.escape(delimiter), '"' in text
    quoted = quotes and re.search(rf"(?:^|[\r\n{mark}])([ \t]*)\"", text) is not None
    padded = quotes and delimiter != BLANKS and re.search(rf"{mark}[ \t]+\"", text) is not None
    dialect = Dialect(delimiter, decimal, comment, quoted, padded)
    found = list(records(text, dialect, whole=whole))
    found = found if told is None else found[1:]
    if not found:
        return None
    notice = None
    above = _title(found, n, dialect) if header is None else 0
    if above:
        notice = f"what stands above line {found[above].line} was taken for a title; the columns are named there"
        found, header = found[above:], True
    first, rest = found[0].fields, found[1:]
    if header is None:
        header, notice = _is_header(first, [record.fields for record in rest], n, dialect)
    if not header:
        notice = notice or _thousands(found, n, dialect)
        return Head(dialect, _names_above(lines, found[0], n, dialect), n, found, found[0].start, notice)
    n = n if rest else len(first)
    notice = notice or _thousands(rest, n, dialect)
    names = first[:n] if len(first) > n else [*[""] * (n - len(first)), *first]
    if len(first) < n and all(not record.fields[-1] for record in rest if len(record.fields) == n):
        names = [*first, *[""] * (n - len(first))]  # a delimiter at the end of every row
    return Head(dialect, tuple(names), n, rest, found[0].end, notice, found[0])


def _thousands(body: Sequence[Record], n: int, dialect: Dialect) -> str | None:
    """A notice where every decimal comma could set thousands apart: three digits follow, and no zero is in front."""
    if dialect.decimal != ",":
        return None
    rows = [record.fields for record in body if len(record.fields) == n]
    kinds = column_kinds(rows, n, dialect)
    held = [row[j] for j in range(n) if kinds[j][0] == "number" for row in rows if "," in row[j]]
    if not held or not all(map(_THOUSANDS.fullmatch, held)):
        return None
    return f"the commas in numbers ({held[0]}) were taken for decimal marks; if they set thousands apart, remove them"


def _has_comments(lines: Sequence[str], n: int, delimiter: str, decimal: str) -> bool:
    """Whether lines that begin with # are comments: some have no `n` fields, or all others begin with a number."""
    marked = list(filter(is_comment, lines))
    if not marked:
        return False
    if any(len(fields_of(line, delimiter)) != n for line in marked):
        return True
    others = [line for line in lines[1:] if line and not is_comment(line)][:_A_LOOK]
    begin = [fields_of(line, delimiter)[0] for line in others]
    return bool(begin) and all(number_of(field, decimal, "grouped") is not None for field in begin)


def _title(found: Sequence[Record], n: int, dialect: Dialect) -> int:
    """Number of records above the header: none has `n` fields, and words above numbers follow them."""
    for i, record in enumerate(found[: _A_TITLE + 1]):
        if len(record.fields) == n:
            return i if i and _names(record.fields, found[i + 1 :], n, dialect) else 0
    return 0


def _names(fields: Sequence[str], below: Sequence[Record], n: int, dialect: Dialect, least: int = 1) -> bool:
    """Whether each of the `n` fields above a column of numbers, `least` of them, is a word."""
    kinds = column_kinds([record.fields for record in below[:_A_LOOK]], n, dialect)
    numeric = [j for j, (kind, _) in enumerate(kinds) if below and kind in ("number", "grouped", "truth")]
    return len(numeric) >= least and all(number_of(fields[j], dialect.decimal, kinds[j][0]) is None for j in numeric)


def doubt_of(head: Head) -> str | None:
    """Reason to doubt a header, and the remedy; None where there is no doubt."""
    if head.header is None or not head.body:
        return None
    named, n, line = len(head.header.fields), head.n_fields, head.header.line
    if named > n and any(head.header.fields[n:]):
        return (
            f"line {line} names {named} columns, and most lines below have {n} fields; expected as many. Mend the "
            "header, or fill the lines up with delimiters"
        )
    rows = [record.fields for record in head.body if len(record.fields) == n]
    if named < n - 1 and head.names is not None and not head.names[0]:
        return (
            f"line {line} has {named} field(s), and most lines below have {n}; expected a name for each column. Mend "
            "the header, or remove what stands above it"
        )
    if named == 1 and n == 2 and not head.header.fields[0].isdigit() and not _counts([row[0] for row in rows]):
        return (
            f"line {line} names one column, and the lines below have two fields, "
            f"{head.dialect.delimiter.join(rows[0])!r}; expected a name for each. Name both; or, where the comma parts "
            "decimals, write points"
        )
    first = head.body[0]
    words = sum(number_of(field, head.dialect.decimal, "grouped") is None for field in first.fields)
    if len(first.fields) == n and words > 1 and _names(first.fields, head.body[1:], n, head.dialect, 2):
        return (
            f"line {first.line} ({head.dialect.delimiter.join(first.fields)[:40]}) holds no numbers where the lines "
            "below do; expected one line of names. If it is a line of units or more names, remove it"
        )
    return None


def _counts(fields: Sequence[str]) -> bool:
    """True for row labels: text, or whole numbers that go up by one."""
    numbers = [number_of(field) for field in fields]
    if any(number is None for number in numbers):
        return True
    return len(numbers) > 1 and all(b - a == 1 for a, b in pairwise(number for number in numbers if number is not None))


def _names_above(lines: Sequence[str], first: Record, n: int, dialect: Dialect) -> tuple[str, ...] | None:
    """The names in a comment right above the first record, as NumPy's savetxt writes them."""
    above = lines[first.line - 2] if first.line > 1 else ""
    if not (dialect.comment and is_comment(above)):
        return None
    names = [name.strip() for name in fields_of(above.lstrip("# \t"), dialect.delimiter)]
    fits = len(names) == n == len(set(names)) and all(names) and not any(number_of(name) is not None for name in names)
    return tuple(names) if fits else None


def _is_header(first: list[str], body: list[list[str]], n: int, dialect: Dialect) -> tuple[bool, str | None]:
    """Whether a first record names the columns, and a notice where that is not certain.

    A word above numbers is a name. Whole numbers are names (pandas writes 0,1,2; years) where all below are decimals,
    or where they count from 0 or are years in a row, and what follows does not count on.
    """
    decimal = dialect.decimal
    if not body or len(first) != n:
        return not all(number_of(field, decimal, "grouped") is not None for field in first), None
    kinds = column_kinds(body, n, dialect)
    numeric = [j for j, (kind, _) in enumerate(kinds) if kind in ("number", "grouped", "truth")]
    if not numeric:
        return not all(number_of(field, decimal, "grouped") is not None for field in first), None
    if any(number_of(first[j], decimal, kinds[j][0]) is None for j in numeric):
        return True, None
    if numeric[0] == 0 and not first[0]:
        numeric = numeric[1:]  # row labels have no name
    if not numeric:  # a word that does not come again below
        return any(name and all(row[j] != name for row in body if len(row) == n) for j, name in enumerate(first)), None
    above = [first[j] for j in numeric]
    if not all(map(_WHOLE.fullmatch, above)) or len(set(above)) < len(above):
        return False, None
    counts = [int(field) for field in above]
    run = len(counts) > 1 and all(b - a == 1 for a, b in pairwise(counts))
    below = [row[j] for row in body if len(row) == n for j in numeric if row[j].lower() not in _MISSING]
    decimals = not any(map(_WHOLE.fullmatch, (field.lstrip("+-") for field in below)))
    goes_on = body[0][numeric[0]] == str(counts[-1] + 1)
    known = len(counts) > 2 and (counts[0] == 0 or 1800 <= counts[0] <= 2200)
    shown = dialect.delimiter.join(first[:6]) + (" ..." if len(first) > 6 else "")
    if (decimals and (run or len(body) >= _SURE)) or (run and known and not goes_on):
        return True, f"the first line ({shown}) was taken for the names of the columns; if it is data: header=False"
    if (run or decimals) and not goes_on:
        return False, f"the first line ({shown}) was taken for data; if it names the columns: header=True"
    return False, None
