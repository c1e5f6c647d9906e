"""Other processors than this one: their registers, and the kernels' tests as compiled for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.helpers.targets import LINUX, ROOT, limited, on_x86

needs_x86 = pytest.mark.skipif(not on_x86(), reason="the processors to compile for are x86-64")


@needs_x86
@pytest.mark.parametrize(
    ("cpu", "features", "width", "fused"),
    [
        ("skylake-avx512", "", 8, True),
        ("x86-64-v3", "", 4, True),
        ("x86-64-v3", "+avx512f", 8, True),
        ("znver3", "", 4, True),
        ("sandybridge", "", 4, False),
        ("x86-64", "", 2, False),
    ],
)
def test_registers_are_those_of_the_target(cpu, features, width, fused):
    from streamgmm.kernels._target import registers_of

    assert registers_of(LINUX, cpu, features) == (width, fused)


def run_tests(cpu: str, *selected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *selected],
        env=limited(cpu), cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def one_shape(D: int, K: int) -> list[str]:
    families = ("full", "tied", "diag", "spherical")
    return [
        f"tests/kernels/test_kernels.py::test_vector_form_equals_the_reference[{D}-{K}-{name}]" for name in families
    ]


@needs_x86
@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64"])
def test_elementary_functions_on_narrower_processors(cpu):
    run_tests(cpu, "tests/kernels/test_vector.py")


@needs_x86
@pytest.mark.parametrize("cpu", ["x86-64-v3", pytest.param("x86-64", marks=pytest.mark.slow)])
def test_dense_forms_on_narrower_processors(cpu):
    """Small models and others, all families; blocks that go to the centred form."""
    run_tests(
        cpu,
        *one_shape(3, 5),
        *one_shape(8, 16),
        *one_shape(21, 3),
        "tests/kernels/test_kernels.py::test_blocks_beyond_the_bound_go_to_the_centred_form",
    )


@needs_x86
@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64"])
def test_all_kernel_tests_on_narrower_processors(cpu):
    run_tests(cpu, "tests/kernels/test_kernels.py", "tests/kernels/test_screened.py", "tests/kernels/test_accuracy.py")


TINY = """
import json
import numpy as np
from streamgmm.kernels._jit import jit


@jit
def double(x):
    return 2.0 * x


if __name__ == "__main__":
    assert double(1.5) == 3.0
    print(json.dumps([sum(double.stats.cache_hits.values()), sum(double.stats.cache_misses.values())]))
"""


@needs_x86
def test_what_was_compiled_for_one_processor_does_not_serve_another(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)

    def hits_and_misses(cpu: str) -> list[int]:
        environment = limited(cpu, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "tiny.py")], env=environment, capture_output=True, text=True, check=True
        )
        return list(json.loads(done.stdout))

    targets = ("x86-64-v3", "x86-64")
    assert [hits_and_misses(cpu) for cpu in targets] == [[0, 1], [0, 1]]
    assert [hits_and_misses(cpu) for cpu in targets] == [[1, 0], [1, 0]]
