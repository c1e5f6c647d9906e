"""Completion in the shell for the values of options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

__all__ = ["covariances", "criteria", "devices", "files", "settings"]


def _choices(annotation: Any) -> list[str]:
    """The words that an annotation of the config allows; also inside lists and unions."""
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    if annotation is bool:
        return ["true", "false"]
    return [word for part in get_args(annotation) for word in _choices(part)]


def _words_of(section: str, key: str) -> list[str]:
    from streamgmm.cli.config import Config

    return _choices(type(getattr(Config(), section)).model_fields[key].annotation)


def _beginning(words: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """Those of the words that begin as what was typed."""
    return lambda incomplete: [word for word in words() if word.startswith(incomplete)]


covariances = _beginning(lambda: _words_of("model", "covariance_type"))
criteria = _beginning(lambda: _words_of("select", "criterion"))
devices = _beginning(lambda: ["cpu", "cuda", "cuda:0", "cuda:1"])


def settings(incomplete: str) -> list[str]:
    """Keys of a config, and values of those that allow few: for KEY=VALUE."""
    from streamgmm.cli.config import Config

    sections = Config()
    key, equals, _ = incomplete.partition("=")
    prefix, dot, _ = key.rpartition(".")
    homes = [prefix] if dot else list(type(sections).model_fields)
    known = [
        (f"{home}.{field}" if dot else field, _words_of(home, field))
        for home in homes
        if home in type(sections).model_fields
        for field in type(getattr(sections, home)).model_fields
    ]
    if equals:
        return [f"{full}={word}" for full, words in known for word in words if f"{full}={word}".startswith(incomplete)]
    return [f"{full}=" for full, _ in known if full.startswith(incomplete)]


def files(incomplete: str) -> list[str]:
    """Files and folders that begin so."""
    import glob
    import os

    found = sorted(glob.glob(glob.escape(incomplete) + "*"))
    return [path + "/" * os.path.isdir(path) for path in found]
