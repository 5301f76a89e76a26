"""Behavior cloning: from a zarr dataset of recorded fights to a policy that presses the buttons."""

import importlib.metadata
import os

from gameplay_pipeline.plumbing.command import end_imports_on_signals

end_imports_on_signals(__file__)

if importlib.metadata.version("jax").startswith("0.10."):
    # Nearly halves a CPU training step; later JAX does so by itself. Must be set before JAX starts.
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
    )
