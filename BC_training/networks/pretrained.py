"""Loads weights that others trained: a .safetensors or an old .pth file of torchvision's names."""

import re
from pathlib import Path

import jax.numpy as jnp
import safetensors.numpy
from flax import nnx

from BC_training.networks import torch_pickle
from gameplay_pipeline.plumbing.errors import UserError

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


def fill(module: nnx.Module, file: Path) -> None:
    """Sets every parameter and batch statistic of a module to the file's tensor of its name.

    Raises:
        UserError: the file can't be read, or a tensor is missing, misshaped or unexpected; every
            such tensor is named, and the module is left as it was.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such file of pretrained weights")
    if file.suffix in (".pth", ".pt"):
        tensors = torch_pickle.read(file)
    else:
        try:
            tensors = safetensors.numpy.load_file(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{file}: not a readable .safetensors file: {error}") from error
    tensors = {name: array for name, array in tensors.items() if not UNUSED.fullmatch(name)}
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
        ours = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor
        variable.set_value(jnp.asarray(ours, jnp.float32))
    nnx.update(module, state)


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
