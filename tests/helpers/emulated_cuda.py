"""A graphics card on the processor: the kernels' own source, compiled by g++, each CUDA thread a fiber."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from streamgmm.kernels.cuda.base import Backend

HERE = Path(__file__).parent / "cuda_emulation"
KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(')


def compiler():
    """Path of g++, or None."""
    return shutil.which("g++")


class DeviceArray:
    """An array that NumPy does not take for one of the host's."""

    device = SimpleNamespace(id=0)

    def __init__(self, host):
        self._host = host

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    ndim = property(lambda self: self._host.ndim)
    strides = property(lambda self: self._host.strides)
    __cuda_array_interface__ = property(lambda self: dict(self._host.__array_interface__, version=3))

    def __len__(self):
        return len(self._host)

    def __getitem__(self, key):
        return DeviceArray(self._host[key])

    def __setitem__(self, key, value):
        self._host[key] = value._host

    def reshape(self, *shape):
        return DeviceArray(self._host.reshape(*shape))

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __iter__(self):
        raise TypeError("a device array is not iterated over")


class EmulatedBackend(Backend):
    """A card of compute capability 9.0 with `memory` bytes."""

    def __init__(self, folder=None, memory=1 << 30, capability=(9, 0)):
        super().__init__()
        self.index, self.name, self.capability = 0, "emulated card", capability
        self.shared_bytes, self.weak_float64, self.memory = 233_472, False, memory
        self.launches, self.uploaded, self.downloaded = [], 0, 0
        self.pinned_in_place = []  # arrays of the host, as long as they are
        self._folder = Path(folder or tempfile.gettempdir())
        self._held = self._peak = 0
        self._running = threading.RLock()

    def free_bytes(self):
        return self.memory - self._held

    def peak_bytes(self):
        return self._peak

    def _own(self, host):
        """`host` as an array of the card, counted until it is gone."""
        import weakref

        with self._running:
            self._held += host.nbytes
            self._peak = max(self._peak, self._held)
        if self._held > self.memory:
            self._release(host.nbytes)
            raise MemoryError(f"out of memory of the emulated card: {self._held} of {self.memory} bytes are in use")
        weakref.finalize(host, self._release, host.nbytes)
        return DeviceArray(host)

    def _release(self, nbytes):
        with self._running:
            self._held -= nbytes

    def empty(self, shape, dtype=np.float64):
        host = np.empty(shape, dtype)
        host.reshape(-1).view(np.uint8)[:] = 0xFB  # what nobody has written is seen
        return self._own(host)

    def zero(self, array):
        array._host[...] = 0

    def wrap(self, x):
        assert isinstance(x, DeviceArray), type(x)
        return x

    def address(self, array):
        return array._host.ctypes.data

    def contiguous(self, array):
        return array if array._host.flags.c_contiguous else self._own(np.ascontiguousarray(array._host))

    def upload(self, host, out=None, stream=None):
        assert isinstance(host, np.ndarray)
        out = self.empty(host.shape, host.dtype) if out is None else out
        assert out.dtype == host.dtype and out.size >= host.size
        out._host.reshape(-1)[: host.size] = host.ravel()
        self.uploaded += host.nbytes
        return out

    def download(self, array, out=None):
        out = np.empty(array.shape, array.dtype) if out is None else out
        assert out.dtype == array.dtype and out.size <= array.size
        out.reshape(-1)[:] = array._host.reshape(-1)[: out.size]
        self.downloaded += out.nbytes
        return out

    def pinned(self, nbytes):
        return np.full(nbytes, 0xFB, np.uint8)

    def pin(self, host):
        self.pinned_in_place.append(host)
        return lambda: self.pinned_in_place.remove(next(x for x in self.pinned_in_place if x is host))

    def stream(self):
        return contextlib.nullcontext()

    def synchronize(self):
        pass

    def mark(self):
        return lambda: None

    def build(self, code, defines, name, shared):
        names = KERNEL.findall(code)
        assert name in names
        entries = "".join(
            f'extern "C" int run_{one}(const int* shape, void** values)'
            f"{{ return emulation::launch({one}, shape, values); }}\n"
            for one in names
        )
        code = re.sub(
            r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = reinterpret_cast<\1*>(g_dynamic);", code
        )  # fmt: skip
        macros = "".join(f"#define {key} {value}\n" for key, value in defines.items())
        text = f'{macros}#include "emulate.h"\n{code}\n#include "emulate.cpp"\n{entries}'
        parts = text, *((HERE / part).read_text() for part in ("emulate.h", "emulate.cpp"))
        target = self._folder / f"{hashlib.sha256(''.join(parts).encode()).hexdigest()[:24]}.so"
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                (Path(folder) / "kernel.cpp").write_text(text)
                command = [
                    compiler(), "-std=c++17", "-Og", "-w", "-fPIC", "-shared", "-ffp-contract=off", f"-I{HERE}",
                    "-o", "kernel.so", "kernel.cpp",
                ]  # fmt: skip
                subprocess.run(command, check=True, cwd=folder)
                (Path(folder) / "kernel.so").replace(target)
        return name, getattr(ctypes.CDLL(str(target)), f"run_{name}"), shared

    def launch(self, kernel, grid, block, arguments, shared=0):
        name, function, allowed = kernel
        assert shared <= min(allowed, 232_448), "more shared memory than was asked for"
        held = []
        for argument in arguments:
            if isinstance(argument, DeviceArray):
                assert argument._host.flags.c_contiguous
                held.append(ctypes.c_void_p(argument._host.ctypes.data))
            elif isinstance(argument, np.ndarray):
                assert argument.size == 1
                held.append(argument)
            else:
                held.append((ctypes.c_double if isinstance(argument, float) else ctypes.c_longlong)(argument))
        pointers = [
            h.ctypes.data if isinstance(h, np.ndarray) else ctypes.cast(ctypes.byref(h), ctypes.c_void_p).value
            for h in held
        ]  # fmt: skip
        shape = (ctypes.c_int * 4)(*(*grid, 1)[:2], *(*block, 1)[:2])
        with self._running:
            self.launches.append(name)
            if function(shape, (ctypes.c_void_p * len(pointers))(*pointers)):
                raise RuntimeError(f"{name}: its threads wait for each other at different barriers")

    def product(self, a, b, out, *, turned, add):
        for x in (a, b, out):
            assert x.ndim == 3 and x._host.flags.c_contiguous
        a, b = a._host, b._host
        value = a.transpose(0, 2, 1) @ b if turned else a @ b.transpose(0, 2, 1)
        out._host[...] = out._host + value if add else value
