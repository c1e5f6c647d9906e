"""The machine code of the inner loops on processors at hand and not: LLVM compiles for all of them anywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.helpers.targets import LINUX, ROOT, limited, on_x86

pytestmark = pytest.mark.skipif(not on_x86(), reason="tiles are made here for x86-64 processors, wide and narrow ones")

PARTS = """
import json
import numpy as np
from streamgmm.kernels._jit import bare_jit as jit
from streamgmm.kernels.simd import products
from streamgmm.kernels.simd.elementary import exp
from streamgmm.kernels.simd.intrinsics import load, store


@jit
def logits(coefs, phi, out):
    products.logits(coefs, phi, out)


@jit
def logits_in_strips(coefs, phi, out):
    products._add_logits(coefs, 0, 8, phi, out)


@jit
def sums(resp, psi, out):
    products.accumulate(resp, psi, psi.shape[0], out.shape[1], 1, out)


@jit
def sums_in_strips(resp, twice, psi, out):
    products.accumulate_products(resp, twice, psi.shape[0], 12, out.shape[1], 1, psi, out)


@jit
def outer(rows, chosen, resp, roots, near, out):
    products.outer_sums(rows, chosen, 0, chosen.size, resp, roots, near, out)


@jit
def exponential(x):
    for at in range(0, x.size, 8):
        store(exp(load(x, at)), x, at)


a = np.zeros((8, 32))
coefs = np.zeros((8, 9, 1))
logits(coefs, a, a.copy())
logits_in_strips(coefs, a, a.copy())
resp = np.zeros((2, 8, 32))
sums(resp, np.zeros((64, 32)), a[None])
sums_in_strips(resp, np.zeros((64, products.twice_width(12))), np.zeros((64, products.SPILL)), np.zeros((3, 8, 32)))
outer(np.zeros((64, 16)), np.zeros(64, np.int64), np.zeros(64), np.zeros(64), np.zeros((64, 16)), np.zeros((17, 16)))
exponential(np.zeros(32))
functions = (logits, logits_in_strips, sums, sums_in_strips, outer, exponential)
print(json.dumps({f.py_func.__name__: next(iter(f.inspect_llvm().values())) for f in functions}))
"""
TARGETS = {
    "skylake-avx512": ("skylake-avx512", LINUX, r"vfn?m(?:add|sub)\w*pd\s.*%zmm"),
    "x86-64-v3": ("x86-64-v3", LINUX, r"vfn?m(?:add|sub)\w*pd\s.*%ymm"),
    "neoverse-n1": ("x86-64-v3", "aarch64-unknown-linux-gnu", r"fml[as]\s+v\d+\.2d"),
    "apple-m1": ("x86-64-v3", "arm64-apple-macosx", r"fml[as](?:\.2d|\s+v\d+\.2d)"),
}
"""Processor -> the one whose tiles it takes, the system, a multiply-add of its whole registers."""
ONE_AT_A_TIME = r"vfn?m(?:add|sub)\w*sd\s|fn?m(?:add|sub)\s+d\d"


@pytest.fixture(scope="module")
def optimised(tmp_path_factory):
    """LLVM's code of the inner loops, with the tiles for wide and for narrow registers."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "parts.py").write_text(PARTS)
    found = {}
    for cpu in ("skylake-avx512", "x86-64-v3"):
        environment = limited(cpu, PYTHONPATH=str(ROOT), NUMBA_CACHE_DIR=str(folder / cpu))
        command = [sys.executable, str(folder / "parts.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found[cpu] = json.loads(done.stdout)
    return found


def machine_code(code: str, triple: str, cpu: str) -> str:
    """Assembly of the loops, in comments where each block lies, without the functions by which Python calls it."""
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    machine.set_asm_verbosity(True)  # spills are told in comments
    code = re.sub(r'target triple = ".*"', f'target triple = "{triple}"', code)
    code = re.sub(r'target datalayout = ".*"', f'target datalayout = "{machine.target_data}"', code)
    code = re.sub(r'"target-(?:cpu|features)"="[^"]*"', "", code)
    text = machine.emit_assembly(binding.parse_assembly(code))
    functions = re.split(r"(?m)^(?=_?_ZN)", text)
    return "".join(part for part in functions if not re.match(r"_?_ZN7cpython", part))


def loops(code: str) -> list[str]:
    """Blocks that lie in a loop of no other loop."""
    blocks = re.split(r"(?m)^(?=\.?LBB|[;#/ ]+%bb)", code)
    return [block for block in blocks if "Inner Loop Header" in block]


@pytest.mark.parametrize("part", ["logits", "logits_in_strips", "sums", "sums_in_strips", "outer", "exponential"])
@pytest.mark.parametrize("target", TARGETS)
def test_inner_loops_use_whole_registers_and_nothing_else(optimised, target, part):
    tiles, triple, multiply_add = TARGETS[target]
    code = machine_code(optimised[tiles][part], triple, target)
    assert not re.findall(ONE_AT_A_TIME, code)
    inner = [block for block in loops(code) if re.search(multiply_add, block)]
    whole = sum(len(re.findall(multiply_add, block)) for block in inner)
    assert whole >= 8
    for block in inner:
        assert not re.findall(r"(?m)^\s+(?:callq?|blr?)\s", block), "a call, of the C library or of another function"
    vectors = r"(?m)^.*(?:mm\d|\sq\d).*-byte (?:Folded )?Spill.*$"
    spills = [line for block in inner for line in re.findall(vectors, block)]
    assert len(spills) <= whole // 10, spills
