"""Remedies that are worded for Python, in the words of the terminal."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable

from streamgmm.cli.terminal import as_option

__all__ = ["in_options"]


def in_options(text: str) -> str:
    """A text with options of the command line in the place of Python's parameters.

    Examples
    --------
    >>> in_options("Set n_init=5 or 10, or covariance_type='diag'.")
    'Add --set n_init=5 or 10, or --covariance diag.'
    >>> in_options("make_pipeline(sg.Scaler(), sg.PCA(0.95), ...)")
    '--scale --pca 0.95'
    """
    for pattern, written in _WORDS:
        text = re.sub(pattern, written, text)
    return text


def _columns(found: re.Match[str]) -> str:
    return _named("--columns", found[1]) + (found[2] or "")


def _exclude(found: re.Match[str]) -> str:
    return _named("--exclude", found[1])


def _named(option: str, listed: str) -> str:
    """The option that means a list of names as Python shows it."""
    try:
        names = [str(name) for name in ast.literal_eval(f"[{listed}]") if name is not ...]
    except (ValueError, SyntaxError):
        names = []
    return f"{option} {shlex.quote(as_option(names) if names else 'A,B')}"


_WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"set missing='marginalize' of a GaussianMixture", "fit with --set missing=marginalize"),
    (r"make_pipeline\(sg\.Scaler\(\), \.\.\.\), --scale on the command line", "--scale"),
    (r"make_pipeline\(sg\.Scaler\(\), sg\.PCA\(([\d.]+)\), \.\.\.\)", r"--scale --pca \1"),
    (r"make_pipeline\(sg\.Scaler\(\), \.\.\.\)", "--scale"),
    (r"(?:sg\.)?open_source\((?:\.\.\.|path), columns=\[(.*?)\](\.\.\.)?\)", _columns),
    (r"(?:sg\.)?open_source\((?:\.\.\.|path), exclude=\[(.*?)\]\)", _exclude),
    (r"exclude=\[(.*?)\]", _exclude),
    (r"\bcovariance_type=['\"](\w+)['\"]", r"--covariance \1"),
    (r"\bcriterion=['\"](\w+)['\"]", r"--criterion \1"),
    (r"Set n_components=(\d+)", r"Take K = \1: -k \1"),
    (r"\bn_components=(\d+)", r"-k \1"),
    (r"\b(Raise|Lower) n_components to", r"\1 K to"),
    (r"\bSet (n_init|noise|prior|reg_covar)=['\"]?([\w.+-]*\w)['\"]?", r"Add --set \1=\2"),
    (r"(?<!--set )\b(n_init|noise|prior|solver)=['\"]?([\w.+-]*\w)['\"]?", r"--set \1=\2"),
    (r"Go on with warm_start=True and a larger max_iter", "Allow more with --set max_iter=1000"),
    (r"(, and merge them afterwards|merge components): merge_components\b", r"\1 (merge_components, in Python)"),
)
