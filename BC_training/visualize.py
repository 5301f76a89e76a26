"""One episode in Rerun's viewer, and what a checkpoint makes of it.

uv run --group visualize -m BC_training.visualize --dataset PATH --episode 3 [--checkpoint C]
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import tyro
from jaxtyping import Float, UInt8

from BC_training.analysis.policy.replay import Replayed, replay
from BC_training.analysis.policy.saliency import Saliency
from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import require_same
from BC_training.common.episode import Episode
from BC_training.common.episodes import Episodes
from BC_training.common.game_state import ANIMATION, BODIES, RATIO
from BC_training.common.tables import instruction_of
from BC_training.common.types import DataSpec
from BC_training.play.policy import Policy
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import require_folders
from gameplay_pipeline.plumbing.progress import track

FRAMES_AT_ONCE = 64
"""How many frames are decoded at once."""

Shown = tuple[UInt8[np.ndarray, "H W C"], Replayed | None, Float[np.ndarray, "H W"] | None]
"""A tick's frame; what a policy makes of it, and where it looks, if one plays."""

POSITIONS = {name for body in BODIES for name in body}


def visualize(
    dataset: str,
    episode: int,
    checkpoint: Path | None = None,
    out: Path | None = None,
    smooth: int = 16,
) -> int:
    """Writes an episode as a recording for Rerun's viewer, and opens it where there is a display.

    With a checkpoint, the episode is played to its policy tick by tick, whose own presses are its
    past ones: what it would press, how probable it holds each button, and where the picture speaks
    for those that it presses.

    Args:
        dataset: a zarr directory, a .zip of one, or a URL of either.
        episode: its number: 3 for episode_3.
        checkpoint: a checkpoint, or a run's folder for its best one.
        out: the .rrd; by default episode_NUMBER.rrd in this folder.
        smooth: noisy copies of each frame over which its saliency is averaged; 0 for no saliency,
            which on a CPU takes most of the time.
    """
    out = _output(out, episode, smooth)
    viewer = _viewer()
    loaded = None if checkpoint is None else checkpoints.load_model(checkpoints.locate(checkpoint))
    episodes = Episodes(dataset, use_state=loaded is None or loaded[0].config.dataset.use_state)
    number = _find(episodes, episode)
    chosen = episodes.episodes[number]
    frames = track(_frames(episodes, number), "Writing", chosen.length)
    policy = None
    played: Iterable[Shown] = ((frame, None, None) for frame in frames)
    if loaded is not None:
        require_same(loaded[0], episodes.spec(), episodes.path)
        policy = Policy(*loaded)
        played = _played(policy, Saliency(*loaded, smooth) if smooth else None, chosen, frames)
    # Renamed into place: a run that is stopped leaves no file that looks whole.
    partial = out.with_name(f"{out.stem}.partial.rrd")
    try:
        _write(partial, viewer, episodes, chosen, policy, played)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{out}: {chosen.length:,} ticks, {out.stat().st_size / 2**20:.1f} MiB")
    _open(out)
    return 0


def _write(
    file: Path,
    viewer: ModuleType,
    episodes: Episodes,
    episode: Episode,
    policy: Policy | None,
    played: Iterable[Shown],
) -> None:
    """Writes all ticks of an episode, with what a policy makes of them if one plays."""
    spec = episodes.spec()
    seconds, state = _seconds(episode, spec), episode.state if spec.state else None
    groups, drawn = _drawn(spec.state, state)
    writer = viewer.RerunWriter(
        file,
        about=_about(episodes, episode, spec, policy, drawn),
        actions=spec.actions,
        thresholds=None if policy is None else policy.bundle.thresholds,
        state=groups,
        has_time=seconds is not None,
    )
    with contextlib.closing(writer):
        is_bgr = spec.frame.color_order == "BGR"
        for tick, (frame, decision, saliency) in enumerate(played):
            writer.add(
                tick,
                None if seconds is None else float(seconds[tick]),
                frame=frame[..., ::-1] if is_bgr else frame,
                pressed=episode.actions[tick],
                state={name: float(values[tick]) for name, values in drawn.items()},
                decision=decision,
                saliency=saliency,
            )


def _output(out: Path | None, episode: int, smooth: int) -> Path:
    """The file to write.

    Raises:
        UserError: an argument makes no sense.
    """
    out = out or Path(f"episode_{episode}.rrd")
    if out.suffix != ".rrd":
        raise UserError(f"--out: {out} does not end in .rrd")
    require_folders(out=out)
    if smooth < 0:
        raise UserError(f"--smooth: {smooth} is below zero")
    return out


def _viewer() -> ModuleType:
    """The module that writes for Rerun, which not everyone has installed."""
    try:
        from BC_training.analysis.policy import viewer
    except ImportError as error:
        raise UserError(str(error)) from error
    return viewer


def _played(
    policy: Policy,
    saliency: Saliency | None,
    episode: Episode,
    frames: Iterable[UInt8[np.ndarray, "H W C"]],
) -> Iterator[Shown]:
    """Each frame of an episode, what the policy makes of it, and where it looks."""
    config = policy.bundle.config
    reads_instructions = policy.bundle.preprocess.instructions is not None
    instruction = (
        instruction_of(episode, config.dataset.instruction) if reads_instructions else None
    )
    state = episode.state if config.model.window().state else None
    for tick in replay(policy, frames, state, instruction):
        yield tick.frame, tick, saliency(policy, tick.pressed) if saliency is not None else None


def _find(episodes: Episodes, wanted: int) -> int:
    """The position in `episodes.episodes` of an episode by its number.

    Raises:
        UserError: it is broken, or there is none; says which there are.
    """
    name = f"episode_{wanted}"
    names = [episode.name for episode in episodes.episodes]
    if name in names:
        return names.index(name)
    for problem in episodes.skipped:
        if problem.episode == name:
            raise UserError(f"{episodes.path}: {problem}")
    nearest = min(names, key=lambda other: abs(int(other.removeprefix("episode_")) - wanted))
    raise UserError(
        f"--episode: {episodes.path} has no {name}; the nearest of its {len(names)} episodes "
        f"({names[0]} to {names[-1]}) is {nearest}"
    )


def _frames(episodes: Episodes, number: int) -> Iterator[UInt8[np.ndarray, "H W C"]]:
    """An episode's frames, a few of them decoded at a time, and no chunk twice."""
    episode = episodes.episodes[number]
    step = -(-FRAMES_AT_ONCE // episode.frames.chunk_length) * episode.frames.chunk_length
    for first in range(0, episode.length, step):
        yield from episodes.read_frames(number, slice(first, first + step))


def _seconds(episode: Episode, spec: DataSpec) -> Float[np.ndarray, "N"] | None:
    """Seconds since the first frame: as recorded, or else by the rate, or else None."""
    if (timestamps := episode.timestamps) is not None:
        return timestamps - timestamps[0]
    return None if spec.frame.fps is None else np.arange(episode.length) / spec.frame.fps


def _drawn(
    names: tuple[str, ...], state: Float[np.ndarray, "N S"] | None
) -> tuple[dict[str, list[str]], dict[str, Float[np.ndarray, "N"]]]:
    """The attributes that are drawn, by group, and their values.

    Resources become shares of their maximum where it is recorded. What never changes is left to
    the text.
    """
    groups: dict[str, list[str]] = {}
    drawn: dict[str, Float[np.ndarray, "N"]] = {}
    columns = {} if state is None else dict(zip(names, state.T, strict=True))
    for name, values in columns.items():
        if match := RATIO.fullmatch(name):
            group, maximum = "resources", columns.get(f"{match[1]}Max{match[2]}")
            values = values if maximum is None else values / np.maximum(maximum, 1)
        elif values.min() == values.max():
            continue
        elif ANIMATION.fullmatch(name):
            group = "animations"
        else:
            group = "positions" if name in POSITIONS else "others"
        groups.setdefault(group, []).append(name)
        drawn[name] = values
    return groups, drawn


def _about(
    episodes: Episodes,
    episode: Episode,
    spec: DataSpec,
    policy: Policy | None,
    drawn: Mapping[str, Float[np.ndarray, "N"]],
) -> str:
    """What is shown, as Markdown."""
    rate = "" if spec.frame.fps is None else f" at {spec.frame.fps:g} a second"
    lines = [f"# {episode.name}", f"of `{episodes.path}`: {episode.length:,} ticks{rate}", ""]
    lines += [f"- `{name}`: {value}" for name, value in episode.attributes.items()]
    if spec.state and (state := episode.state) is not None:
        lines += [
            f"- `{name}`: {values[0]:.10g} throughout"
            for name, values in zip(spec.state, state.T, strict=True)
            if name not in drawn
        ]
        lines += ["", "Resources are shares of their maximum, where it is recorded."]
    if policy is not None:
        lines += [
            "",
            f"# Policy: {policy.bundle.config.model.name}",
            f"after epoch {policy.bundle.epoch}, decides by the rule "
            f"{policy.bundle.config.play.rule!r}",
            "",
            "Grey: the player. Green: the policy. Pink: how probable it holds a button, against "
            "the threshold, and over the screen where the picture speaks for what it presses.",
        ]
    return "\n".join(lines)


def _open(file: Path) -> None:
    """Shows a recording, or says how to."""
    if sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        # A process of its own: the viewer stays when this command ends.
        quiet = subprocess.DEVNULL
        command = [sys.executable, "-m", "rerun_cli", str(file)]
        subprocess.Popen(command, start_new_session=True, stdout=quiet, stderr=quiet)
    else:
        print(f"no display here; where there is one: uv run --group visualize rerun {file}")


def main() -> int:
    return tyro.cli(visualize, use_underscores=True, prog="python -m BC_training.visualize")


if __name__ == "__main__":
    sys.exit(command.run(main))
