"""Models, one folder each. A folder with an `__init__.py` is a model; nothing else registers it.

Models may also live outside the project: the environment variable BC_MODELS_PATH lists folders that
hold such folders, as PATH does.

A model's package offers `Config`, a `ModelConfig` whose `window()` says which ticks and modalities
it needs, and `create_model(config, spec, rngs)`, which builds a `networks.model.Model`.
"""

import difflib
import importlib
import os
import pkgutil
from types import ModuleType

from gameplay_pipeline.plumbing.errors import UserError

__path__ += map(
    os.path.expanduser, filter(None, os.environ.get("BC_MODELS_PATH", "").split(os.pathsep))
)


def available() -> tuple[str, ...]:
    """Names of all models, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def load(name: str) -> ModuleType:
    """The package of a model.

    Raises:
        UserError: there is no such model; the message lists those that there are.
    """
    if name not in available():
        near = difflib.get_close_matches(name, available(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"model.name: there is no model {name!r}.{hint} Known models: {', '.join(available())}."
            " Others are found in the folders that BC_MODELS_PATH lists."
        )
    return importlib.import_module(f"{__name__}.{name}")
