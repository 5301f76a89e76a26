"""Several datasets in one training: which ticks a step's batch holds, against slow countings."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import zarr

from BC_training.common import config_file
from BC_training.common.dataset import open_data
from BC_training.common.mix import MixedOrder, Part, allot
from BC_training.common.order import EpochOrder, StreamPlan
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.store.checks import stretches
from tests.support.made_data import ACTIONS, add_corrections, make_dataset

LENGTHS = np.array([100, 64, 130, 7, 1])
SIZE = int(LENGTHS.sum())
PLANS = [(1, 1), (16, 4), (64, 100)]
MEMBERS = np.random.default_rng(5).random(SIZE) < 0.3
MEMBERS[100:164] = False


@pytest.mark.parametrize(
    ("plan", "digest"),
    [((1, 1), "ff006e6254b47593"), ((16, 4), "fc781593858a3278"), ((64, 100), "c9707853009c743d")],
)
def test_one_dataset_is_visited_as_before_there_were_several(plan, digest):
    order = EpochOrder(LENGTHS, 3, StreamPlan(*plan))
    epochs = np.concatenate([order.samples(epoch, 0, SIZE) for epoch in range(3)])
    assert hashlib.sha256(epochs.astype(np.int64).tobytes()).hexdigest()[:16] == digest
    assert np.array_equal(order.batch(21, 30), order.samples(2, 30, 60))  # 10 steps an epoch


@pytest.mark.parametrize("plan", PLANS)
def test_only_members_are_visited_each_once_an_epoch(plan):
    order = EpochOrder(LENGTHS, 3, StreamPlan(*plan), MEMBERS)
    assert len(order) == MEMBERS.sum()
    for epoch in (0, 1):
        visited = np.concatenate(
            [order.samples(epoch, at, min(at + 9, len(order))) for at in range(0, len(order), 9)]
        )
        assert sorted(visited) == np.flatnonzero(MEMBERS).tolist()
        blocks = [order.blocks_ahead(epoch, at, at + 1) for at in range(len(order))]
        assert all(MEMBERS[first:last].any() for some in blocks for first, last in some)


@pytest.mark.parametrize("size", [1, 7, 32, 33])
@pytest.mark.parametrize("shares", [(0.75, 0.25), (0.5, 0.3, 0.2), (1 / 3, 1 / 3, 1 / 3), (1.0,)])
def test_shares_are_allotted_to_the_nearest_whole_numbers(shares, size):
    rows = allot(shares, size)
    assert sum(rows) == size
    exact = np.array(shares) * size
    assert (np.abs(rows - exact) < 1).all()
    # No other way to round each up or down that adds up comes nearer.
    ways = np.stack(np.meshgrid(*[[np.floor(e), np.ceil(e)] for e in exact]), -1)
    errors = [
        np.abs(way - exact).sum() for way in ways.reshape(-1, len(shares)) if way.sum() == size
    ]
    assert np.abs(rows - exact).sum() <= min(errors) + 1e-9


@pytest.mark.parametrize("plan", PLANS)
def test_each_part_is_visited_in_epochs_of_its_own(plan):
    parts = [Part("many", ~MEMBERS, 0.75), Part("few", MEMBERS, 0.25)]
    order = MixedOrder(parts, LENGTHS, 3, StreamPlan(*plan))
    steps = [order.batch(step, 16) for step in range(40)]
    for part, rows in zip(parts, (12, 4), strict=True):
        visits = [sorted(batch[part.ticks[batch]].tolist()) for batch in steps]
        assert {len(batch) for batch in visits} == {rows}
        # Counted by hand: how often a tick was visited never differs by more than one.
        counts = Counter(tick for batch in visits for tick in batch)
        times = 40 * rows / part.ticks.sum()
        assert set(counts.values()) <= {int(times), int(times) + 1}
        assert sum(counts.values()) == 40 * rows
    again = MixedOrder(parts, LENGTHS, 3, StreamPlan(*plan))
    assert all(np.array_equal(again.batch(step, 16), steps[step]) for step in (39, 0, 17))
    assert not np.array_equal(np.sort(steps[0]), steps[0])
    firsts = [MEMBERS[batch[0]] for batch in steps]
    assert any(firsts)
    assert not all(firsts)


def make_two(tmp_path, chunk=1):
    """A dataset, and one whose columns are in another order and whose frames differ."""
    first = make_dataset(tmp_path / "first.zarr", chunk=chunk)
    second = make_dataset(tmp_path / "second.zarr", lengths=(45, 33, 27))
    root = zarr.open_group(second.path)
    root.attrs.update({"keys": ["hit", "left", "right"], "attributes": ["hint", "hp"]})
    for _, episode in root.groups():
        for name, columns in (("actions", [2, 0, 1]), ("state", [1, 0])):
            episode[name][:] = episode[name][:][:, columns]
    return first, second


@pytest.fixture
def two(tmp_path):
    return make_two(tmp_path)


def opened(tmp_path, paths, dataset=None, model=None, **training):
    raw = {
        "dataset": {"path": paths, "cache_dir": str(tmp_path / "cache"), **(dataset or {})},
        "model": model or {"name": "state_vision"},
        "training": {"batch_size": 16, **training},
    }
    return open_data(config_file.validate(raw, "the test"))


def batches(data, steps):
    train = data.splits["train"]
    for batch in train.train_batches(batch_size=16, steps=steps, threads=2):
        frames = batch.observation.frames
        yield batch, frames if train.resident is None else np.asarray(train.resident)[frames]


@pytest.mark.parametrize(
    ("residency", "chunk"), [("cache", 1), ("stream", 1), ("stream", 16), ("device", 1)]
)
def test_two_datasets_are_mixed_three_to_one(tmp_path, residency, chunk):
    two = make_two(tmp_path, chunk)
    paths = [str(made.path) for made in two]
    settings = {"shares": [0.75, 0.25], "residency": residency}
    data = opened(tmp_path, paths, settings)
    assert data.spec.actions == ACTIONS
    images = {
        frame.tobytes(): number
        for number, made in enumerate(two)
        for episode in made.frames
        for frame in np.moveaxis(episode, 1, -1)
    }
    whole = list(batches(data, range(30)))
    for batch, frames in whole:
        origin = [images[frame.tobytes()] for frame in frames[:, 0]]
        assert origin.count(0) == 12
        # What was pressed can be read off the picture, whatever the order of the columns.
        left, right = (frames[:, 0, :12, half].mean((1, 2, 3)) > 100
                       for half in (slice(0, 16), slice(16, 32)))  # fmt: skip
        hit = frames[:, 0, 12:].mean((1, 2, 3)) > 100
        assert np.array_equal(batch.actions[:, 0], np.stack([left, right, hit], axis=1))
        assert (batch.observation.state[:, 0, 0] > 100).all()  # hp, of both
    resumed = list(batches(opened(tmp_path, paths, settings), range(17, 30)))
    for (one, seen), (other, seen_again) in zip(whole[17:], resumed, strict=True):
        assert np.array_equal(seen, seen_again)
        assert np.array_equal(one.actions, other.actions)
        assert np.array_equal(one.observation.state, other.observation.state)


def test_a_dataset_is_split_as_it_is_alone_and_without_shares_all_ticks_are_shuffled(two, tmp_path):
    paths = [str(made.path) for made in two]
    alone, both = opened(tmp_path, paths[0]), opened(tmp_path, str(tmp_path / "*.zarr"))
    for name in ("train", "val"):
        names = [f"first.zarr/{name}" for name in alone.splits[name].names]
        assert both.splits[name].names[: len(names)] == names
        assert len(both.splits[name].names) > len(names)
    train = both.splits["train"]
    steps = len(train) // 16
    visited = np.concatenate([train.order.batch(step, 16) for step in range(steps)])
    assert len(set(visited.tolist())) == 16 * steps


def refused(tmp_path, paths, message, dataset=None, **training):
    with pytest.raises(UserError, match=message):
        opened(tmp_path, paths, dataset, **training)


def test_datasets_that_do_not_belong_together_are_refused_by_name(two, tmp_path):
    first, second = (str(made.path) for made in two)
    refused(tmp_path, [first, first], "first.zarr is given more than once")
    refused(tmp_path, str(tmp_path / "no*.zarr"), "nothing matches")
    refused(tmp_path, [first, second], r"shares has 1 values.*2 entries", {"shares": [1.0]})
    refused(tmp_path, [first, second], r"up to 0\.9, but must add up to 1", {"shares": [0.5, 0.4]})
    few = {"shares": [0.99, 0.01]}
    refused(tmp_path, [first, second], r"of 16 samples, ticks of .*second\.zarr.* none", few)
    wanted = "corrected ticks .*there are none in the training split"
    refused(tmp_path, [first, second], wanted, intervention_share=0.5)
    zarr.open_group(second).attrs.update(
        {"keys": ["jump", "left", "right"], "attributes": ["hint", "mp"], "fps": 30.0}
    )
    refused(
        tmp_path, [first, second],
        r"second\.zarr can't be trained on together with .*first\.zarr: its actions lack hit; its "
        r"actions have jump besides; its state lack hp; its state have mp besides; fps is 30\.0",
    )  # fmt: skip


def test_a_fight_that_is_in_both_counts_once(two, tmp_path):
    make_dataset(tmp_path / "copied.zarr", lengths=(40, 25))
    data = opened(tmp_path, [str(two[0].path), str(tmp_path / "copied.zarr"), str(two[1].path)])
    assert [problem.episode for problem in data.episodes.skipped] == ["copied.zarr/episode_0"]
    assert "copy of first.zarr/episode_0" in data.episodes.skipped[0].what


@pytest.fixture
def corrected(tmp_path):
    """Fights in which somebody took over for a while; only that was judged."""
    made = make_dataset(tmp_path / "corrected.zarr")
    return made, *add_corrections(made)


WINDOW = {"name": "temporal_transformer", "ticks": 3, "chunk": 4, "layers": 1, "heads": 2,
          "encoder": {"past_actions": True, "width": 32}}  # fmt: skip


def test_ticks_that_nobody_judged_are_context_and_no_targets(corrected, tmp_path):
    made, drove, wanted = corrected
    data = opened(tmp_path, str(made.path), model=WINDOW)
    train = data.splits["train"]
    numbers = [int(name.removeprefix("episode_")) for name in train.names]
    judged = np.concatenate([drove[number] for number in numbers])
    assert train.targets.tolist() == np.flatnonzero(judged).tolist()
    steps = len(train.targets) // 16
    visited = np.concatenate([train.order.batch(step, 16) for step in range(steps)])
    assert set(visited.tolist()) <= set(train.targets.tolist())
    # Fights end to end, each tick with its own fight's neighbours.
    batch, sample = train.batch(np.arange(len(train))), 0
    for number in numbers:
        for tick in range(len(drove[number])):
            assert batch.weight[sample] == drove[number][tick]
            for k in range(4):
                later = tick + k
                is_target = later < len(drove[number]) and drove[number][later]
                assert batch.valid[sample, k] == is_target
            before = max(tick - 1, 0)  # what was really pressed, not what should have been
            pressed = (made.actions if drove[number][before] else wanted)[number][before]
            assert np.array_equal(batch.previous[sample], pressed & (tick > 0))
            assert np.array_equal(
                batch.observation.past_actions[sample, -1], batch.previous[sample]
            )
            sample += 1
    assert sample == len(train)
    runs = train.stretches(train.targets)
    assert runs[0] == 0
    assert runs[-1] + 1 == sum(len(stretches(drove[number])) for number in numbers)


def test_corrected_ticks_have_their_share_of_every_batch(corrected, tmp_path):
    made, drove, wanted = corrected
    for number in range(len(made.actions)):
        zarr.open_group(made.path)[f"episode_{number}"].attrs["judged"] = "all"
    plain = make_dataset(tmp_path / "plain.zarr", lengths=(60, 45, 33))
    paths = [str(plain.path), str(made.path)]
    shares = {"shares": [0.5, None]}
    train = opened(tmp_path, paths, shares, intervention_share=0.25).splits["train"]
    assert len(train.targets) == len(train)  # the expert judged them all
    numbers = [int(name[-1]) for name in train.names if name.startswith("corrected")]
    fights = [name.startswith("corrected") for name in train.names]
    is_corrected = np.concatenate([
        (drove[number] | (made.actions[number] != wanted[number]).any(axis=1)) for number in numbers
    ])  # fmt: skip
    first = len(train) - len(is_corrected)
    assert not any(np.diff(np.array(fights, int)) < 0)
    for step in range(40):
        batch = train.order.batch(step, 16)
        later = batch[batch >= first] - first
        assert is_corrected[later].sum() == 4
        assert (batch < first).sum() == 6  # half of the rest
        assert (~is_corrected[later]).sum() == 6
