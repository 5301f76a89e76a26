"""Old PyTorch files: their tensors are read, and nothing else in them is believed."""

import collections
import os
import pickle
import sys
import types

import numpy as np
import pytest

from BC_training.networks import torch_pickle
from gameplay_pipeline.plumbing.errors import UserError

ARRAYS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn1.num_batches_tracked": np.array(7, np.int64),
}


class _Parts(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Placed) else None


class _Placed:
    def __init__(self, pid):
        self.pid = pid


@pytest.fixture
def torch_names(monkeypatch):
    """As many of PyTorch's names as its old files hold, for the pickler to find."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch, utils


def write(file, torch, utils, extra=None):
    """A file as torch.save wrote it."""

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            kind = torch.LongStorage if self.array.dtype == np.int64 else torch.FloatStorage
            storage = _Placed(("storage", kind, self.key, "cpu", self.array.size, None))
            strides = tuple(step // self.array.itemsize for step in self.array.strides)
            arguments = (storage, 0, self.array.shape, strides, False, collections.OrderedDict())
            return utils._rebuild_tensor_v2, arguments

    tensors = collections.OrderedDict(
        (name, Tensor(str(key), array)) for key, (name, array) in enumerate(ARRAYS.items())
    )
    if extra is not None:
        tensors["extra"] = extra
    with file.open("wb") as opened:
        for part in (torch_pickle.MAGIC, 1001, {}, tensors, ["0", "1"]):
            _Parts(opened, 2).dump(part)
        for array in ARRAYS.values():
            opened.write(np.int64(array.size).tobytes() + array.tobytes())


def test_tensors_come_back(tmp_path, torch_names):
    write(tmp_path / "old.pth", *torch_names)
    arrays = torch_pickle.read(tmp_path / "old.pth")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_a_file_that_would_run_something_is_refused_unrun(tmp_path, torch_names):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    write(tmp_path / "evil.pth", *torch_names, extra=Evil())
    with pytest.raises(UserError, match=r"evil.pth: not read: it names posix.mkdir"):
        torch_pickle.read(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 5, 40, -1, -30])
def test_a_file_that_is_cut_short_is_named(tmp_path, torch_names, keep):
    file = tmp_path / "cut.pth"
    write(file, *torch_names)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cut.pth: not "):
        torch_pickle.read(file)
