"""The card through CuPy; imported when a card is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import cupy
import numpy as np
from cupy.cuda import runtime
from numpy.typing import DTypeLike, NDArray

from streamgmm.errors import DeviceError
from streamgmm.kernels.cuda.base import INSTALL, Backend, Kernel

_ONE, _ZERO = np.ones(1), np.zeros(1)
_PINNED = 1
"""cudaMemoryTypeHost."""
_NOTHING: AbstractContextManager[Any] = nullcontext()


class CuPyBackend(Backend):
    """Card `index`.

    Raises
    ------
    DeviceError
        Without a driver, or without that card.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            raise DeviceError(
                f"device='cuda': there is no NVIDIA driver that CuPy {cupy.__version__} can use here ({error}). "
                f"Expected an NVIDIA card and its driver: install or update the driver, or {INSTALL}. Or use "
                "device='cpu'."
            ) from None
        if index >= count:
            raise DeviceError(
                f"device='cuda:{index}': this machine has {count} NVIDIA card{'' if count == 1 else 's'}. Expected the "
                "number of a card, from 0; nvidia-smi lists them, and CUDA_VISIBLE_DEVICES may hide some. Or use "
                "device='cpu'."
            )
        self.index = index
        self._modules: dict[tuple[Any, ...], Any] = {}
        self._alone = count == 1
        properties = runtime.getDeviceProperties(index)
        self.name = properties["name"].decode()
        self.capability = int(properties["major"]), int(properties["minor"])
        self.shared_bytes = int(properties["sharedMemPerMultiprocessor"])
        ratio = runtime.deviceGetAttribute(runtime.cudaDevAttrSingleToDoublePrecisionPerfRatio, index)
        self.weak_float64 = int(ratio) >= 16

    @property
    def _here(self) -> AbstractContextManager[Any]:
        """This card as the current one of the thread; to say so takes microseconds, so not where it is the only one."""
        return _NOTHING if self._alone else cupy.cuda.Device(self.index)

    def free_bytes(self) -> int:
        with self._here:
            pool = cupy.get_default_memory_pool()
            return int(runtime.memGetInfo()[0]) + int(pool.free_bytes())

    def peak_bytes(self) -> int:
        with self._here:
            return int(cupy.get_default_memory_pool().total_bytes())

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float64) -> cupy.ndarray:
        with self._here:
            return cupy.empty(shape, dtype)

    def zero(self, array: cupy.ndarray) -> None:
        array.data.memset_async(0, array.nbytes)

    def wrap(self, x: object) -> cupy.ndarray:
        return x if isinstance(x, cupy.ndarray) else cupy.asarray(x)

    def address(self, array: cupy.ndarray) -> int:
        return int(array.data.ptr)

    def contiguous(self, array: cupy.ndarray) -> cupy.ndarray:
        with self._here:
            return cupy.ascontiguousarray(array)

    def upload(self, host: NDArray[Any], out: cupy.ndarray | None = None) -> cupy.ndarray:
        with self._here:
            if out is None:
                out = cupy.empty(host.shape, host.dtype)
            if not host.flags.c_contiguous:
                host = np.ascontiguousarray(host)
            s = cupy.cuda.get_current_stream()
            runtime.memcpyAsync(out.data.ptr, host.ctypes.data, host.nbytes, runtime.memcpyHostToDevice, s.ptr)
            return out

    def download(self, array: cupy.ndarray, out: NDArray[Any] | None = None) -> NDArray[Any]:
        with self._here:
            if out is None:
                out = np.empty(array.shape, array.dtype)
            s = cupy.cuda.get_current_stream()
            nbytes = min(array.nbytes, out.nbytes)
            runtime.memcpyAsync(out.ctypes.data, array.data.ptr, nbytes, runtime.memcpyDeviceToHost, s.ptr)
            s.synchronize()
            return out

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        with self._here:
            return np.frombuffer(cupy.cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)

    def is_pinned(self, host: NDArray[Any]) -> bool:
        with self._here:
            return host.size > 0 and int(runtime.pointerGetAttributes(host.ctypes.data).type) == _PINNED

    def pin(self, host: NDArray[Any]) -> Callable[[], None] | None:
        address = host.ctypes.data
        with self._here:
            try:
                runtime.hostRegister(address, host.nbytes, 0)
            except runtime.CUDARuntimeError:  # read-only memory, a mapped file, a limit of the system
                return None
        return partial(self._unpin, address)

    def _unpin(self, address: int) -> None:
        with self._here, suppress(runtime.CUDARuntimeError):  # at the end of Python there is no card any more
            runtime.hostUnregister(address)

    def stream(self) -> AbstractContextManager[Any]:
        with self._here:
            return cupy.cuda.Stream(non_blocking=True)

    def synchronize(self) -> None:
        cupy.cuda.get_current_stream().synchronize()

    def mark(self) -> Callable[[], None]:
        with self._here:
            event = cupy.cuda.Event(block=True, disable_timing=True)
            event.record()
            wait: Callable[[], None] = event.synchronize
            return wait

    def build(self, code: str, defines: Mapping[str, str], name: str, shared: int) -> Kernel:
        with self._here:
            key = code, *defines.items()
            if key not in self._modules:
                options = ("-std=c++17", *(f"-D{name}={value}" for name, value in defines.items()))
                self._modules[key] = cupy.RawModule(code=code, options=options, backend="nvrtc")
            kernel = self._modules[key].get_function(name)
            if shared:
                kernel.max_dynamic_shared_size_bytes = shared
            return kernel.kernel

    def launch(
        self, kernel: Kernel, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any], shared: int = 0
    ) -> None:
        with self._here:
            kernel(grid, block, tuple(arguments), shared_mem=shared)

    def product(self, a: cupy.ndarray, b: cupy.ndarray, out: cupy.ndarray, *, turned: bool, add: bool) -> None:
        from cupy.cuda import cublas

        count, m, n = out.shape
        k = a.shape[1] if turned else a.shape[2]
        with self._here:
            handle = cupy.cuda.device.get_cublas_handle()
            # cuBLAS reads columns first: out^T = b a^T, or b^T a.
            plain, transposed = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
            first, second = (plain, transposed) if turned else (transposed, plain)
            beta = _ONE if add else _ZERO
            cublas.dgemmStridedBatched(
                handle, first, second, n, m, k, _ONE.ctypes.data, b.data.ptr, n if turned else k, n * k, a.data.ptr,
                m if turned else k, m * k, beta.ctypes.data, out.data.ptr, n, m * n, count,
            )  # fmt: skip
