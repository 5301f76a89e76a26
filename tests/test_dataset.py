"""Batches against a slow, obvious implementation; the cache."""

import numpy as np
import pytest

from BC_training.common.dataset import CachedFrames, Dataset
from BC_training.common.episodes import Episodes
from BC_training.common.types import UserError, WindowSpec

WINDOW = WindowSpec(ticks=3, stride=2, chunk=4, state=True, past_actions=True)


def open_split(made, tmp_path, numbers=(3, 0, 4), window=WINDOW):
    episodes = Episodes(made.path)
    return Dataset(episodes, numbers, window, CachedFrames(episodes, tmp_path / "cache"))


def test_every_sample_equals_the_slow_reading(made, tmp_path):
    numbers = (3, 0, 4)
    dataset = open_split(made, tmp_path, numbers)
    sample = 0
    for number in numbers:
        actions, length = made.actions[number], len(made.actions[number])
        for now in range(length):
            batch = dataset.batch(np.array([sample]))
            assert np.array_equal(batch.previous[0], actions[now - 1] if now else [False] * 3)
            for t, back in enumerate((4, 2, 0)):
                tick = max(now - back, 0)
                seen = batch.observation
                assert seen.valid[0, t] == (now >= back)
                assert np.array_equal(
                    seen.frames[0, t], np.moveaxis(made.frames[number][tick], 0, -1)
                )
                assert np.array_equal(seen.state[0, t], made.state[number][tick])
                before = actions[tick - 1] if tick else np.zeros(3, bool)
                assert np.array_equal(seen.past_actions[0, t], before)
            for k in range(4):
                assert batch.valid[0, k] == (now + k < length)
                assert np.array_equal(batch.actions[0, k], actions[min(now + k, length - 1)])
            assert batch.weight.tolist() == [1]
            sample += 1
    assert sample == len(dataset)


def test_an_epoch_visits_each_sample_at_most_once_and_resumes_anywhere(made, tmp_path):
    dataset = open_split(made, tmp_path)
    options = {"seed": 7, "batch_size": 8}
    steps = len(dataset) // 8
    whole = list(dataset.train_batches(**options, start=0, stop=2 * steps, threads=1))
    frames = np.concatenate([batch.observation.frames[:, -1] for batch in whole[:steps]])
    assert len({frame.tobytes() for frame in frames}) == steps * 8
    later = list(dataset.train_batches(**options, start=steps + 1, stop=2 * steps, threads=3))
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


def test_the_cache_is_shared_and_follows_the_data(made, tmp_path):
    folder = tmp_path / "cache"
    CachedFrames(Episodes(made.path), folder)
    (kept,) = folder.iterdir()
    written = (kept / "frames.u8").stat().st_mtime_ns
    CachedFrames(Episodes(made.path), folder)
    assert (kept / "frames.u8").stat().st_mtime_ns == written
    chunk = made.path / "episode_0" / "frames" / "0.0.0.0"
    chunk.write_bytes(chunk.read_bytes())
    CachedFrames(Episodes(made.path), folder)
    assert len(list(folder.iterdir())) == 2


def test_an_unreadable_frame_leaves_no_cache_behind(made, tmp_path):
    (made.path / "episode_2" / "frames" / "7.0.0.0").unlink()
    with pytest.raises(UserError, match="episode_2/frames"):
        CachedFrames(Episodes(made.path), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_folder_that_is_no_folder_says_what_to_do(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"dataset\.cache_dir"):
        CachedFrames(Episodes(made.path), tmp_path / "file" / "cache")
