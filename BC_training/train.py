"""The training command.

uv run -m BC_training --config configs/pure_cnn.yaml, or, in BC_training/:
uv run python train.py --config configs/pure_cnn.yaml
"""

import argparse
import sys
from collections.abc import Sequence

from BC_training.common import config_file
from BC_training.common.config import Config
from BC_training.training.hosts import join
from BC_training.training.trainer import train
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError


def parse(arguments: Sequence[str] | None = None) -> tuple[Config, bool]:
    """The configuration and whether to resume, from the command line.

    Raises:
        UserError: the configuration can't be used.
        SystemExit: after help, or an argument that is not known.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init_from")
    flags, overrides = parser.parse_known_args(arguments)
    if flags.init_from is not None:
        overrides += ["--training.init_from", flags.init_from]
    if flags.config is None:
        if not {"-h", "--help"} & set(overrides):
            raise UserError("--config: missing; for example --config configs/pure_cnn.yaml")
        flags.config = "configs/pure_cnn.yaml"
    return config_file.load(flags.config, overrides), flags.resume


def main() -> int:
    config, resume = parse()
    with join(config.system) as hosts:
        train(config, resume=resume, hosts=hosts)
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
