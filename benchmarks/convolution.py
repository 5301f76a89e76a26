"""What networks/convolution.py buys on a CPU: backbones with it and with XLA's own convolution.

    uv run python -m benchmarks.convolution [--rounds 5]

Times, in turns within one run, gradients of a batch and the features of one picture. Prints a table
and writes benchmarks/results/convolution-<device>.json; a ratio is the median over the rounds.
"""

import json
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax import lax

from BC_training.common import console
from BC_training.networks.backbones import BackboneConfig, make_backbone
from BC_training.networks.convolution import convolve
from BC_training.networks.efficientnet import EfficientNetConfig
from BC_training.networks.resnet import ResNetConfig
from benchmarks.shared import milliseconds, of_device

BACKBONES: dict[str, BackboneConfig] = {
    "resnet 18": ResNetConfig(),
    "efficientnet b0": EfficientNetConfig(),
}
BATCH, SIZES = 32, ((36, 64), (144, 256))


def calls(config: BackboneConfig, size: tuple[int, int], convolution: Callable) -> dict[str, Any]:
    """Gradients of a batch, and the features of one picture."""
    backbone = make_backbone(config, 3, nnx.Rngs(params=0))
    for _, module in nnx.iter_modules(backbone):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = convolution
    graph, params, rest = nnx.split(backbone, nnx.Param, ...)
    images = jnp.asarray(np.random.default_rng(0).random((BATCH, *size, 3), np.float32))

    def features(params: Any, images: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return nnx.merge(graph, params, rest, copy=True)(images, rngs)

    def loss(params: Any, images: jax.Array) -> jax.Array:
        return jnp.mean(features(params, images, nnx.Rngs(dropout=0)) ** 2)

    gradient = jax.jit(jax.grad(loss))
    forward = jax.jit(lambda params, images: features(params, images, None))
    return {
        "train": lambda: gradient(params, images),
        "act": lambda: forward(params, images[:1]),
    }


def main(rounds: int = 5) -> None:
    """Measures every backbone at every size.

    Args:
        rounds: timings of each backbone, after one that is not counted.
    """
    rows = []
    for name, config in BACKBONES.items():
        for size in SIZES:
            ours, xlas = (calls(config, size, c) for c in (convolve, lax.conv_general_dilated))
            for what in ours:
                times = [
                    (milliseconds(ours[what]), milliseconds(xlas[what])) for _ in range(rounds + 1)
                ]
                our_ms, xla_ms = zip(*times[1:], strict=True)
                rows.append({
                    "backbone": name, "size": size, "what": what,
                    "ms": statistics.median(our_ms), "ms_xla": statistics.median(xla_ms),
                    "ratio": statistics.median(b / a for a, b in zip(our_ms, xla_ms, strict=True)),
                })  # fmt: skip
                print(rows[-1], flush=True)
    table = console.make_table(f"On {jax.devices()[0].device_kind}, ms")
    for head in ("backbone", "size", "", "XLA's", "ours", "times as fast"):
        table.add_column(head)
    for row in rows:
        height, width = row["size"]
        what = f"gradients of {BATCH}" if row["what"] == "train" else "features of 1"
        figures = [f"{row['ms_xla']:.1f}", f"{row['ms']:.1f}", f"{row['ratio']:.1f}"]
        table.add_row(row["backbone"], f"{height}x{width}", what, *figures)
    console.make_console().print(table)
    device = jax.devices()[0].device_kind
    of_device("convolution").write_text(
        json.dumps({"device": device, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    tyro.cli(main)
