"""The exported policy in tests/golden, variants of it, and an environment that suits it.

It was written from the checkpoint beside it, and needs neither JAX nor the converter:

    uv run --python 3.11 --group export -m BC_training.export \
        --checkpoint tests/golden/temporal_transformer --out tests/golden/exported
"""

import dataclasses
import json
import shutil
from pathlib import Path

from ranni_player.manifest import GOLDEN, NETWORK, file_digest, read_manifest

CHECKPOINT = Path(__file__).parents[1] / "golden" / "temporal_transformer"
EXPORTED = Path(__file__).parents[1] / "golden" / "exported"
ADAPTER = {
    "actions": {"left": "move_left", "right": "move_right", "hit": "attack"},
    "color_order": "BGR",
    "arguments": {"width": 64, "height": 36},
}
ARENA = ("--env", "boss_arena:BossArena-v0", "--adapter", json.dumps(ADAPTER))
"""The policy was trained on no game; in the arena it presses something at nearly every tick."""


def variant(folder, network=None, **changes):
    """Copies the exported policy into a folder, with another network or another manifest that is
    in order by itself."""
    folder.mkdir()
    for name in (NETWORK, GOLDEN):
        shutil.copy(EXPORTED / name, folder)
    if network is not None:
        (folder / NETWORK).write_bytes(network)
    manifest = read_manifest(EXPORTED)
    digest = file_digest(folder / NETWORK)
    dataclasses.replace(manifest, network_sha256=digest, **changes).write(folder)
    return folder
