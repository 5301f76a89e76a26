"""Reads weights that PyTorch saved before 1.6, without PyTorch and without running them.

Such a file holds five pickles (a magic number, a protocol number, facts about the machine, the
tensors' shapes, the keys of their storages), and behind them the storages' bytes. A pickle may name
any Python function to be called. Here four harmless names are known, and a file that holds another
is refused.
"""

import collections
import math
import pickle
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gameplay_pipeline.plumbing.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(f"it names {module}.{name}, which weights have no need of")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise UserError("it holds a reference that is no storage")
        return _Storage(key, dtype, count)


def read(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by name.

    Raises:
        UserError: it is no such file, is cut short, or holds something other than tensors.
    """
    try:
        with file.open("rb") as opened:
            return _read(opened, file.stat().st_size)
    except UserError as error:
        raise UserError(f"{file}: not read: {error}") from error
    except Exception as error:  # a pickle that is damaged may raise anything
        raise UserError(
            f"{file}: not weights that PyTorch saved before 1.6, or cut short ({error}); save them "
            "with safetensors.torch.save_file"
        ) from error


def _read(opened: BinaryIO, size: int) -> dict[str, np.ndarray]:
    magic, _, _, tensors, keys = (_Unpickler(opened).load() for _ in range(5))
    if magic != MAGIC:
        raise UserError("its first number is not PyTorch's")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    data: dict[str, np.ndarray] = {}
    for key in keys:
        (count,) = np.frombuffer(opened.read(8), "<i8").tolist()
        storage = storages[key]
        length = count * storage.dtype.itemsize
        if count != storage.elements or not 0 <= length <= size:
            raise UserError(f"storage {key} has {count} values, not {storage.elements}")
        data[key] = np.frombuffer(opened.read(length), storage.dtype, count)
    return {
        name: _array(name, tensor, data[tensor.storage.key]) for name, tensor in tensors.items()
    }


def _array(name: str, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """A tensor of its own, from the values of its storage."""
    shape, stride = tensor.shape, tensor.stride
    if len(shape) != len(stride) or min((tensor.offset, *shape, *stride)) < 0:
        raise UserError(f"the tensor {name} has the shape {shape} and the strides {stride}")
    last = sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    # Strides of 0 could make a huge tensor of few values.
    if tensor.offset + last >= len(values) or math.prod(shape) > len(values):
        raise UserError(f"the tensor {name} reaches beyond its storage")
    steps = [step * values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], shape, steps).copy()
