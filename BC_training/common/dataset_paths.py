"""Where the datasets of a configuration are."""

from pathlib import Path

from BC_training.common.config import DatasetConfig
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import expand, is_url

ROOT = Path(__file__).parents[2]


def locate_datasets(settings: DatasetConfig) -> list[list[str | Path]]:
    """The datasets of each entry of dataset.path. One that is no URL is looked up from the current
    folder, then from the repository's root.

    Raises:
        UserError: nothing matches a pattern, or a dataset is given twice.
    """
    entries = [settings.path] if isinstance(settings.path, str) else settings.path
    located = [_matches(entry) for entry in entries]
    everything = [path for paths in located for path in paths]
    places = [path.resolve() if isinstance(path, Path) else path for path in everything]
    for path, place in zip(everything, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"dataset.path: {path} is given more than once")
    return located


def _matches(entry: str) -> list[str | Path]:
    location = expand(entry)
    if is_url(location):
        return [location]
    path = Path(location)
    roots = (Path(path.anchor),) if path.is_absolute() else (Path(), ROOT)
    for root in roots:
        if (root / path).exists():
            return [root / path]
    if not set("*?[") & set(location):
        return [path]
    for root in roots:
        if matching := sorted(root.glob(str(path.relative_to(path.anchor)))):
            return [*matching]
    raise UserError(f"dataset.path: nothing matches {location}")
