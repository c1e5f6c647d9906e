"""The commands, and what an error looks like: one line with the remedy, and the exit code."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer
from typer import Typer
from typer.core import TyperGroup

from streamgmm.cli.commands import data, demo, doctor, fit, inspect, predict, report, select, stream, warmup
from streamgmm.cli.terminal import NOT_CONVERGED, message
from streamgmm.cli.wording import in_options
from streamgmm.errors import ConfigError, DiskFullError
from streamgmm.utils.signals import ending_cleanly

if TYPE_CHECKING:
    pass

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
NARROW = 60
"""Columns of a terminal below which help is plain text."""
BROKEN_PIPE = 141
"""Exit code that a shell gives to a program whose output was closed (128 + SIGPIPE)."""
__all__ = ["DONE", "FAILED", "INTERRUPTED", "NOT_CONVERGED", "USAGE", "app", "run"]


class _InOrder(TyperGroup):
    """Commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


app = Typer(
    name="streamgmm",
    cls=_InOrder,
    help="Gaussian mixtures for data larger than memory. Begin with: streamgmm demo",
    epilog="Every command takes --help and --debug (full traceback). Results go to stdout, messages to stderr.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=False)
def _top(
    version: bool = typer.Option(
        False, "--version", is_eager=True, help="Print the version.", callback=lambda v: _version(v)
    ),
) -> None:
    pass


def _version(wanted: bool) -> None:
    if wanted:
        import streamgmm

        print(streamgmm.__version__)
        raise typer.Exit


def _add(command: Callable[..., Any], name: str, example: str, short: str | None = None) -> None:
    app.command(name, epilog=f"Example:  {example}", short_help=short)(command)


_add(demo.demo, "demo", "streamgmm demo")
_add(fit.fit, "fit", "streamgmm fit table.csv -k 3 --scale --out model")
_add(select.select, "select", "streamgmm select table.csv --k-max 6 --scale --report")
_add(predict.predict, "predict", "streamgmm predict model table.csv --out labels.csv")
_add(predict.score, "score", "streamgmm score model table.csv --out density.csv")
_add(predict.sample, "sample", "streamgmm sample model -n 5")
_add(inspect.inspect, "inspect", "streamgmm inspect model")
_add(report.report, "report", "streamgmm report model --out page.html")
_add(stream.stream, "stream", "streamgmm stream configs/stream.toml", "Learn from a stream, and survive a crash.")
app.add_typer(data.app, name="data")
_add(warmup.warmup, "warmup", "streamgmm warmup")
_add(doctor.doctor, "doctor", "streamgmm doctor")


def run(argv: list[str]) -> int:
    """Run one command; the exit code. Errors of users' making become one line; `--debug` shows the traceback."""
    for one in (app, data.app):  # frames of fewer columns would break words
        one.rich_markup_mode = "rich" if shutil.get_terminal_size().columns >= NARROW else None
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        with warnings.catch_warnings(), ending_cleanly():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            code = app(argv, standalone_mode=False, prog_name="streamgmm")
            sys.stdout.flush()
        return int(code) if isinstance(code, int) else DONE
    except KeyboardInterrupt:
        message("interrupted")
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:  # Click makes the one into the other
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _silence()  # the reader of our output has gone: nobody to tell
        return BROKEN_PIPE
    except Exception as error:
        if debug:
            raise
        code = _explain(error)
        if isinstance(error, OSError):
            _silence_if_stuck()
        return code


def _silence_if_stuck() -> None:
    """Where the output cannot be written, the interpreter must not try again on its way out."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence()


def _silence() -> None:
    """Nothing more is written to the output."""
    with suppress(OSError, ValueError):  # an output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> int:
    if isinstance(error, typer.Abort) or type(error).__name__ == "Abort":
        message("interrupted")
        return INTERRUPTED
    text = _one_line(error)
    if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # wrong options and arguments
        where = getattr(getattr(error, "ctx", None), "command_path", "streamgmm")
        if not error.format_message():  # no command was given, and help was printed
            return USAGE
        message(f"error: {error.format_message().rstrip('.')}. See: {where} --help")
        return USAGE
    message(f"error: {text}")
    return USAGE if isinstance(error, ConfigError) else FAILED


def _one_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename}: no such file or folder. Check the path; relative paths start at {os.getcwd()}."
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename}: permission denied. Choose another place or change its permissions."
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename is not None:
        return f"{error.filename}: is a file where a folder is expected. Choose another place."
    if isinstance(error, IsADirectoryError) and error.filename is not None:
        return f"{error.filename}: is a folder where a file is expected. Choose another name."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, DiskFullError):
        return f"{error.filename or 'the output'}: no space is left on its device. Free some, or write elsewhere."
    if isinstance(error, MemoryError):
        return f"out of memory ({error}). Set compute.memory_limit, for instance --set memory_limit=1GB."
    text = in_options(" ".join(str(error).split()))
    if isinstance(error, LookupError | AttributeError | AssertionError | NameError) or not text:  # not meant to be read
        text = (
            f"{type(error).__name__}{f': {text}' if text else ''} (a fault of streamgmm; --debug shows the traceback)"
        )
    return text


def _show_warning(text: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    # Of floating point and of what will change in libraries a person at the terminal can do nothing.
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning | RuntimeWarning):
        message(f"note: {in_options(' '.join(str(text).split()))}")
