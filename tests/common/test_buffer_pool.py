"""Pooled memory: used again when nobody holds it, and never before."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from BC_training.common.frames.buffer_pool import BufferPool

SHAPE = (3, 64, 64, 3)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_the_memory_of_an_array_that_is_gone_is_used_again():
    memory = BufferPool()
    first, second = memory.empty(SHAPE), memory.empty(SHAPE)
    assert (first.shape, first.dtype, first.flags.writeable) == (SHAPE, np.uint8, True)
    assert not np.shares_memory(first, second)
    place = address(second)
    del second
    assert address(memory.empty(SHAPE)) == place


def test_memory_of_another_size_is_let_go():
    memory = BufferPool()
    tracemalloc.start()
    memory.empty((2**24,))
    assert tracemalloc.get_traced_memory()[0] > 2**24
    memory.empty((5, 2))
    assert tracemalloc.get_traced_memory()[0] < 2**20
    tracemalloc.stop()


def test_what_anything_still_looks_at_is_not_used_again():
    memory = BufferPool()
    array = memory.empty(SHAPE)
    array[:] = 1
    view = array.reshape(-1)[5:9]
    del array
    memory.empty(SHAPE)[:] = 2
    assert view.tolist() == [1] * 4


def test_an_array_that_jax_was_given_stays_as_it_was():
    memory = BufferPool()
    on_device = []
    for value in range(8):
        array = memory.empty(SHAPE)
        array[:] = value
        on_device.append(jnp.asarray(array) if value % 2 else jax.device_put(array))
        del array
    assert [int(array.max()) for array in on_device] == [*range(8)]
    assert [int(array.min()) for array in on_device] == [*range(8)]


def test_threads_never_share_memory():
    memory = BufferPool()

    def job(value: int) -> bool:
        array = memory.empty(SHAPE)
        array[:] = value
        return bool((array == value).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(job, [number % 250 for number in range(2000)]))
