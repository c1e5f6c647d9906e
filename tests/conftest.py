"""Shared pieces: where the larger reference sets are, and random mixtures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


def shared_data() -> Path:
    given = os.environ.get("STREAMGMM_SHARED_DATA")
    return Path(given) if given else Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of larger reference sets, which the project does not ship."""
    folder = shared_data()
    if not folder.is_dir():
        pytest.skip(f"the larger reference sets are absent: looked for {folder}; set STREAMGMM_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def emulated_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels compiled for the emulated card are kept."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def emulated(emulated_kernels: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An emulated card, which is what `get("cuda")` returns; it runs the kernels' own source on the processor."""
    from streamgmm.kernels.cuda import backend
    from tests.helpers.emulated_cuda import EmulatedBackend, compiler

    if compiler() is None:
        pytest.skip("the emulated card compiles kernels with g++, which is not installed")
    card = EmulatedBackend(emulated_kernels)
    monkeypatch.setattr(backend, "_opened", {0: card})
    return card


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line in this process and in `tmp_path`: (exit code, stdout, stderr)."""
    from streamgmm.cli.app import run

    monkeypatch.chdir(tmp_path)

    def call(*words: Any) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call
