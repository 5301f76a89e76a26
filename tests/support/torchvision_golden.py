"""What torchvision's networks are and say, kept in torchvision_golden.json as an oracle.

Written once, by torchvision itself, outside the project's environment:

    uv run --no-project --with torch --with torchvision python tests/torchvision_golden.py
"""

import json
import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
NETWORKS = (
    *("resnet18", "resnet34", "resnet50"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
)
COMPUTED = ("resnet18", "resnet50", "efficientnet_b0", "efficientnet_b3")
"""Those whose features are kept: the others are made of the same blocks."""

SAMPLES = 100
"""Values kept of each feature map, evenly spaced over its channels, rows and columns."""


def made_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values for a tensor that depend on its name and shape alone, and keep signals near one."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 4:
        values *= np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        values = 1 + 0.5 * np.tanh(values)
    elif name.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values *= 0.1
    return values.astype(np.float32)


def made_images() -> np.ndarray:
    """Two images, channels first, of a size that no stride divides."""
    return np.random.RandomState(0).uniform(-2, 2, (2, 3, 75, 103)).astype(np.float32)


def sampled(features: np.ndarray) -> np.ndarray:
    """Some values of a feature map, channels first."""
    flat = features.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, SAMPLES).astype(int)]


def main() -> None:
    import torch
    import torchvision

    networks = {}
    for name in NETWORKS:
        network = getattr(torchvision.models, name)().eval()
        tensors = {
            key: tensor
            for key, tensor in network.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        with torch.no_grad():
            for key, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(made_tensor(key, tuple(tensor.shape))))
        networks[name] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "tensors": {
                key: list(t.shape) for key, t in tensors.items()
                if not key.startswith(("fc.", "classifier."))
            },
        }  # fmt: skip
        if name in COMPUTED:
            # All but the pooling and the classifier.
            children = list(network.children())
            children = children[: children.index(network.avgpool)]
            with torch.no_grad():
                features = torch.nn.Sequential(*children)(torch.from_numpy(made_images())).numpy()
            networks[name] |= {
                "shape": list(features.shape),
                "features": [float(f"{value:.6g}") for value in sampled(features)],
            }
    FILE.write_text(json.dumps(networks, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
