"""Plays an exported policy through onnxruntime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import Bool

from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.button_decoder import ButtonDecoder, Decision
from ranni_player.manifest import NETWORK, Manifest, read_manifest
from ranni_player.observations import ObservationReader, blank_observation


class Player:
    """Plays one fight at a time; load several to play several."""

    def __init__(self, folder: Path, manifest: Manifest, session: onnxruntime.InferenceSession):
        """Begins a fight with the default instruction."""
        self.folder, self.manifest, self._session = folder, manifest, session
        self._thresholds = np.array(manifest.thresholds)
        self.reset()

    @classmethod
    def load(cls, folder: str | Path, provider: str = "CPU") -> "Player":
        """Loads what `BC_training.export` wrote.

        Args:
            folder: the exported policy.
            provider: onnxruntime's execution provider, such as CPU, CUDA or Dml.

        Raises:
            UserError: the folder is damaged or of another version, or there is no such provider.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        name = provider.removesuffix("ExecutionProvider") + "ExecutionProvider"
        installed = onnxruntime.get_available_providers()
        if name not in installed:
            names = ", ".join(each.removesuffix("ExecutionProvider") for each in installed)
            raise UserError(f"--provider {provider}: not installed here; there is {names}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # A network may name files that hold its arrays, which no hash covers: it finds none here.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder / NETWORK)
        )
        try:
            session = onnxruntime.InferenceSession(
                (folder / NETWORK).read_bytes(), options, providers=[name]
            )
        except Exception as error:  # onnxruntime raises many kinds, without a common base
            raise UserError(f"{folder / NETWORK}: can't be loaded by {name}: {error}") from error
        _require_shapes(folder, manifest, session)
        player = cls(folder, manifest, session)
        try:  # which also takes the first tick's allocations out of the fight
            player.act(blank_observation(manifest.spec()))
        except Exception as error:
            raise UserError(
                f"{folder}: the network can't compute what the manifest describes: {error}"
            ) from error
        player.reset()
        return player

    def reset(self, instruction: str | None = None, seed: int = 0) -> None:
        """Forgets the fight so far. To be called before each fight.

        Args:
            instruction: one of the manifest's; by default its first.
            seed: seed of the decisions, where the rule draws them.

        Raises:
            UserError: the policy takes no instruction, or not this one.
        """
        manifest = self.manifest
        if instruction is not None and not manifest.instructions:
            raise UserError("--instruction: this policy takes no instruction")
        if instruction is not None and instruction not in manifest.instructions:
            raise UserError(
                f"--instruction {instruction!r}: an exported policy takes only what was known at "
                f"its export: {'; '.join(manifest.instructions)}. A served one (BC_training.serve) "
                "takes any"
            )
        self._feed: dict[str, Any] = {
            name: np.zeros(shape, dtype) for name, (shape, dtype) in manifest.memory.items()
        }
        self._feed["age"] -= 1
        if manifest.instructions:
            text = instruction or next(iter(manifest.instructions))
            self._feed["instruction"] = np.array([manifest.instructions[text]], np.int32)
        self._reader = ObservationReader(manifest.spec())
        self._decode = ButtonDecoder(manifest.rule, self._thresholds, seed)

    def act(
        self, observation: Mapping[str, Any], previous: Bool[np.ndarray, "A"] | None = None
    ) -> Decision:
        """Decides what to press now. Advances the fight by a tick.

        Args:
            observation: `frame` [H, W, C] uint8 in the colour order of the manifest, and, where
                the policy reads the game state, each of its attributes by name.
            previous: what was pressed one tick before, where that was not what the policy decided.

        Raises:
            UserError: the observation is not what the policy was trained on.
        """
        if previous is not None:
            self._reader.remember(previous)
        inputs = self._reader.read(observation)
        given = {name: value for name, value in inputs._asdict().items() if value is not None}
        outputs: list[Any] = list(self._session.run(None, {**self._feed, **given}))
        probabilities, *memory = outputs
        self._feed.update(zip(self.manifest.memory, memory, strict=True))
        pressed = self._decode(probabilities)
        self._reader.remember(pressed)
        return Decision(pressed, probabilities)


def _require_shapes(
    folder: Path, manifest: Manifest, session: onnxruntime.InferenceSession
) -> None:
    expected = {name: list(shape) for name, (shape, _) in
                {**manifest.memory, **manifest.inputs}.items()}  # fmt: skip
    actual = {given.name: list(given.shape) for given in session.get_inputs()}
    if expected != actual:
        raise UserError(
            f"{folder / NETWORK}: its inputs are {actual}, but the manifest says {expected}"
        )
    counts = len(manifest.actions), len(manifest.thresholds), session.get_outputs()[0].shape[0]
    if len(set(counts)) != 1:
        raise UserError(f"{folder}: there are {counts[0]} actions, {counts[1]} thresholds and "
                        f"{counts[2]} probabilities; these must agree")  # fmt: skip
