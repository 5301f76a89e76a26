"""The device to compute on, or why there is none."""

import jax
import pytest

from BC_training.common.accelerator import first_device
from gameplay_pipeline.plumbing.errors import UserError


@pytest.mark.parametrize(
    ("platforms", "raised", "message"),
    [
        ("cuda", RuntimeError("Unable to initialize: no driver\nmore"),
         "JAX_PLATFORMS is 'cuda', but there is no such device here: Unable .*: no driver. Unset"),
        ("nonsense", RuntimeError("Unknown backend nonsense"), "JAX_PLATFORMS is 'nonsense'"),
        ("tpu", AssertionError(), "this installation of JAX has none"),
        ("", RuntimeError("driver too old"), "JAX finds no device to compute on: driver too old"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_there_is_named_in_a_line(monkeypatch, platforms, raised, message):
    def refuse():
        raise raised

    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(jax, "local_devices", refuse)
    with pytest.raises(UserError, match=message) as error:
        first_device()
    assert "\n" not in str(error.value)
