"""A convolution that is fast on a CPU too.

XLA's fast one for CPUs takes neither channels one by one nor a kernel larger than the map, for
which it falls back on a plain loop, up to a hundred times slower. Both are sums over a few shifted
copies of the map, and are written so here. On other platforms nothing changes.
"""

import functools
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
    feature_group_count: int,
    **options: Any,
) -> Float[Array, "B h w F"]:
    """`lax.conv_general_dilated` as `nnx.Conv` calls it, without dilation."""
    sizes = kernel.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images.shape[1:3], sizes, window_strides, padding)

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
        padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
        if feature_group_count > 1:
            return _each_channel(padded, kernel, window_strides)
        under = jnp.concatenate(_shifted(padded, sizes, window_strides), axis=-1)
        return under @ kernel.reshape(-1, kernel.shape[-1])

    one_by_one = feature_group_count == images.shape[-1] == kernel.shape[-1] > 1
    map_ = [length + sum(pad) for length, pad in zip(images.shape[1:3], padding, strict=True)]
    outputs = _outputs(map_, sizes, window_strides)
    larger = any(size > length for size, length in zip(sizes, outputs, strict=True))
    if one_by_one or (larger and feature_group_count == 1):
        return lax.platform_dependent(images, kernel, cpu=by_shifts, default=whole)
    return whole(images, kernel)


def _outputs(lengths: Any, sizes: tuple[int, ...], strides: tuple[int, int]) -> list[int]:
    """Height and width of what comes out for a padded map."""
    return [
        (length - size) // stride + 1
        for length, size, stride in zip(lengths, sizes, strides, strict=True)
    ]


def _shifted(
    padded: Float[Array, "B H W C"], sizes: tuple[int, ...], strides: tuple[int, int]
) -> list[Float[Array, "B h w C"]]:
    """What lies under each weight of the kernel, in the kernel's order."""
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


# With its own gradient: that of slices would be as many padded maps.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _each_channel(
    padded: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], strides: tuple[int, int]
) -> Float[Array, "B h w C"]:
    return _weighed(padded, kernel, strides)


def _forward(padded: Array, kernel: Array, strides: tuple[int, int]) -> tuple[Array, Any]:
    return _weighed(padded, kernel, strides), (padded, kernel)


def _backward(strides: tuple[int, int], kept: Any, slope: Array) -> tuple[Array, Array]:
    padded, kernel = kept
    sizes = kernel.shape[:2]
    slope = lax.optimization_barrier(slope)
    maps = _shifted(padded, sizes, strides)
    of_kernel = jnp.stack([jnp.sum(map_ * slope, axis=(0, 1, 2)) for map_ in maps])
    edges = [
        (size - 1, length - (stride * (output - 1) + 1), stride - 1)
        for size, length, output, stride in zip(
            sizes, padded.shape[1:3], slope.shape[1:3], strides, strict=True
        )
    ]
    spread = lax.pad(slope, jnp.zeros((), slope.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return _weighed(spread, kernel[::-1, ::-1], (1, 1)), of_kernel.reshape(kernel.shape)


_each_channel.defvjp(_forward, _backward)
