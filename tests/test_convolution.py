"""The convolution for CPUs against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from BC_training.common.convolution import convolve

NUMBERS = ("NHWC", "HWIO", "NHWC")
EACH = 6
"""Channels that are convolved one by one."""


@pytest.mark.parametrize(
    ("stride", "padding", "dtype"),
    [(1, "SAME", "float32"), (2, "SAME", "bfloat16"), (2, [(1, 1), (2, 2)], "float32")],
)
@pytest.mark.parametrize(
    ("height", "width", "size", "outputs", "groups"),
    [
        (9, 12, 3, EACH, EACH),
        (8, 7, 5, EACH, EACH),
        (8, 7, 3, 4, 2),  # groups of several
        (2, 3, 3, 4, 1),  # a kernel larger than its map
        (5, 4, 4, 4, 1),
        (9, 12, 3, 4, 1),
        (4, 4, 1, 4, 1),
    ],
)
def test_figures_and_gradients_are_those_of_xla(
    height, width, size, outputs, groups, stride, padding, dtype
):
    rng = np.random.default_rng(0)

    def made(*shape):
        # Whole numbers, so that no order of the sums rounds.
        return jnp.asarray(rng.integers(-2, 3, shape), dtype)

    images, kernel = made(2, height, width, EACH), made(size, size, EACH // groups, outputs)

    def both(convolution):
        return jax.jit(
            lambda *given: jax.vjp(
                lambda x, w: convolution(
                    x,
                    w,
                    (stride, stride),
                    padding,
                    dimension_numbers=NUMBERS,
                    feature_group_count=groups,
                ),
                *given,
            )
        )(images, kernel)

    expected, pull = both(lax.conv_general_dilated)
    found, pull_found = both(convolve)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    slope = made(*expected.shape)
    for ours, theirs in zip(pull_found(slope), pull(slope), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("size", "groups"), [(3, EACH), (3, 1)])
def test_where_xla_is_slow_on_a_cpu_it_convolves_nothing(size, groups):
    def lowered(platform):
        given = jnp.zeros((1, 2, 2, EACH)), jnp.zeros((size, size, EACH // groups, EACH))
        call = jax.jit(
            lambda x, w: convolve(
                x, w, (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=groups
            )
        )
        return call.trace(*given).lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" not in lowered("cpu")
    assert "stablehlo.convolution" in lowered("cuda")
