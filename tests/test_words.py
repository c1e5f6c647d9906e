"""The retired words: modules, comments, docstrings, messages and documents use the field's terms instead.

A word of the author's own costs every reader a moment. The left side is a pattern of such words, the right side says
what to write; `KEPT` has the few places where a word has its ordinary meaning, or stands in a stored file.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RETIRED = {
    r"dear(?:er|est|ly)?": "expensive",
    r"(?:bear|bears|borne)": "support, allow",
    r"laps?": "pass",
    r"readings": "passes",
    r"(?:one|each|every|per|first|last|next|another|full|shared|EM) reading(?! of (?:a|the) (?:file|chunk))": "pass",
    r"soils?": "SplitContext",
    r"(?<!-)grounds?(?!ed)": "background, sample",
    r"(?:walk|walks|walked|walking)": "EM on the sample",
    r"(?:crowd|crowds|crowded)": "many components, dense rows",
    r"hopeless": "dominated",
    r"for ever": "without end, continuously",
    r"(?:scikit-learn's|the|a) faces?": "interface",
    r"doors?": "entry point, boundary",
    r"this room": "this package",
    r"(?:lonely|planted|planting)": "low-density cluster; re-seeded",
    r"the way of (?:a|the|this) (?:fit|start|stream)": "the path, the steps",
    r"grown starts?": "split-based initialization",
    r"(?:sound|hale) starts?": "valid initialization",
    r"where it moves": "where the mean changes",
    r"(?:whence|whither|thereof|hitherto|betimes|lest|oft|nought|nigh)": "plain words",
    r"(?:never|nothing) dies": "is robust",
    r"(?:strange|odd) (?:beasts?|fellows?)": "outliers",
}

MODULES = {
    "asking", "beginnings", "centers", "dealing", "draws", "exchange", "given", "growing", "keeping", "local",
    "outcome", "picking", "questions", "readings", "resident", "rules", "schedules", "seeding", "starts", "storing",
    "surgery", "sweep", "transient", "updates", "waiting", "watch",
}  # fmt: skip
"""Names of modules that said nothing without opening them (and what holds these things now has the field's name)."""

CLASSES = {
    "Beginning", "Behind", "Ground", "Keeper", "Memory", "Nowhere", "Pace", "Soil", "Survey", "Walk", "Watcher", "Way",
}  # fmt: skip

KEPT = {
    ("streamgmm/runtime/encoding.py", "lap"),  # names of fields in files that were written before
    ("streamgmm/runtime/encoding.py", "readings"),
    ("streamgmm/em/initialization/multistart.py", "walk"),  # a key of checkpoints
    ("streamgmm/em/initialization/followed_starts.py", "walk"),
}

DOCUMENTS = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("configs/*.toml"), ROOT / "setup.sh", ROOT / "mkdocs.yml",
]  # fmt: skip
SOURCES = [path for folder in ("streamgmm", "benchmarks", "examples", "docs") for path in (ROOT / folder).rglob("*.py")]
PAGES = list((ROOT / "streamgmm").rglob("*.html"))


def prose(path: Path):
    """(line, text) of comments and strings of a Python file; of anything else every line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, tokenize.FSTRING_MIDDLE):
            yield from enumerate(token.string.splitlines(), token.start[0])


def found(paths):
    patterns = [(re.compile(rf"(?i)(?<![\w.`/-]){word}(?![\w`/])"), instead) for word, instead in RETIRED.items()]
    for path in paths:
        name = str(path.relative_to(ROOT))
        kept = {word for where, word in KEPT if where == name}
        for number, line in prose(path):
            for pattern, instead in patterns:
                for match in pattern.finditer(line):
                    if match[0].lower() not in kept:
                        yield f"{name}:{number}: {match[0]!r}: say {instead}: {line.strip()}"


@pytest.mark.parametrize("kind", ["documents", "sources", "pages"])
def test_no_retired_word_is_left(kind):
    paths = {"documents": DOCUMENTS, "sources": SOURCES, "pages": PAGES}[kind]
    assert paths
    left = list(found(paths))
    assert not left, "\n".join(left)


def test_modules_and_classes_have_the_field_s_names():
    modules = {path.stem for path in (ROOT / "streamgmm").rglob("*.py")}
    classes = {
        node.name
        for path in (ROOT / "streamgmm").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert not modules & MODULES
    assert not classes & CLASSES


def docstrings(path: Path):
    """(line, text) of the docstrings of a module, its classes, its functions and its attributes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for child in node.body if hasattr(node, "body") and isinstance(node.body, list) else []:
            value = child.value if isinstance(child, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield child.lineno, value.value


def test_docstrings_begin_with_a_noun_or_a_verb():
    """A first line that is a question in disguise ("What a task returns") makes the reader look for the answer."""
    begin = re.compile(r"(?:What|How|Which|Who|When) ")
    seen = [(path, line, text) for path in (ROOT / "streamgmm").rglob("*.py") for line, text in docstrings(path)]
    assert len(seen) > 2_000
    left = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}" for path, line, text in seen if begin.match(text)
    ]
    assert not left, "\n".join(left)


def test_what_is_retired_is_found(tmp_path):
    """The patterns find the words that they are for, in a comment, a message and a document."""
    code = tmp_path / "code.py"
    code.write_text('x = 1  # a dear step\nraise ValueError(f"the rows do not bear {x} components")\nwalk = x\n')
    assert [text for _, text in prose(code) if "dear" in text or "bear" in text] == [
        "# a dear step",
        "the rows do not bear ",
    ]
    patterns = [re.compile(rf"(?i)(?<![\w.`/-]){word}(?![\w`/])") for word in RETIRED]
    for sentence in (
        "Each reading counts",
        "the hopeless are dropped",
        "learn for ever",
        "two laps",
        "scikit-learn's face",
    ):
        assert any(pattern.search(sentence) for pattern in patterns), sentence
    for sentence in ("without reading the rows", "`walk`", "os.walk(path)", "a bearing", "clear", "background"):
        assert not any(pattern.search(sentence) for pattern in patterns), sentence
