"""Trains in a process of its own with so many virtual devices: python -m tests.support.on_devices
DEVICES JOBS.json [RANK], where a job is a configuration and whether to resume it."""

import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))

from BC_training.common import config_file  # noqa: E402
from BC_training.training.hosts import join  # noqa: E402
from BC_training.training.trainer import train  # noqa: E402
from gameplay_pipeline.plumbing import command  # noqa: E402


def main():
    jobs = json.loads(Path(sys.argv[2]).read_text())
    for raw, _ in jobs:
        if len(sys.argv) > 3:
            raw["system"]["process_id"] = int(sys.argv[3])
    configs = [config_file.validate(raw, "the test") for raw, _ in jobs]
    with join(configs[0].system) as hosts:
        for config, (_, resume) in zip(configs, jobs, strict=True):
            train(config, resume=resume, hosts=hosts)


if __name__ == "__main__":
    sys.exit(command.run(main))
