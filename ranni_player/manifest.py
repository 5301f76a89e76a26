"""The manifest of an exported policy: all that a player must know besides the network."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.button_decoder import Rule
from ranni_player.contract import Contract
from ranni_player.observations import ObservationSpec

FORMAT = 1
NETWORK, MANIFEST, GOLDEN = "policy.onnx", "manifest.json", "golden.npz"
"""The files of a folder. The manifest names none, so that nothing outside is ever read."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is in `manifest.json`, readable by a person."""

    model: str
    actions: list[str]
    """The A buttons, in the order of the network's outputs."""
    rule: Rule
    """threshold or sample, as in the section `play` of the configuration."""
    thresholds: list[float]
    """Probability from which each action is pressed."""
    frame: dict[str, Any]
    """The frame contract: height, width, channels, color_order, resize, fps."""
    attributes: list[str]
    """The S attributes of the game's state that the network reads; empty where it reads none."""
    state: dict[str, Any] | None
    """What the network makes of the attributes, with its vocabularies; for people to read."""
    past_actions: bool
    """Whether the network reads what was pressed one tick before."""
    instructions: dict[str, list[int]]
    """Tokens of each instruction the policy can be given, the default first; empty where it takes
    none."""
    inputs: dict[str, list[Any]]
    """Shape and data type of each input that describes a tick."""
    memory: dict[str, list[Any]]
    """Shape and data type of what the network carries from tick to tick, first zeros, `age` -1."""
    precision: str
    golden: str
    """Where the golden frames are from."""
    network_sha256: str
    golden_sha256: str
    revision: str
    """The code's revision."""
    versions: dict[str, str]
    proof: dict[str, Any]
    """How the network compared with the original at its export."""
    format: int = FORMAT

    def spec(self) -> ObservationSpec:
        """Returns what the policy reads of an observation."""
        frame = self.frame
        return ObservationSpec(
            (frame["height"], frame["width"], frame["channels"]),
            len(self.actions),
            tuple(self.attributes),
            self.past_actions,
        )

    def contract(self) -> Contract:
        """Returns what the policy needs of an environment."""
        return Contract(tuple(self.actions), tuple(self.attributes), self.frame)

    def write(self, folder: Path) -> None:
        """Writes the manifest with a digest of all of it."""
        raw = dataclasses.asdict(self)
        text = json.dumps({**raw, "sha256": _digest(raw)}, indent=2)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def parse_manifest(raw: Any, source: str) -> Manifest:
    """Returns a manifest from the values of its fields, read from `source`.

    Raises:
        UserError: another version of the project wrote it.
    """
    _require_format(raw, source)
    names = {field.name for field in dataclasses.fields(Manifest)}
    if raw.keys() != names:
        raise UserError(
            f"{source}: {', '.join(sorted(raw.keys() ^ names))} missing or unknown; export the "
            "checkpoint again with the version of the project that plays it"
        )
    return Manifest(**raw)


def _require_format(raw: Any, source: str) -> None:
    version = raw.get("format") if isinstance(raw, dict) else None
    if version != FORMAT:
        raise UserError(
            f"{source}: its format is {version!r}, this player reads {FORMAT}; export the "
            "checkpoint again with the version of the project that plays it"
        )


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of an exported policy, and verifies the files beside it.

    Raises:
        UserError: it is missing, of another version or edited, or a file beside it has changed.
    """
    file = folder / MANIFEST
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: no manifest of an exported policy: {error}") from error
    _require_format(raw, str(file))
    digest = raw.pop("sha256", None)
    if digest != _digest(raw):
        raise UserError(f"{file}: it was changed after the export; export the checkpoint again")
    manifest = parse_manifest(raw, str(file))
    for name, expected in ((NETWORK, raw["network_sha256"]), (GOLDEN, raw["golden_sha256"])):
        if file_digest(folder / name) != expected:
            raise UserError(f"{folder / name}: it is not the file that was exported")
    return manifest


def file_digest(file: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal.

    Raises:
        UserError: it can't be read.
    """
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error}") from error


def _digest(raw: Any) -> str:
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
