"""Fights that are corrected, and what is recorded of them."""

import av
import numpy as np
import pytest
import zarr

from BC_training import correct
from BC_training.common.episodes import Episodes
from gameplay_pipeline.environments.stretches import Stretches
from gameplay_pipeline.record import RecordConfig, record
from tests.support import toy_env
from tests.support.commands import run
from tests.support.made_policy import made_bundle, save_policy

TOY = "tests.support.toy_env:Toy-v0"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    bundle = made_bundle(toy_env.ACTIONS, height=30, width=40)
    return save_policy(tmp_path_factory.mktemp("policy"), bundle)


def corrected(checkpoint, out, *more):
    return run(
        correct.main, "--checkpoint", checkpoint, "--env", TOY, "--out", out,
        "--expert", "--workers", "1", *more,
    )  # fmt: skip


def test_the_expert_judges_every_tick_and_drives_its_share(checkpoint, tmp_path):
    out = tmp_path / "corrections.zarr"
    done = corrected(checkpoint, out, "--share", "0.5", "--fights", "8")
    assert done.status == 0, done.err
    episodes = Episodes(out).episodes
    assert len(episodes) == 8
    drove = np.concatenate([episode.intervention for episode in episodes])
    assert 0 < drove.mean() < 1
    differing = 0
    for number, episode in enumerate(episodes):
        assert episode.judged.all()
        frames = Episodes(out).read_frames(number, slice(None))
        # The game shows in its first pixel what was pressed the tick before.
        assert np.array_equal(frames[1:, 0, 0] > 128, episode.pressed[:-1])
        differing += (episode.actions != episode.policy_actions).any(axis=1).sum()
    assert f"otherwise than the policy at {differing / len(drove):.1%}" in done.out


def test_the_film_shows_who_drives(checkpoint, tmp_path):
    out, video = tmp_path / "filmed.zarr", tmp_path / "filmed.mp4"
    options = ("--share", "0.9", "--fights", "1", "--seed", "6")
    done = corrected(checkpoint, out, *options, "--video", video)
    assert done.status == 0, done.err
    (episode,) = Episodes(out).episodes
    assert 0 < episode.intervention.mean() < 1
    with av.open(str(video)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    edges = np.array([picture[1, -300:].mean(axis=0) for picture in pictures])
    assert np.array_equal(edges[:, 0] > 150, episode.intervention)


def test_what_is_recorded_is_what_the_expert_alone_would_say(checkpoint, tmp_path):
    """With the expert at the wheel throughout, the recording is that of `record`."""
    out = tmp_path / "driven.zarr"
    assert corrected(checkpoint, out, "--share", "1", "--fights", "1").status == 0
    (episode,) = Episodes(out).episodes
    assert episode.intervention.all()
    record(
        RecordConfig(
            out=tmp_path / "recorded.zarr", env=TOY, episodes=1, resolution="40x30",
            seed=500_000, workers=1,
        )
    )  # fmt: skip
    (recorded,) = Episodes(tmp_path / "recorded.zarr").episodes
    assert np.array_equal(episode.actions, recorded.actions)
    assert np.array_equal(episode.state, recorded.state)


def test_a_stopped_run_goes_on_and_gives_the_same(checkpoint, tmp_path):
    whole, halves = tmp_path / "whole.zarr", tmp_path / "halves.zarr"
    assert corrected(checkpoint, whole, "--fights", "2").status == 0
    assert corrected(checkpoint, halves, "--fights", "1").status == 0
    again = corrected(checkpoint, halves, "--fights", "2")
    assert "halves.zarr: 1 fights more" in again.out
    for name in ("frames", "actions", "state", "policy_actions", "intervention"):
        one, other = (zarr.open_group(p)["episode_1"][name][:] for p in (whole, halves))
        assert np.array_equal(one, other)
    other_share = corrected(checkpoint, halves, "--fights", "2", "--share", "0.1")
    assert "source.share: written with 0.0, asked for 0.1" in other_share.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--share", "1.5"), "--share: 1.5 is no share"),
        (("--fights", "0"), "--fights: 0 is not at least 1"),
        (("--env", "tests.support.toy_env:Mute-v0"), "brings no expert"),
    ],
)
def test_what_can_not_be_corrected_is_named(checkpoint, tmp_path, more, message):
    done = corrected(checkpoint, tmp_path / "none.zarr", *more)
    assert done.status == 1
    assert message in done.err
    assert not (tmp_path / "none.zarr").exists()


def test_stretches_fill_their_share():
    stretches = Stretches(0.3, (15, 45), np.random.default_rng(0))
    inside, begins = [], []
    for _ in range(60_000):
        inside.append(stretches())
        begins.append(stretches.begins)
    assert abs(np.mean(inside) - 0.3) < 0.02
    lengths = [np.sum(part) for part in np.split(inside, np.flatnonzero(begins))][1:-1]
    assert (min(lengths), max(lengths)) == (15, 45)
