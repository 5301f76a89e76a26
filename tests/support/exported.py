"""The exported policy in tests/golden, variants of it, and an environment that suits it.

It was written from the checkpoint beside it, and needs neither JAX nor the converter:

    uv run --python 3.11 --group export -m BC_training.export \
        --checkpoint tests/golden/temporal_transformer --out tests/golden/exported
"""

import contextlib
import dataclasses
import json
import re
import shutil
from pathlib import Path

from ranni_player.manifest import GOLDEN, NETWORK, file_digest, read_manifest
from tests.support.commands import start

CHECKPOINT = Path(__file__).parents[1] / "golden" / "temporal_transformer"
EXPORTED = Path(__file__).parents[1] / "golden" / "exported"
ADAPTER = {
    "actions": {"left": "move_left", "right": "move_right", "hit": "attack"},
    "color_order": "BGR",
    "arguments": {"width": 64, "height": 36},
}
ARENA = ("--env", "boss_arena:BossArena-v0", "--adapter", json.dumps(ADAPTER))
"""The policy was trained on no game; in the arena it presses something at nearly every tick."""
FIGHT = ("seed", "won", "boss_health_removed", "seconds", "reward", "presses", "counts")
"""What two fights have in common if the same was pressed at every tick."""


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


@contextlib.contextmanager
def serving(checkpoint, **environment):
    """Serves a checkpoint in a process of its own; gives the process and the address."""
    arguments = ("-m", "BC_training.serve", "--checkpoint", str(checkpoint), "--port", "0")
    process = start(arguments, **environment)
    try:
        address = re.search(r"ws://\S+", process.stdout.readline())
        assert address is not None, process.communicate()
        yield process, address[0]
    finally:
        process.kill()
        process.communicate()
