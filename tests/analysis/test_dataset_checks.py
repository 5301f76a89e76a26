"""Each way in which a dataset can be broken: found, named by episode and tick, handled."""

import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr

from BC_training.analysis.dataset import checks
from BC_training.common.episodes import Episodes
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.made_data import make_dataset


def change(group: Any, name: str, index: Any, value: Any) -> None:
    group[name][index] = value


def replace(group: Any, name: str, array: np.ndarray) -> None:
    del group[name]
    group.create_array(name, data=array, config={"write_empty_chunks": True})


def hold(made, group):
    """Left is tapped now and then, and once its release is lost."""
    root = zarr.open_group(made.path)
    for name in root.group_keys():
        root[f"{name}/actions"][:, 0] = np.arange(root[f"{name}/actions"].shape[0]) % 3 == 1
    root["episode_2/actions"][10:, 0] = True


def chunk(made, tick):
    return made.path / "episode_1" / "frames" / f"{tick}.0.0.0"


def damage(made, tick, edit):
    chunk(made, tick).write_bytes(edit(chunk(made, tick).read_bytes()))


def freeze(made, group):
    group["frames"][5:27] = np.repeat(group["frames"][5:6], 22, axis=0)


def copy(made, group):
    # Under another number, behind all others.
    shutil.copytree(made.path / "episode_1", made.path / "episode_9")


def never(made, group):
    root = zarr.open_group(made.path)
    for name in root.group_keys():
        root[f"{name}/actions"][:, 2] = False


def always(made, group):
    root = zarr.open_group(made.path)
    for name in root.group_keys():
        root[f"{name}/actions"][:, 0] = True


def times(made, group, edit):
    stamps = np.arange(30) / 17
    edit(stamps)
    group.create_array("timestamps", data=stamps)


def turn_back(stamps):
    stamps[12] = stamps[11] - 1


def jump(stamps):
    stamps[20:] += 3


class Break(NamedTuple):
    """A way to break episode_1 (30 ticks) of a made dataset, and what is said about it."""

    do: Any
    severity: str
    what: str
    episode: str | None = "episode_1"
    ticks: tuple[int, int] | None = None


BREAKS = {
    "a missing chunk": Break(lambda m, g: chunk(m, 7).unlink(), "error", "missing", ticks=(7, 8)),
    "a chunk cut off": Break(
        lambda m, g: damage(m, 7, lambda b: b[:-5]), "error", "can't be decoded", ticks=(7, 8)
    ),
    "an empty chunk": Break(
        lambda m, g: damage(m, 0, lambda b: b""), "error", "can't be decoded", ticks=(0, 1)
    ),
    "a chunk of noise": Break(
        lambda m, g: damage(m, 29, lambda b: bytes(range(256))),
        "error", "can't be decoded", ticks=(29, 30),
    ),
    "NaN in the state": Break(
        lambda m, g: change(g, "state", (slice(3, 6), 1), np.nan),
        "error", "its state hint is nan", ticks=(3, 6),
    ),
    "infinity in the state": Break(
        lambda m, g: change(g, "state", (4, 0), np.inf), "error", "its state hp is inf",
        ticks=(4, 5),
    ),
    "too few actions": Break(
        lambda m, g: replace(g, "actions", g["actions"][:29]), "error", "30 frames but 29 actions"
    ),
    "too narrow actions": Break(
        lambda m, g: replace(g, "actions", g["actions"][:, :2]), "error", "names 3 actions"
    ),
    "too narrow state": Break(
        lambda m, g: replace(g, "state", g["state"][:, :1]), "error", "names 2 columns"
    ),
    "frames of another type": Break(
        lambda m, g: replace(g, "frames", g["frames"][:].astype(np.float32)),
        "error", "frames are float32",
    ),
    "a frozen screen": Break(freeze, "warning", "frozen for 22 frames", ticks=(5, 27)),
    "a black screen": Break(
        lambda m, g: change(g, "frames", slice(4, 30), 3), "warning", "26 black frames",
        ticks=(4, 30),
    ),
    "a copied episode": Break(copy, "error", "it is a copy of episode_1", "episode_9"),
    "an action never pressed": Break(never, "warning", "'hit' is never pressed", None),
    "an action always pressed": Break(always, "warning", "'left' is always pressed", None),
    "a release that was lost": Break(
        hold, "warning", "'left' is held for 40 ticks (2.4 s)", "episode_2", ticks=(10, 50)
    ),
    "another rate": Break(
        lambda m, g: g.attrs.update(fps=30.0), "warning", "its fps is 30, the dataset's is 17"
    ),
    "a rate that is no number": Break(
        lambda m, g: g.attrs.update(fps="17"), "warning", "its fps is '17', not a rate above zero"
    ),
    "timestamps that turn back": Break(
        lambda m, g: times(m, g, turn_back), "error", "timestamps do not rise", ticks=(11, 13)
    ),
    "timestamps that jump": Break(
        lambda m, g: times(m, g, jump), "warning", "timestamps jump by 3.059 s", ticks=(19, 21)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_each_is_found_and_named(made, name):
    broken = BREAKS[name]
    broken.do(made, zarr.open_group(made.path)["episode_1"])
    found = checks.inspect(Episodes(made.path))
    (problem,) = [problem for problem in found if broken.what in problem.what]
    assert problem.severity == broken.severity
    assert problem.episode == broken.episode
    assert problem.ticks == broken.ticks
    assert len(found) == 1, found
    if broken.ticks is not None:
        assert f"tick{'s' if broken.ticks[1] - broken.ticks[0] > 1 else ''} {broken.ticks[0]}" in (
            str(problem)
        )


@pytest.mark.parametrize("layout", [{}, {"chunk": 16}, {"zarr_format": 3, "shard": 16}])
def test_a_sound_dataset_has_no_problems(tmp_path, layout):
    made = make_dataset(tmp_path / "made.zarr", **layout)
    assert checks.inspect(Episodes(made.path)) == []


def test_all_unreadable_chunks_are_listed_errors_first(tmp_path):
    made = make_dataset(tmp_path / "made.zarr", chunk=16)
    never(made, None)
    for number in (0, 1):
        chunk(made, number).write_bytes(b"")
    found = checks.inspect(Episodes(made.path))
    assert [(problem.severity, problem.ticks) for problem in found] == [
        ("error", (0, 16)), ("error", (16, 30)), ("warning", None),
    ]  # fmt: skip


def test_what_opening_finds_is_skipped_or_refused(made):
    chunk(made, 7).unlink()
    chunk(made, 9).unlink()
    zarr.open_group(made.path)["episode_3/state"][2, 0] = np.nan
    assert list(Episodes(made.path).skipped) == [
        Problem("error", "episode_1", "its frames are missing on disk", (7, 8)),
        Problem("error", "episode_1", "its frames are missing on disk", (9, 10)),
        Problem("error", "episode_3", "its state hp is nan", (2, 3)),
    ]
    without_state = Episodes(made.path, use_state=False)
    assert {problem.episode for problem in without_state.skipped} == {"episode_1"}
    with pytest.raises(UserError, match=r"episode_1, tick 7: .*\n.*tick 9.*\n.*episode_3, tick 2"):
        Episodes(made.path, validate=False)


def test_equal_buttons_do_not_make_a_copy(made):
    root = zarr.open_group(made.path)
    replace(root["episode_4"], "actions", root["episode_2/actions"][:35])
    for name in ("frames", "state"):
        replace(root["episode_2"], name, root[f"episode_2/{name}"][:35])
    replace(root["episode_2"], "actions", root["episode_2/actions"][:35])
    assert not Episodes(made.path).skipped
