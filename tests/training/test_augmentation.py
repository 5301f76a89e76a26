"""Random changes to batches: what each may do, and what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from BC_training.common.config import AugmentationConfig, MirrorConfig
from BC_training.common.game_state import fit_schema
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import Batch, Observation
from BC_training.training.augmentation import make_augmentation
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.state_history import add_history

ACTIONS = ("left", "right", "hit")
RNG = np.random.default_rng(0)
B, T, H, W = 64, 3, 12, 16
STATE = RNG.normal(loc=5, size=(50, 2)).astype(np.float32)
FITTED = Preprocess(
    frame_mean=(0.0,) * 3,
    frame_std=(1.0,) * 3,
    state=fit_schema(("side", "hp"), add_history(STATE, None)[0].joined()),
)


@pytest.fixture(scope="module")
def batch():
    pictures = jnp.asarray(RNG.normal(size=(B, 1, H, W, 3)), jnp.float32)
    return Batch(
        observation=Observation(
            frames=jnp.repeat(pictures, T, axis=1),
            state=jnp.asarray(RNG.normal(size=(B, T, 2)), jnp.float32),
            categories=None,
            past_actions=jnp.asarray(RNG.random((B, T, 3)) < 0.5, jnp.float32),
            instruction=None,
            valid=jnp.ones((B, T), bool),
        ),
        actions=jnp.asarray(RNG.random((B, 2, 3)) < 0.5),
        valid=jnp.ones((B, 2), bool),
        previous=jnp.asarray(RNG.random((B, 3)) < 0.5),
        auxiliary=None,
        weight=jnp.ones(B),
    )


def changed(batch, seed=0, **settings):
    augmentation = make_augmentation(AugmentationConfig(**settings), FITTED, ACTIONS)
    return jax.jit(augmentation)(batch, jax.random.key(seed))


def frames(batch):
    return np.asarray(batch.observation.frames)


def test_by_default_nothing_changes(batch):
    same = jax.tree.map(np.array_equal, batch, changed(batch))
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    "settings", [{"shift": 0.2}, {"brightness": 0.5}, {"contrast": 0.5}, {"cutout": 0.6}]
)
def test_a_windows_ticks_are_changed_alike_each_sample_in_its_own_way(batch, settings):
    found = frames(changed(batch, **settings))
    assert np.array_equal(found[:, 0], found[:, 1])
    assert len({(a - b).tobytes() for a, b in zip(found, frames(batch), strict=True)}) > B // 2
    assert np.array_equal(found, frames(changed(batch, **settings)))
    assert not np.array_equal(found, frames(changed(batch, seed=1, **settings)))
    others = changed(batch, **settings)
    assert np.array_equal(others.actions, batch.actions)


def test_a_shift_moves_by_whole_pixels_and_repeats_the_edge(batch):
    before, after = frames(batch), frames(changed(batch, shift=0.25))
    most_down, most_right = 3, 4
    seen = set()
    for row in range(B):
        padded = np.pad(before[row, 0], ((3, 3), (4, 4), (0, 0)), mode="edge")
        moves = [
            (down, right)
            for down in range(2 * most_down + 1)
            for right in range(2 * most_right + 1)
            if np.array_equal(padded[down : down + H, right : right + W], after[row, 0])
        ]
        assert len(moves) == 1
        seen.add(moves[0])
    assert len(seen) > 20


def test_noise_differs_everywhere_and_cutout_greys_a_rectangle(batch):
    noise = frames(changed(batch, noise=0.3)) - frames(batch)
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    cut = frames(changed(batch, cutout=0.5)) == 0
    assert (cut.all(axis=-1) == cut.any(axis=-1)).all()
    sizes = cut[:, 0, :, :, 0].sum(axis=(1, 2))
    assert 0 < sizes.mean() < sizes.max() <= 7 * 9
    for picture in cut[:, 0, :, :, 0]:
        rows, columns = picture.any(axis=1), picture.any(axis=0)
        assert np.array_equal(picture, rows[:, None] & columns[None])


def test_mirroring_swaps_what_it_is_told_to(batch):
    mirror = MirrorConfig(probability=1.0, actions=(("left", "right"),), state=("side",))
    found = changed(batch, mirror=mirror)
    assert np.array_equal(frames(found), frames(batch)[..., ::-1, :])
    for name in ("actions", "previous"):
        assert np.array_equal(getattr(found, name), getattr(batch, name)[..., [1, 0, 2]])
    seen, before = found.observation, batch.observation
    assert np.array_equal(seen.past_actions, before.past_actions[..., [1, 0, 2]])
    schema = FITTED.state
    values = [np.asarray(each.state) * schema.std + schema.mean for each in (seen, before)]
    assert np.allclose(values[0][..., 0], -values[1][..., 0], atol=1e-4)
    assert np.allclose(values[0][..., 1], values[1][..., 1], atol=1e-4)


def test_mirroring_takes_the_share_of_samples_that_it_is_told_to(batch):
    mirror = MirrorConfig(probability=0.5, actions=(("left", "right"),))
    found, before = frames(changed(batch, mirror=mirror)), frames(batch)
    turned = [np.array_equal(a, b[..., ::-1, :]) for a, b in zip(found, before, strict=True)]
    assert 0.3 < np.mean(turned) < 0.7
    for row in np.flatnonzero(~np.array(turned)):
        assert np.array_equal(found[row], before[row])


@pytest.mark.parametrize(
    ("mirror", "message"),
    [
        ({"actions": (("left", "jump"),)}, "no action 'jump'; the dataset has left, right, hit"),
        ({"actions": (("left", "right"), ("right", "hit"))}, "'right' stands twice"),
        ({"state": ("wing",)}, "no state feature 'wing'; known are side, hp"),
    ],
)
def test_unknown_names_are_refused(mirror, message):
    settings = AugmentationConfig(mirror=MirrorConfig(probability=0.5, **mirror))
    with pytest.raises(UserError, match=message):
        make_augmentation(settings, FITTED, ACTIONS)
