"""What a split holds besides frames: actions, game state, instructions, all in memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from BC_training.common.episode import Episode
from BC_training.common.episodes import Episodes
from BC_training.common.instruction import Instructions
from BC_training.common.types import WindowSpec
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.state_history import add_history


class Tables(NamedTuple):
    """What a split's episodes hold besides frames, laid end to end: N ticks of E episodes."""

    names: list[str]
    """Names of the episodes."""
    lengths: Int[np.ndarray, "E"]
    rows: Int[np.ndarray, "E"]
    """Row of each episode's first tick in the frame store."""
    entries: Int[np.ndarray, "E"]
    """Which entry of dataset.path each episode comes from."""
    actions: Bool[np.ndarray, "N A"]
    """What should have been pressed, at ticks that were judged."""
    pressed: Bool[np.ndarray, "N A"]
    """What was pressed; the same array unless a policy was corrected."""
    judged: Bool[np.ndarray, "N"] | None
    """Ticks at which somebody said what should have been pressed; None for all."""
    corrected: Bool[np.ndarray, "N"]
    """Ticks at which a policy was corrected."""
    state: Float[np.ndarray, "N D"] | None
    """With history; None where the model reads no state."""
    auxiliary: Float[np.ndarray, "N"] | None
    """Values of the attribute that the model learns to tell, if it does."""
    tokens: Int[np.ndarray, "E L"] | None
    """Tokens of each episode's instruction; None where the model reads none."""

    @classmethod
    def of(
        cls,
        episodes: Episodes,
        window: WindowSpec,
        numbers: Sequence[int] | None = None,
        *,
        instructions: Instructions | None = None,
        instruction: str | None = None,
    ) -> "Tables":
        """Reads the tables of some episodes.

        Args:
            episodes: the dataset.
            window: says what is needed.
            numbers: the split's episodes, as positions in `episodes.episodes`; all if not given.
            instructions: tokenizes the episodes' instructions, where the model reads them.
            instruction: of episodes that have none of their own.

        Raises:
            UserError: an episode has no instruction, or too long a one.
        """
        numbers = range(len(episodes)) if numbers is None else numbers
        chosen = [episodes.episodes[number] for number in numbers]
        width, column = len(episodes.state_names), 0
        if window.auxiliary:
            column = episodes.state_names.index(window.auxiliary)
        # The leading empty arrays give a split without episodes its shapes.
        states, auxiliary = [np.zeros((0, 3 * width), np.float32)], [np.zeros(0, np.float32)]
        for episode in chosen if window.state or window.auxiliary else ():
            state = episode.state
            assert state is not None  # the model's window was refused otherwise
            auxiliary.append(state[:, column])
            if window.state:
                states.append(add_history(state, None)[0].joined())
        none, places = np.zeros((0, len(episodes.actions)), bool), np.array(numbers, np.int64)
        actions = pressed = np.concatenate([none, *(e.actions for e in chosen)])
        judged = None
        if any(episode.intervention is not None for episode in chosen):
            pressed = np.concatenate([none, *(e.pressed for e in chosen)])
            judged = np.concatenate([e.judged for e in chosen])
        return cls(
            names=[episode.name for episode in chosen],
            lengths=np.array([episode.length for episode in chosen], np.int64),
            rows=episodes.starts[places],
            entries=episodes.entries[places],
            actions=actions,
            pressed=pressed,
            judged=None if judged is None or judged.all() else judged,
            corrected=np.concatenate([np.zeros(0, bool), *(e.corrected for e in chosen)]),
            state=np.concatenate(states) if window.state else None,
            auxiliary=np.concatenate(auxiliary) if window.auxiliary else None,
            tokens=None
            if instructions is None
            else _tokens(chosen, instructions, instruction, episodes.path),
        )


def _tokens(
    chosen: Sequence[Episode], instructions: Instructions, instruction: str | None, path: str
) -> Int[np.ndarray, "E L"]:
    """Tokens of each episode's instruction, or of the one for those that have none."""
    rows = [np.zeros((0, instructions.length), np.int32)]
    for episode in chosen:
        text = instruction_of(episode, instruction)
        try:
            rows.append(instructions.encode(text)[None])
        except UserError as error:
            raise UserError(f"{path}, {episode.name}: {error}") from error
    return np.concatenate(rows)


def instruction_of(episode: Episode, default: str | None) -> str:
    """What the player was told in an episode.

    Raises:
        UserError: nothing that we know of.
    """
    text = episode.attributes.get("instruction", default)
    if not isinstance(text, str):
        raise UserError(
            f"{episode.name}: the model reads an instruction, but this episode has none; record "
            "with instructions, or set dataset.instruction to what the player tried to do"
        )
    return text
