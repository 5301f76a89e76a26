"""The convolution for CPUs against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from BC_training.networks.convolution import convolve

CHANNELS = 6


def layer(convolution, kernel, groups, **options):
    """`nnx.Conv` with a convolution and a kernel of its own."""
    made = nnx.Conv(
        CHANNELS,
        kernel.shape[-1],
        kernel.shape[:2],
        feature_group_count=groups,
        use_bias=False,
        dtype=kernel.dtype,
        conv_general_dilated=convolution,
        rngs=nnx.Rngs(0),
        **options,
    )
    made.kernel[...] = kernel
    return made


def pulled(convolution, images, kernel, slope, groups, **options):
    """What comes out, and the gradients of images and kernel."""

    def out(images, kernel):
        return layer(convolution, kernel, groups, **options)(images)

    found, pull = jax.vjp(jax.jit(out), images, kernel)
    return found, *pull(jnp.resize(slope, found.shape).astype(found.dtype))


@pytest.mark.parametrize(
    ("strides", "padding", "dtype"),
    [(1, "SAME", "float32"), (2, "SAME", "bfloat16"), (2, [(1, 1), (2, 2)], "float32")],
)
@pytest.mark.parametrize(
    ("height", "width", "size", "outputs", "groups"),
    [
        (9, 12, 3, CHANNELS, CHANNELS),
        (8, 7, 5, CHANNELS, CHANNELS),
        (8, 7, 3, 4, 2),  # groups of several channels
        (2, 3, 3, 4, 1),  # more weights than places in the map
        (5, 4, 4, 4, 1),
        (9, 12, 3, 4, 1),
        (4, 4, 1, 4, 1),
    ],
)
def test_figures_and_gradients_are_those_of_xla(
    height, width, size, outputs, groups, strides, padding, dtype
):
    rng = np.random.default_rng(0)

    def made(*shape):
        # Whole numbers, so that no order of the sums rounds.
        return jnp.asarray(rng.integers(-2, 3, shape), dtype)

    images, kernel = made(2, height, width, CHANNELS), made(size, size, CHANNELS // groups, outputs)
    slope = made(1000)
    ours, theirs = (
        pulled(each, images, kernel, slope, groups, strides=strides, padding=padding)
        for each in (convolve, lax.conv_general_dilated)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("groups", [1, CHANNELS])
def test_bfloat16_is_added_up_in_float32(groups):
    rng = np.random.default_rng(0)
    given = [
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
        for shape in ((8, 2, 2, CHANNELS), (3, 3, CHANNELS // groups, CHANNELS), (1000,))
    ]
    found = pulled(convolve, *given, groups)
    exact = pulled(
        lax.conv_general_dilated, *(array.astype(jnp.float32) for array in given), groups
    )
    for ours, reference in zip(found, exact, strict=True):
        # Half a unit in the last of bfloat16's eight places.
        assert np.allclose(ours.astype(jnp.float32), reference, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("groups", [1, CHANNELS])
def test_where_xla_is_slow_on_a_cpu_it_convolves_nothing(groups):
    given = jnp.zeros((1, 2, 2, CHANNELS)), jnp.zeros((3, 3, CHANNELS // groups, CHANNELS))

    def loss(images, kernel):
        return jnp.sum(layer(convolve, kernel, groups)(images) ** 2)

    def lowered(platform):
        call = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        return call.trace(*given).lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" not in lowered("cpu")
    assert "stablehlo.convolution" in lowered("cuda")


def test_dilation_is_refused():
    with pytest.raises(NotImplementedError, match="supports no dilation"):
        layer(convolve, jnp.zeros((3, 3, CHANNELS, 4)), 1, kernel_dilation=2)(
            jnp.zeros((1, 8, 8, CHANNELS))
        )
