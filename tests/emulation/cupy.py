"""A module that stands in for CuPy: arrays in the host's memory, on emulated devices."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from emulation import cuda, nvrtc, streams
from emulation.cuda import Driver
from emulation.streams import Device, Event, Graph, Stream

Array = np.ndarray[Any, Any]

REFUSAL = "Implicit conversion to a NumPy array is not allowed. Please use `.get()`"


class Memory:
    """An allocation on the current device; fresh memory holds NaNs."""

    def __init__(self, size: int) -> None:
        self.driver = cuda.driver
        self.device = self.driver.device
        self.bytes = np.full(size + 256, 0xFF, np.uint8)
        start = -self.bytes.ctypes.data % 256
        self.view = self.bytes[start : start + size]

    def __del__(self) -> None:
        self.driver.keep(self.bytes)


class MemoryPointer:
    """An address of the device, which keeps its allocation."""

    def __init__(self, mem: Memory, ptr: int) -> None:
        self.mem, self.ptr, self.device_id = mem, ptr, mem.device

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr + offset)


def submit(operation: Callable[[], object]) -> None:
    cuda.driver.queue().submit(operation)


class ndarray:
    """A view of device memory; `_host` is what the device sees of it."""

    __module__ = "cupy"

    def __init__(
        self,
        shape: Any,
        dtype: Any = float,
        memptr: MemoryPointer | None = None,
        strides: Any = None,
        *,
        _of: Any = None,
    ) -> None:
        if memptr is not None:
            self._memory = memptr.mem
            begin = memptr.ptr - self._memory.view.ctypes.data
            self._host = np.ndarray(shape, dtype, self._memory.view, begin, strides)
        elif _of is None:
            dtype = np.dtype(dtype)
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            self._memory = Memory(size)
            self._host = self._memory.view.view(dtype).reshape(shape)
        else:
            self._memory, self._host = _of

    def _view(self, host: Array) -> ndarray:
        return ndarray((), _of=(self._memory, host))

    dtype = property(lambda self: self._host.dtype)
    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: Device(self._memory.device))
    T = property(lambda self: self._view(self._host.T))

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._memory, self._host.ctypes.data if self.size > 0 else 0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "stream": 1,
            "version": 3,
            "strides": None if self.flags.c_contiguous else self.strides,
            "data": (self._host.ctypes.data, False),
        }

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise TypeError(REFUSAL)

    def get(self, stream: Any = None, order: str = "C", out: Array | None = None) -> Array:
        cuda.driver.queue(None if stream is None else stream.ptr).synchronize()
        if out is None:
            return self._host.copy()
        out[...] = self._host
        return out

    def set(self, value: Array, stream: Any = None) -> None:
        value = np.ascontiguousarray(value, self.dtype).reshape(self.shape)
        if not self.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        queue = cuda.driver.queue(None if stream is None else stream.ptr)
        cuda.copy(self._host.ctypes.data, value.ctypes.data, self.nbytes, 1, queue)

    def fill(self, value: Any) -> None:
        submit(lambda: self._host.fill(value))

    def reshape(self, *shape: Any) -> ndarray:
        whole = self if self.flags.c_contiguous else self.copy()
        return whole._view(whole._host.reshape(*shape))

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def view(self, dtype: Any = None) -> ndarray:
        return self._view(self._host.view() if dtype is None else self._host.view(dtype))

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        return _computed(self.shape, dtype, lambda: self._host)

    def copy(self) -> ndarray:
        return self.astype(self.dtype)

    def all(self) -> ndarray:
        return _computed((), np.bool_, lambda: self._host.all())

    def __getitem__(self, key: Any) -> ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        if not any(isinstance(k, (ndarray, np.ndarray, list)) for k in keys):
            host = self._host[(..., *keys) if Ellipsis not in keys and not keys else key]
            return self._view(np.asarray(host) if isinstance(host, np.ndarray) else self._at(key))
        hosts = tuple(k._host if isinstance(k, ndarray) else k for k in keys)
        shape = np.empty(self.shape, np.bool_)[hosts].shape
        return _computed(shape, self.dtype, lambda: self._host[hosts])

    def _at(self, key: Any) -> Array:
        keys = key if isinstance(key, tuple) else (key,)
        return self._host[(*keys, ...)]  # a view without axes, where NumPy would give a number

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self[key]
        if target._memory is not self._memory:
            raise NotImplementedError("setting elements at an array of indices")
        if isinstance(value, np.ndarray):
            held = asarray(np.broadcast_to(value, target.shape).astype(self.dtype))
            target[...] = held
        elif isinstance(value, ndarray):
            submit(lambda: np.copyto(target._host, value._host, casting="unsafe"))
        else:
            submit(lambda: target._host.fill(value))

    def _in_place(self, operation: np.ufunc, other: Any) -> ndarray:
        operand = other._host if isinstance(other, ndarray) else other
        submit(lambda: operation(self._host, operand, out=self._host))
        return self

    def __iadd__(self, other: Any) -> ndarray:
        return self._in_place(np.add, other)

    def __isub__(self, other: Any) -> ndarray:
        return self._in_place(np.subtract, other)

    def __imul__(self, other: Any) -> ndarray:
        return self._in_place(np.multiply, other)

    def __len__(self) -> int:
        return len(self._host)

    def item(self) -> Any:
        return self.get().item()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __repr__(self) -> str:
        return f"emulated {self.get()!r}"


def _computed(shape: Any, dtype: Any, value: Callable[[], Any]) -> ndarray:
    result = ndarray(shape, dtype)
    submit(lambda: np.copyto(result._host, value(), casting="unsafe"))
    return result


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _computed(shape, dtype, lambda: 0)


def zeros_like(a: ndarray) -> ndarray:
    return zeros(a.shape, a.dtype)


def asarray(a: Any, dtype: Any = None) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    host = np.asarray(a, dtype)
    result = ndarray(host.shape, host.dtype)
    result.set(host)
    return result


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Array | None = None) -> Array:
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a)


def concatenate(arrays: Any) -> ndarray:
    hosts = [array._host for array in arrays]
    shape = (sum(len(host) for host in hosts), *hosts[0].shape[1:])
    return _computed(shape, hosts[0].dtype, lambda: np.concatenate(hosts))


def arange(*range: Any, dtype: Any = None) -> ndarray:
    return asarray(np.arange(*range, dtype=dtype))


def isfinite(a: ndarray) -> ndarray:
    return _computed(a.shape, np.bool_, lambda: np.isfinite(a._host))


def modules() -> tuple[Driver, dict[str, ModuleType]]:
    """A machine with idle devices: its driver, and CuPy's modules by their names."""
    driver = cuda.restart()
    top, below = ModuleType("cupy"), ModuleType("cupy.cuda")
    for function in (empty, zeros, zeros_like, asarray, asnumpy, arange, concatenate, isfinite):
        setattr(top, function.__name__, function)
    for name in ("float32", "float64", "int32", "int64", "uint8", "uint32", "uint64", "bool_"):
        setattr(top, name, getattr(np, name))
    top.__dict__.update(
        __version__="14.0.0",
        ndarray=ndarray,
        array=lambda a, dtype=None: asarray(a, dtype).copy(),
        all=ndarray.all,
        RawModule=nvrtc.RawModule,
        cuda=below,
    )
    below.__dict__.update(
        Device=Device,
        Event=Event,
        Graph=Graph,
        Stream=Stream,
        alloc_pinned_memory=streams.pinned,
        get_current_stream=streams.get_current_stream,
        is_available=lambda: True,
        runtime=streams.runtime(),
        compiler=SimpleNamespace(CompileException=nvrtc.CompileError),
        function=SimpleNamespace(Module=nvrtc.Module, Function=nvrtc.Function),
        nvrtc=nvrtc.nvrtc(),
    )
    Stream.null = Stream(null=True)
    return driver, {"cupy": top, "cupy.cuda": below}
