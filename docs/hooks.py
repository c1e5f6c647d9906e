"""Pages of the site that are made of other files: the API from docstrings, commands and config keys from the program.

mkdocs calls `on_files` and `on_page_markdown`. README, CONTRIBUTING and CHANGELOG become pages, and their links and
those to them follow. Nothing is written into the repository.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Documents at the root, and what they are called in the site."""

PLAIN = {"LICENSE": "LICENSE.txt", "CITATION.cff": "CITATION.cff"}
"""Files at the root that are copied as they are, with their names in the site."""

FOLDERS = ("configs", "examples")
"""Folders whose files are copied too."""

GROUPS = {
    "estimators": "Estimators and model selection",
    "mixture": "Mixtures and statistics",
    "sources": "Data sources",
    "stream": "Streams",
    "diagnostics": "Diagnostics and reports",
    "report": "Progress and descriptions",
    "errors": "Errors",
}
"""Package that holds a public name -> title of its page."""

ENTRY = """
::: {path}
    options:
      heading: "sg.{name}"
      toc_label: "{name}"
"""


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    made = {name: (ROOT / document).read_text("utf-8") for document, name in PAGES.items()}
    made |= api_pages() | {"reference/commands.md": commands(), "reference/config.md": config_keys()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    for path in [*sorted(one for folder in FOLDERS for one in (ROOT / folder).glob("*.*")), *map(ROOT.joinpath, PLAIN)]:
        place = posixpath.join("files", PLAIN.get(path.name, path.name))
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links between the root and docs/ as the site has them; comments of the tables' writers are taken out."""
    where = page.file.src_uri
    at_root = where in PAGES.values()

    def target(match: re.Match[str]) -> str:
        link, _, anchor = match[1].partition("#")
        path = posixpath.normpath(link if at_root else posixpath.join("docs", posixpath.dirname(where), link))
        if path in PAGES:
            found = PAGES[path]
        elif posixpath.dirname(path) in FOLDERS or path in PLAIN:
            found = posixpath.join("files", PLAIN.get(path, posixpath.basename(path)))
        elif at_root and path.startswith("docs/"):
            found = path.removeprefix("docs/")
        else:
            return match[0]
        found = posixpath.relpath(found, posixpath.dirname(where) or ".")
        return f"]({found}{'#' + anchor if anchor else ''})"

    without = re.sub(r"(?m)^<!--.*?-->\n", "\n", markdown)
    return re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", target, without)


# API ------------------------------------------------------------------------------------------------------------------


def public_names() -> dict[str, dict[str, str]]:
    """Group -> public name -> module that defines it."""
    import streamgmm

    groups: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
    for name, home in streamgmm._HOMES.items():
        groups[home.split(".")[1]][name] = home
    return groups


def summary(thing: Any) -> str:
    """The first sentence of a docstring, for a cell of a table."""
    text = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return re.sub(r"(?<=[.;:]) .*", "", text).rstrip(".;:").replace("|", r"\|").replace("``", "`")


def api_pages() -> dict[str, str]:
    index = ["# API reference", "", "`import streamgmm as sg`. Every example on these pages is run by the tests.", ""]
    pages: dict[str, str] = {}
    for group, names in public_names().items():
        title = GROUPS[group]
        table = ["| name | purpose |", "|---|---|"]
        entries = []
        for name, home in sorted(names.items()):
            thing = getattr(import_module(home), name)
            path = f"{thing.__module__}.{thing.__qualname__}"
            table.append(f"| [`sg.{name}`]({{page}}#{path}) | {summary(thing)} |")
            entries.append(ENTRY.format(path=path, name=name))
        here = "\n".join(table)
        pages[f"api/{group}.md"] = f"# {title}\n\n{here.replace('{page}', '')}\n{''.join(entries)}"
        index += [f"## [{title}]({group}.md)", "", here.replace("{page}", f"{group}.md"), ""]
    return {"api/index.md": "\n".join(index), **pages}


# Commands and config keys ---------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments, options and example, from the program itself."""
    import typer

    from streamgmm.cli.app import app

    lines = [
        "# Commands",
        "",
        "Written from `streamgmm --help`. Results go to stdout, progress and messages to stderr.",
        "",
    ]
    lines += ["| exit code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    for words, command in _walk(typer.main.get_command(app), ["streamgmm"]):
        lines += ["", f"## {' '.join(words)}", "", *_described(command, words)]
    return "\n".join(lines) + "\n"


EXIT_CODES = {
    0: "done (`demo`: it produced a model; `stream`: also after SIGTERM, with a snapshot)",
    1: "failed; one line says what was expected, what was found, and the remedy",
    2: "wrong usage or config",
    3: "finished without converging",
    130: "interrupted; a checkpoint was written if one was configured",
    141: "the reader of the output has gone",
}


def _walk(command: Any, words: list[str]) -> Any:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
        return
    for name, one in inner.items():
        if not one.hidden:
            yield from _walk(one, [*words, name])


def _described(command: Any, words: list[str]) -> list[str]:
    lines = [_plain(command.help or ""), ""]
    if command.epilog:
        lines += ["```sh", _plain(command.epilog).removeprefix("Example:").strip(), "```", ""]
    rows = []
    for one in command.params:
        if getattr(one, "hidden", False) or one.name in ("help", "debug"):
            continue
        name = ", ".join(one.opts + one.secondary_opts) if one.param_type_name == "option" else one.name.upper()
        rows.append(f"| `{name}` | {_cell(_plain(getattr(one, 'help', None) or ''))} |")
    return [*lines, "| argument or option | meaning |", "|---|---|", *rows] if rows else lines


def _plain(text: str) -> str:
    """Without the marks of rich."""
    return " ".join(re.sub(r"\[/?[a-z ]*\]", "", text.replace("\\[", "[")).split())


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def config_keys() -> str:
    """Every section and key of a config, with its values and default, from the model that checks configs."""
    from streamgmm.cli.config import Config

    lines = [
        "# Config files",
        "",
        "TOML. `streamgmm COMMAND CONFIG.toml` reads one; `--set key=value` overrides a key.",
        "",
    ]
    lines += ["Unknown sections and keys are errors that suggest the nearest name."]
    for name, field in Config.model_fields.items():
        section = field.annotation
        lines += ["", f"## [{name}]", "", inspect.getdoc(section) or "", ""]
        lines += ["| key | values | default | meaning |", "|---|---|---|---|"]
        for key, one in section.model_fields.items():
            kind = _cell(_type(one.annotation))
            lines.append(f"| `{key}` | {kind} | `{_default(one.default)}` | {_cell(one.description or '')} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    return (
        "not set" if value is None else repr(value).replace("'", '"').replace("True", "true").replace("False", "false")
    )


def _type(annotation: Any) -> str:
    """A type of a config's key in words."""
    from typing import Annotated, Literal, get_args, get_origin

    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ", ".join(f'`"{one}"`' for one in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if inner:
        return " or ".join(dict.fromkeys(_type(one) for one in inner if one is not type(None)))
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(annotation, str(annotation))
