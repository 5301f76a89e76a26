"""How long a policy thinks: act() from a raw 288x512 frame to buttons, for every model.

    uv run python -m benchmarks.act_latency [--ticks 300]

Models are untrained and have the sizes of their defaults; latency does not depend on what was
learned. For models that remember, the cost of the encoder alone is measured besides: a window of
one tick. Prints a table and writes benchmarks/results/act_latency-<device>.json.
"""

import json
import time
from typing import Any

import jax
import numpy as np
import tyro
from flax import nnx

from BC_training import models
from BC_training.checkpoints.bundle import build
from BC_training.common import console
from BC_training.common.types import TemporalConfig
from BC_training.play.policy import Policy
from benchmarks.shared import of_device
from benchmarks.untrained import arena_bundle
from boss_arena.attributes import ATTRIBUTES
from ranni_player.fight import percentiles

TICKS = 32
"""Window of the models that remember."""


def policy_of(raw_model: dict[str, Any]) -> Policy:
    """An untrained policy for the arena's frames and attributes."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 50, (2000, len(ATTRIBUTES))).astype(np.float32)
    bundle = arena_bundle(raw_model, values, 288, 512)
    config, spec = bundle.config, bundle.spec
    create = jax.jit(lambda: nnx.split(build(config, spec))[1])
    graph = nnx.split(nnx.eval_shape(lambda: build(config, spec)))[0]
    return Policy(bundle, nnx.merge(graph, create()))


def measure(policy: Policy, ticks: int) -> dict[str, float]:
    """Milliseconds of act()."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 288, 512, 3), np.uint8)
    times = []
    for tick in range(ticks):
        observation = {**dict.fromkeys(ATTRIBUTES, float(tick % 50)), "frame": frames[tick % 8]}
        began = time.perf_counter()
        policy.act(observation)
        times.append(1000 * (time.perf_counter() - began))
    return percentiles(times)


def main(ticks: int = 300) -> None:
    """Measures every model.

    Args:
        ticks: ticks of each.
    """
    rows: dict[str, Any] = {}
    for name in models.available():
        remembers = issubclass(models.load(name).Config, TemporalConfig)
        raw = {"name": name, **({"ticks": TICKS} if remembers else {})}
        policy = policy_of(raw)
        row: dict[str, Any] = {"ticks": TICKS if remembers else 1, **measure(policy, ticks)}
        if remembers:
            # Side by side, so that a busy machine slows both alike.
            alone = policy_of({**raw, "ticks": 1})
            pairs = [(measure(policy, 40), measure(alone, 40)) for _ in range(5)]
            row["against_encoder"] = float(np.median([a["p50"] / b["p50"] for a, b in pairs]))
        rows[name] = row
        print(name, row, flush=True)
    table = console.make_table(f"act(), 288x512, {ticks} ticks, {jax.devices()[0].device_kind}, ms")
    table.add_column("model")
    for head in ("window", "p50", "p95", "p99", "against its encoder"):
        table.add_column(head, justify="right")
    for name, row in rows.items():
        ratio = f"{row['against_encoder']:.2f}" if "against_encoder" in row else ""
        figures = [f"{row[key]:.2f}" for key in ("p50", "p95", "p99")]
        table.add_row(name, str(row["ticks"]), *figures, ratio)
    console.make_console().print(table)
    of_device("act_latency").write_text(
        json.dumps({"frame": [288, 512], "ticks": ticks, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    tyro.cli(main)
