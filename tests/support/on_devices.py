"""Trains in a process of its own with so many virtual devices: python -m tests.support.on_devices
DEVICES CONFIG.json, a list of configurations."""

import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))

from BC_training.common import config_file  # noqa: E402
from BC_training.training.trainer import train  # noqa: E402

if __name__ == "__main__":
    for raw, resume in json.loads(Path(sys.argv[2]).read_text()):
        train(config_file.validate(raw, "the test"), resume=resume)
