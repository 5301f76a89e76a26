"""One change at a time on the temporal transformer: what each buys, in figures and in fights.

    uv run python -m benchmarks.ablation [--only NAME ...] [--fights 24]

Uses the recordings, the split and the fights of benchmarks.model_zoo, half of the recordings and so
half of the steps. What is measured already is kept; the table and benchmarks/results/ablation.json
hold all that is known, negative results included.
"""

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from benchmarks import model_zoo
from benchmarks.model_zoo import HEIGHT, MODELS, WIDTH, compare

RESULTS = Path(__file__).parent / "results" / "ablation.json"

BASE = MODELS["temporal_transformer"]
ENCODER = BASE["encoder"]


def model(**changes: Any) -> dict[str, Any]:
    """The base model with some keys changed."""
    return {"model": {**BASE, **changes}}


def training(**changes: Any) -> dict[str, Any]:
    """The base model, trained with some keys changed."""
    return {"model": BASE, "training": changes}


CHANGES: dict[str, dict[str, Any]] = {
    "as it is": model(),
    "one tick": model(ticks=1),
    "past actions": model(encoder={**ENCODER, "past_actions": True}),
    "chunk 4, re-planned": model(chunk=4),
    "chunk 4, ensembled": {**model(chunk=4), "play": {"chunk": "ensemble"}},
    "onset weight 4": training(loss={"onset_weight": 4.0}),
    "class weights": training(use_class_weights=True),
    "augmentation": training(
        augmentation={"shift": 0.05, "brightness": 0.2, "contrast": 0.2, "noise": 0.1}
    ),
    "average 0.995": training(ema_decay=0.995),
    "auxiliary animation": model(auxiliary="NpcAnimId"),
    "patches instead of convolutions": model(
        encoder={**ENCODER, "backbone": {"type": "patch", "size": 8, "width": 64}}
    ),
}
"""What each row changes in the configuration."""


@dataclasses.dataclass(frozen=True)
class Job(model_zoo.Job):
    """The comparison."""

    recordings: int = 48
    fights: int = 24
    folder: Path = Path("dataset/ablation")


def main(job: Job) -> None:
    """Measures what is not known yet."""
    title = f"temporal_transformer, {job.recordings} recorded fights, one change a row"
    compare(job, RESULTS, CHANGES, {"frame": [HEIGHT, WIDTH]}, title)


if __name__ == "__main__":
    main(tyro.cli(Job))
