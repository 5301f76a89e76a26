"""Batches against a slow, obvious implementation, on every residency."""

import jax
import numpy as np
import pytest

from BC_training.common.config import DatasetConfig
from BC_training.common.dataset import Dataset
from BC_training.common.episodes import Episodes
from BC_training.common.frames.open import open_frames
from BC_training.common.order import EpochOrder, StreamPlan
from BC_training.common.tables import Tables
from BC_training.common.types import WindowSpec
from tests.support.made_data import make_dataset

WINDOW = WindowSpec(ticks=3, stride=2, chunk=4, state=True, past_actions=True)
RESIDENCIES = ("cache", "stream", "device")


def open_split(
    made, tmp_path, numbers=(3, 0, 4), window=WINDOW, kind="cache", seed=7, shuffle_buffer=32
):  # fmt: skip
    episodes = Episodes(made.path)
    settings = DatasetConfig(
        path=str(made.path), residency=kind, cache_dir=str(tmp_path / "cache"),
        shuffle_buffer=shuffle_buffer,
    )  # fmt: skip
    plan = StreamPlan.of(
        episodes.chunk_length, episodes.frame_bytes,
        span=window.span, shuffle_buffer=shuffle_buffer, in_flight=0,
    )  # fmt: skip
    opened = open_frames(episodes, settings, plan, threads=2)
    tables = Tables.of(opened.episodes, window, numbers)
    return Dataset(tables, opened.frames, window, EpochOrder(tables.lengths, seed, plan))


def frames_of(dataset, batch):
    """The frames of a batch, wherever they are."""
    frames = batch.observation.frames
    return frames if dataset.resident is None else np.asarray(dataset.resident)[frames]


def train_batches(dataset, first, stop, threads=2):
    return list(dataset.train_batches(batch_size=8, steps=range(first, stop), threads=threads))


@pytest.mark.parametrize("kind", RESIDENCIES)
@pytest.mark.parametrize("chunk", [1, 16])
def test_every_sample_equals_the_slow_reading(tmp_path, kind, chunk):
    made = make_dataset(tmp_path / "made.zarr", chunk=chunk)
    numbers = (3, 0, 4)
    dataset = open_split(made, tmp_path, numbers, kind=kind)
    sample = 0
    for number in numbers:
        actions, length = made.actions[number], len(made.actions[number])
        for now in range(length):
            batch = dataset.batch(np.array([sample]))
            frames = frames_of(dataset, batch)
            assert np.array_equal(batch.previous[0], actions[now - 1] if now else [False] * 3)
            for t, back in enumerate((4, 2, 0)):
                tick = max(now - back, 0)
                seen = batch.observation
                assert seen.valid[0, t] == (now >= back)
                assert np.array_equal(frames[0, t], np.moveaxis(made.frames[number][tick], 0, -1))
                assert np.array_equal(seen.state[0, t, :2], made.state[number][tick])
                before = actions[tick - 1] if tick else np.zeros(3, bool)
                assert np.array_equal(seen.past_actions[0, t], before)
            for k in range(4):
                assert batch.valid[0, k] == (now + k < length)
                assert np.array_equal(batch.actions[0, k], actions[min(now + k, length - 1)])
            assert batch.weight.tolist() == [1]
            sample += 1
    assert sample == len(dataset)


@pytest.mark.parametrize("chunk", [1, 16])
def test_every_residency_gives_the_same_batches(tmp_path, chunk):
    made = make_dataset(tmp_path / "made.zarr", chunk=chunk)
    found = {}
    for kind in RESIDENCIES:
        dataset = open_split(made, tmp_path, kind=kind)
        batches = train_batches(dataset, 0, 2 * (len(dataset) // 8))
        found[kind] = [(frames_of(dataset, batch), batch) for batch in batches]
    for kind in RESIDENCIES[1:]:
        for (one, first), (other, second) in zip(found["cache"], found[kind], strict=True):
            assert np.array_equal(one, other)
            assert np.array_equal(first.actions, second.actions)
            assert np.array_equal(first.observation.state, second.observation.state)


@pytest.mark.parametrize("chunk", [1, 16])
def test_an_epoch_visits_each_sample_at_most_once_and_resumes_anywhere(tmp_path, chunk):
    made = make_dataset(tmp_path / "made.zarr", chunk=chunk)
    dataset = open_split(made, tmp_path)
    steps = len(dataset) // 8
    whole = train_batches(dataset, 0, 2 * steps, threads=1)
    frames = np.concatenate([batch.observation.frames[:, -1] for batch in whole[:steps]])
    assert len({frame.tobytes() for frame in frames}) == steps * 8
    later = train_batches(open_split(made, tmp_path), steps + 1, 2 * steps, threads=3)
    for one, other in zip(whole[steps + 1 :], later, strict=True):
        assert np.array_equal(one.observation.frames, other.observation.frames)
        assert np.array_equal(one.actions, other.actions)
    assert not np.array_equal(whole[0].observation.frames, whole[steps].observation.frames)


def test_evaluation_keeps_the_order_and_weighs_filling_rows_zero(made, tmp_path):
    dataset = open_split(made, tmp_path)
    batches = list(dataset.eval_batches(batch_size=32, threads=2))
    weight = np.concatenate([batch.weight for batch in batches])
    assert weight.sum() == len(dataset)
    assert weight[: len(dataset)].all()
    now = np.concatenate([batch.actions[:, 0] for batch in batches])[: len(dataset)]
    assert np.array_equal(now, dataset.actions)


def first(batches):
    """The first step of stacked ones."""
    return jax.tree.map(lambda x: x[0], batches)
