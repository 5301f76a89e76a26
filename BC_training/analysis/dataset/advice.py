"""Suggests values for a configuration from a dataset's figures, each with its reason."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

HUMAN_SCATTER_S = 0.12
"""By how much a person misses the same moment from one time to the next."""

MIN_STEPS = 50
"""An epoch of fewer steps is worth a smaller batch."""


class Advice(NamedTuple):
    """A suggested value for a key of the configuration."""

    key: str
    value: Any
    reason: str


def advise(summary: Mapping[str, Any]) -> list[Advice]:
    """Suggests values from the figures of `statistics.summarize`."""
    episodes, fps = summary["episodes"], summary["fps"]
    few = episodes < 20
    train, val = (0.7, 0.3) if few else (0.8, 0.1)
    batch = 32
    while batch > 8 and summary["targets"] * train / batch < MIN_STEPS:
        batch //= 2
    gib = summary["raw_bytes"] / 2**30
    advice = [
        Advice("dataset.path", summary["path"], "this dataset"),
        Advice(
            "dataset.train_ratio", train,
            f"{episodes} episodes: "
            + ("with so few, a tenth would leave too little to judge by" if few
               else "a tenth to judge by, and a tenth that nothing was ever chosen on"),
        ),
        Advice("dataset.val_ratio", val, "what training does not need"),
        Advice(
            "dataset.residency", "auto",
            f"{gib:.2f} GiB decoded: kept on the accelerator if that has {gib / 0.6:.2f} GiB free, "
            "else in a file",
        ),
        Advice(
            "training.batch_size", batch,
            f"{int(summary['targets'] * train / batch):,} steps in an epoch",
        ),
    ]  # fmt: skip
    if fps is not None:
        advice.append(
            Advice(
                "evaluation.onset_tolerance", max(1, round(HUMAN_SCATTER_S * fps)),
                f"people miss the same moment by about {1000 * HUMAN_SCATTER_S:.0f} ms, at "
                f"{fps:g} ticks a second",
            )
        )  # fmt: skip
    errors = [p["what"] for p in summary["problems"] if p["severity"] == "error"]
    if any(what.startswith("its state ") for what in errors):
        advice.append(
            Advice("dataset.use_state", False, "episodes in which only the state is broken stay")
        )
    return advice


def as_yaml(advice: list[Advice]) -> str:
    """The values as sections of a configuration file."""
    tree: dict[str, Any] = {}
    for key, value, _ in advice:
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return yaml.safe_dump(tree, sort_keys=False)
