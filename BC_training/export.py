"""A checkpoint as a folder that plays without JAX.

uv run --group export -m BC_training.export --checkpoint checkpoints/pure_cnn --out exported
"""

import dataclasses
import importlib.metadata
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Float, UInt8

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import Bundle
from BC_training.common.episodes import Episodes
from BC_training.common.types import RawObservation
from BC_training.networks.convolution import max_pool_by_shifts
from BC_training.networks.model import Model
from BC_training.networks.resnet import ResNet
from BC_training.play.description import describe_policy
from BC_training.play.policy import Policy, observation_spec
from BC_training.play.tick import Memory, PolicyTick
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.optional import require
from ranni_player.manifest import GOLDEN, NETWORK, Manifest, file_digest
from ranni_player.observations import ObservationReader, blank_observation

TICKS = 64
"""How many golden ticks there are at most."""

Precision = Literal["float32", "float16"]


class Network(NamedTuple):
    """A policy's tick as ONNX."""

    onnx: bytes
    inputs: dict[str, list[Any]]
    """Shape and data type of each input that describes a tick."""
    memory: dict[str, list[Any]]
    """Shape and data type of what is carried from tick to tick."""


def _converter() -> Any:
    jax2onnx = require("jax2onnx", "export")
    if jax.__version_info__ >= (0, 11):
        raise UserError(
            f"jax2onnx can't read what JAX {jax.__version__} traces; export with the JAX of Python "
            "3.11: uv run --python 3.11 --group export -m BC_training.export ..."
        )
    return jax2onnx


def convert(bundle: Bundle, model: Model, precision: Precision) -> Network:
    """Traces a policy's tick and converts it.

    Raises:
        UserError: the converter is not installed, or it can't convert this model.
    """
    jax2onnx = _converter()
    _simplify(model)
    graph, state = nnx.split(model)
    if precision == "float16":
        state = jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), state)
    tick = PolicyTick(bundle, graph)
    spec = observation_spec(bundle)
    read = ObservationReader(spec).read(blank_observation(spec))
    given = {name: value for name, value in read._asdict().items() if value is not None}
    if bundle.preprocess.instructions is not None:
        given["instruction"] = np.zeros((1, bundle.preprocess.instructions.length), np.int32)

    def raw_of(values: dict[str, Any]) -> RawObservation:
        return RawObservation(
            frames=values["frame"],
            state=values.get("state"),
            past_actions=values.get("past_actions"),
            instruction=values.get("instruction"),
            valid=np.ones((1, 1), bool),
        )

    memory = tick.begin(state, raw_of(given))._asdict()
    names = [*memory, *given]

    def flat(*values: Any) -> tuple[Any, ...]:
        by_name = dict(zip(names, values, strict=True))
        before = Memory(*(by_name[name] for name in memory))
        probabilities, after = tick(state, before, raw_of(by_name))
        return probabilities, *after

    example = [jnp.asarray(value) for value in (*memory.values(), *given.values())]
    # Traced first: converting NNX modules directly trips over the converter's patches of them.
    traced = jaxpr_as_fun(jax.make_jaxpr(flat)(*example))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = jax2onnx.to_onnx(
                traced,
                inputs=[jax.ShapeDtypeStruct(value.shape, value.dtype) for value in example],
                input_names=names,
                output_names=["probabilities", *(f"next_{name}" for name in memory)],
            )
    except Exception as error:  # the converter raises many kinds
        name = bundle.config.model.name
        raise UserError(f"{name} can't be exported by jax2onnx: {error}") from error
    if precision == "float16":
        _halve_weights(network.graph)
    return Network(network.SerializeToString(), _shapes(given), _shapes(memory))


class _Folded(nnx.Module):
    """Stands where a batch norm was that the convolution before it computes."""

    def __call__(self, images: Array, use_running_average: bool) -> Array:
        return images


def _halve_weights(graph: Any) -> None:
    """Stores as float16 what loses nothing by it; onnxruntime widens it as it loads the network."""
    from onnx import TensorProto, helper, numpy_helper  # comes with the converter

    widened = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.dtype == np.float32 and np.array_equal(half, values):
            name, stored = tensor.name, f"{tensor.name}_float16"
            tensor.CopyFrom(numpy_helper.from_array(half, stored))
            widened.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _simplify(model: Model) -> None:
    """Has a model compute the same with what the converter knows and onnxruntime is fast at."""
    for _, module in nnx.iter_modules(model):
        changed: Any = module
        # What runs on the CPU in another way in JAX is the plain operation in ONNX.
        if isinstance(module, nnx.Conv):
            changed.conv_general_dilated = lax.conv_general_dilated
        if isinstance(module, ResNet):
            changed.max_pool = max_pool_by_shifts
        norm, conv = getattr(module, "norm", None), getattr(module, "conv", None)
        if isinstance(norm, nnx.BatchNorm) and isinstance(conv, nnx.Conv):
            changed.norm = _fold_into(conv, norm)


def _fold_into(conv: nnx.Conv, norm: nnx.BatchNorm) -> nnx.Module:
    """Has a convolution compute the batch norm after it too. Returns what then stands in its place.

    onnxruntime would otherwise pass four times over each map.
    """
    assert norm.scale is not None
    assert norm.bias is not None
    scale = norm.scale[...] * lax.rsqrt(norm.var[...] + norm.epsilon)
    before = 0.0 if conv.bias is None else conv.bias[...]
    conv.kernel[...] = conv.kernel[...] * scale[None, None, None]
    conv.use_bias, conv.bias = True, nnx.Param(norm.bias[...] + (before - norm.mean[...]) * scale)
    return _Folded()


def golden_ticks(
    bundle: Bundle, dataset: str | None
) -> tuple[str, UInt8[np.ndarray, "N H W C"], Float[np.ndarray, "N S"]]:
    """Returns where some ticks are from, their frames [N, H, W, C], and their state [N, S].

    Args:
        bundle: the checkpoint's bundle.
        dataset: whose first episode is taken; without one the ticks are made up.

    Raises:
        UserError: the dataset can't be read, or its frames have another size.
    """
    spec = observation_spec(bundle)
    if dataset is not None:
        episodes = Episodes(dataset)
        episode = episodes.episodes[0]
        ticks = min(TICKS, episode.length)
        frames = episodes.read_frames(0, slice(0, ticks))
        if frames.shape[1:] != spec.frame:
            raise UserError(f"{dataset}: its frames are {frames.shape[1:]}, not {spec.frame}")
        if missing := [name for name in spec.attributes if name not in episodes.state_names]:
            raise UserError(f"{dataset}: its state lacks {', '.join(missing)}")
        columns = [episodes.state_names.index(name) for name in spec.attributes]
        state = np.zeros((ticks, 0), np.float32)
        if columns and episode.state is not None:
            state = episode.state[:ticks, columns]
        return f"{dataset}, {episode.name}", frames, np.asarray(state, np.float32)
    rng = np.random.default_rng(0)
    height, width, channels = spec.frame
    # In squares, which cost little on disk and survive a stride.
    squares = rng.integers(0, 256, (TICKS, -(-height // 8), -(-width // 8), channels), np.uint8)
    frames = squares.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    state = _made_up_state(bundle, rng) if spec.attributes else np.zeros((TICKS, 0), np.float32)
    return "synthetic: random squares, not a recorded fight", frames, state


def _made_up_state(bundle: Bundle, rng: np.random.Generator) -> Float[np.ndarray, "N S"]:
    """Values in the range of those that the policy was trained on."""
    schema = bundle.preprocess.state
    assert schema is not None
    state = np.ones((TICKS, len(schema.attributes)), np.float32)
    for value, _ in schema.ratios:
        state[:, value] = rng.random(TICKS)
    for column in (column for body in schema.bodies for column in body):
        state[:, column] = rng.uniform(-3, 3, TICKS)
    for column in schema.numbers:
        at = schema.features.index(schema.attributes[column])
        state[:, column] = rng.normal(schema.mean[at], schema.std[at], TICKS)
    for vocabulary in schema.categories:
        state[:, vocabulary.column] = rng.choice([-1.0, *vocabulary.values], TICKS)
    return state


def export(
    checkpoint: Path,
    out: Path,
    dataset: str | None = None,
    precision: Precision = "float32",
) -> int:
    """Writes a checkpoint as a network in ONNX, a manifest and golden frames, and proves that the
    network plays as the checkpoint does. Nothing is written where it doesn't.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        out: the folder to write; it must not exist.
        dataset: a dataset whose first episode's first ticks are the golden frames; without one
            they are synthetic.
        precision: how weights are stored: float16 halves the file. The network computes in
            float32 either way.
    """
    if out.exists():
        raise UserError(f"--out: {out} is there already")
    require("jax2onnx", "export")
    from ranni_player import check  # needs onnxruntime, which the group brings
    from ranni_player.player import Player

    folder = checkpoints.locate(checkpoint)
    bundle, model = checkpoints.load_model(folder)
    source, frames, state = golden_ticks(bundle, dataset)
    network = convert(bundle, model, precision)
    policy = Policy.load(folder)
    decisions = [
        policy.act({"frame": frame, **dict(zip(policy.bundle.spec.state, row, strict=False))})
        for frame, row in zip(frames, state, strict=True)
    ]
    golden = check.Golden(
        frames,
        state,
        np.array([decision.probabilities for decision in decisions]),
        np.array([decision.pressed for decision in decisions]),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}") as name:
        draft = Path(name) / out.name
        draft.mkdir()
        (draft / NETWORK).write_bytes(network.onnx)
        np.savez_compressed(draft / GOLDEN, **golden._asdict())
        manifest = make_manifest(bundle, network, draft, source, precision)
        manifest.write(draft)
        result = check.replay(Player.load(draft), golden)
        result.require_same(precision)
        manifest.proof.update(
            ticks=result.ticks,
            max_difference=result.max_difference,
            presses_differ=result.presses_differ,
            milliseconds=float(np.median(result.latencies_ms)),
        )
        manifest.write(draft)
        print(f"golden frames: {source}")
        print(check.report(Player.load(draft), result))
        shutil.move(draft, out)
    print(f"{out}: {len(network.onnx) / 1e6:.1f} MB, {precision}")
    return 0


def make_manifest(
    bundle: Bundle, network: Network, folder: Path, golden: str, precision: Precision
) -> Manifest:
    """Returns the manifest of a network and of golden frames that are in a folder."""
    manifest = describe_policy(bundle)
    packages = {name: importlib.metadata.version(name) for name in ("jax2onnx", "onnxruntime")}
    return dataclasses.replace(
        manifest,
        inputs=network.inputs,
        memory=network.memory,
        precision=precision,
        golden=golden,
        network_sha256=file_digest(folder / NETWORK),
        golden_sha256=file_digest(folder / GOLDEN),
        versions={**manifest.versions, **packages},
    )


def _shapes(arrays: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [list(array.shape), str(array.dtype)] for name, array in arrays.items()}


def main() -> int:
    return tyro.cli(export, use_underscores=True, prog="python -m BC_training.export")


if __name__ == "__main__":
    sys.exit(command.run(main))
