"""A convolution that is fast on a CPU too.

XLA's fast convolution for CPUs takes neither a depthwise convolution nor a kernel with more places
than its output map (at least not its gradient), and falls back on a plain loop. Both are sums over
a few shifted copies of the map, and are written so here. On a CPU that trains whole networks at
36x64 nine times (ResNet) and 3.7 times (EfficientNet) as fast; at 144x256 ResNet gains nothing
(benchmarks/convolution.py). Other platforms run the same convolution as without this module. It can
go once that benchmark, run again with each new JAX, says so.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def convolve(
    images: Float[Array, "B H W C"],
    kernel: Float[Array, "k k c F"],
    window_strides: tuple[int, int],
    padding: str | list[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    **options: Any,
) -> Float[Array, "B h w F"]:
    """Computes `lax.conv_general_dilated` as `nnx.Conv` calls it; has no forward-mode derivative.

    Raises:
        NotImplementedError: the convolution is dilated.
    """
    if {*lhs_dilation, *rhs_dilation} != {1}:
        raise NotImplementedError("convolve supports no dilation; use lax.conv_general_dilated")
    sizes = kernel.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images.shape[1:3], sizes, window_strides, padding)

    one_by_one = feature_group_count == images.shape[-1] == kernel.shape[-1] > 1

    def whole(images: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            images,
            kernel,
            window_strides,
            padding,
            feature_group_count=feature_group_count,
            **options,
        )

    def by_shifts(images: Array, kernel: Array) -> Array:
        # In float32, as a convolution of bfloat16 adds up.
        padded = jnp.pad(images.astype(jnp.float32), ((0, 0), *padding, (0, 0)))
        weights = kernel.astype(jnp.float32)
        if one_by_one:
            output = _each_channel(padded, weights, window_strides)
        else:
            under = jnp.concatenate(_shifted(padded, sizes, window_strides), axis=-1)
            output = under @ weights.reshape(-1, weights.shape[-1])
        return output.astype(images.dtype)

    lengths = [length + sum(pad) for length, pad in zip(images.shape[1:3], padding, strict=True)]
    larger = math.prod(sizes) > math.prod(_outputs(lengths, sizes, window_strides))
    if one_by_one or (larger and feature_group_count == 1):
        return lax.platform_dependent(images, kernel, cpu=by_shifts, default=whole)
    return whole(images, kernel)


def max_pool_by_shifts(
    images: Float[Array, "B H W C"],
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> Float[Array, "B h w C"]:
    """Computes `nnx.max_pool` as the maximum of shifted copies of the map, for converters that know
    no other pooling."""
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    return functools.reduce(jnp.maximum, _shifted(padded, window_shape, strides))


def _outputs(padded: Sequence[int], sizes: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Height and width of the output for a padded map."""
    return [
        (length - size) // stride + 1
        for length, size, stride in zip(padded, sizes, strides, strict=True)
    ]


def _shifted(
    padded: Float[Array, "B H W C"], sizes: Sequence[int], strides: tuple[int, int]
) -> list[Float[Array, "B h w C"]]:
    """The part of the map under each weight of the kernel, in the kernel's order."""
    height, width = _outputs(padded.shape[1:3], sizes, strides)
    down, right = strides
    return [
        padded[:, y : y + down * (height - 1) + 1 : down, x : x + right * (width - 1) + 1 : right]
        for y in range(sizes[0])
        for x in range(sizes[1])
    ]


def _weighed(
    padded: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], strides: tuple[int, int]
) -> Float[Array, "B h w C"]:
    # The barriers keep XLA from working out again for each weight what comes before, and for each
    # use what comes out.
    maps = _shifted(lax.optimization_barrier(padded), kernel.shape[:2], strides)
    weights = kernel.reshape(len(maps), 1, 1, 1, -1)
    return lax.optimization_barrier(sum(map_ * w for map_, w in zip(maps, weights, strict=True)))


# It has its own gradient, because that of slices would be as many padded maps.
_each_channel = jax.custom_vjp(_weighed, nondiff_argnums=(2,))


def _forward(padded: Array, kernel: Array, strides: tuple[int, int]) -> tuple[Array, Any]:
    return _weighed(padded, kernel, strides), (padded, kernel)


def _backward(strides: tuple[int, int], saved: Any, slope: Array) -> tuple[Array, Array]:
    padded, kernel = saved
    sizes = kernel.shape[:2]
    slope = lax.optimization_barrier(slope)
    maps = _shifted(padded, sizes, strides)
    kernel_slope = jnp.stack([jnp.sum(map_ * slope, axis=(0, 1, 2)) for map_ in maps])
    edges = [
        (size - 1, length - (stride * (output - 1) + 1), stride - 1)
        for size, length, output, stride in zip(
            sizes, padded.shape[1:3], slope.shape[1:3], strides, strict=True
        )
    ]
    spread = lax.pad(slope, jnp.zeros((), slope.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return _weighed(spread, kernel[::-1, ::-1], (1, 1)), kernel_slope.reshape(kernel.shape)


_each_channel.defvjp(_forward, _backward)
