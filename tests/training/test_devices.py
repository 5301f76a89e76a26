"""One device or eight, one host or two: the same samples, the same losses, the same parameters."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from BC_training.checkpoints import store
from BC_training.checkpoints.state import flatten
from BC_training.common import config_file
from BC_training.training import trainer
from BC_training.training.devices import Devices, choose_devices, one_device
from BC_training.training.hosts import Hosts
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.commands import last, records
from tests.support.made_data import make_dataset
from tests.support.many_hosts import configured, ends, started

STEPS = 24
"""benchmarks/same_result.py takes more of them, with more models and layouts."""

CASES = {
    "pure_cnn": {"augmentation": {"shift": 0.1, "noise": 0.2}, "ema_decay": 0.9},
    "temporal_transformer": {"accumulation": 2},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the runs on two hosts of four devices, on eight devices and on one, and of one
    that went on from an epoch of the first to the last."""
    root = tmp_path_factory.mktemp("devices")
    data = make_dataset(root / "made.zarr").path

    def job(kind, name, epochs=3, resume=False):
        saved = {"save_every_n_epochs": 1 if kind in ("hosts", "changed") else 100}
        return configured(root, data, kind, name, num_epochs=epochs, **saved, **CASES[name]), resume

    def train(devices, jobs, hosts=1):
        with started(jobs, devices=devices, hosts=hosts) as processes:
            done = ends(processes, 300)
        assert [end.status for end in done] == [0] * hosts, [end.err for end in done]
        return done

    first, second = train(4, [job("hosts", "pure_cnn")], hosts=2)
    assert "on 8 x cpu of 2 hosts" in first.out
    assert "epoch" not in second.out
    shutil.copytree(root / "hosts" / "pure_cnn", root / "changed" / "pure_cnn")
    for step in (2 * STEPS // 3, STEPS):
        shutil.rmtree(root / "changed" / "pure_cnn" / str(step))
    (eight,) = train(8, [job("eight", "temporal_transformer"), job("changed", "pure_cnn", 2, True)])
    assert "on 8 x cpu" in eight.out
    for raw, resume in (*(job("one", name) for name in CASES), job("changed", "pure_cnn", 3, True)):
        trainer.train(config_file.validate(raw, "the test"), resume=resume)
    return root


def arrays(folder):
    return flatten(nnx.state(store.load_model(last(folder))[1]))


def figures(folder, name):
    return [row[name] for row in records(folder) if name in row]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("eight", "temporal_transformer"), ("hosts", "pure_cnn"), ("changed", "pure_cnn")],
)
def test_devices_only_split_the_batch(runs, kind, name):
    one, other = runs / "one" / name, runs / kind / name
    losses = [figures(folder, "train/loss") for folder in (one, other)]
    assert len(losses[0]) == len(losses[1]) == STEPS
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)
    expected = arrays(one)
    for key, array in arrays(other).items():
        difference = np.abs(np.asarray(array) - expected[key])
        if key.endswith("attention.project.bias"):
            # A bias of the keys moves all of a softmax alike: its gradient is rounding alone.
            third = len(difference) // 3
            difference = np.delete(difference, np.s_[third : 2 * third])
        assert difference.max() < 1e-4, key
    # A run that goes on is also judged where it stopped.
    judged = [figures(folder, "val/loss")[-1] for folder in (one, other)]
    np.testing.assert_allclose(*judged, atol=1e-4)


def config(training, system):
    raw = {"dataset": {"path": "d"}, "model": {"name": "pure_cnn"}}
    return config_file.validate({**raw, "training": training, "system": system}, "the test")


@pytest.mark.parametrize(
    ("training", "system", "message"),
    [
        ({"batch_size": 30}, {}, r"30\) can't be split over 8 devices .*nearest that can is 32"),
        ({"batch_size": 3}, {}, "nearest that can is 8"),
        (
            {"batch_size": 36, "accumulation": 2},
            {"devices": 4},
            "can't be split in 2 parts over 4 devices .*nearest that can is 32",
        ),
        ({}, {"devices": 9}, "system.devices: 9 are asked for, there are 8"),
    ],
)
def test_what_does_not_divide_is_refused(monkeypatch, training, system, message):
    there = jax.devices() * 8
    monkeypatch.setattr(jax, "devices", lambda: there)
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    with pytest.raises(UserError, match=message):
        choose_devices(config(training, system))


class Pretended(Hosts):
    """The second of two hosts; the first gives other values."""

    rank, count = 1, 2

    def __init__(self, first):
        self._first = first

    def gather(self, value):
        return [self._first, value]


def test_hosts_need_as_many_devices_each_and_share_them_alike():
    with pytest.raises(UserError, match="host 1 has 1 devices, host 0 has 4: all need the same"):
        choose_devices(config({}, {}), Pretended(4))
    with pytest.raises(UserError, match=r"system.devices: 1 can't be shared by 2 hosts"):
        choose_devices(config({}, {"devices": 1}), Pretended(1))


@pytest.mark.parametrize("parts", [1, 2])
def test_each_host_reads_its_rows_of_every_part_of_a_batch(parts):
    def rows(rank):
        hosts = Pretended(None)
        hosts.rank = rank
        return Devices(one_device().mesh, hosts).rows(16, parts).reshape(parts, -1)

    whole = np.concatenate([rows(0), rows(1)], axis=1)
    np.testing.assert_array_equal(whole.reshape(-1), np.arange(16))
