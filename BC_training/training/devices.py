"""The devices of a run. A step's batch is the same whatever their number: they only split it.

Parameters are on every device, rows of a batch on one each; XLA adds the reduction of gradients and
of batch statistics. Random bits don't depend on how an array is split
(jax_threefry_partitionable).
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from BC_training.common.config import Config
from BC_training.common.types import Batch
from gameplay_pipeline.plumbing.errors import UserError


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh of devices along the axis `data`."""

    mesh: Mesh

    @property
    def count(self) -> int:
        """How many devices there are."""
        return self.mesh.size

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """Arrays that every device holds whole; None stays None."""
        return jax.device_put(tree, self.everywhere)

    def keep_replicated(self, tree: Any) -> Any:
        """Inside a jitted function: has XLA leave these arrays whole on every device."""
        if self.count == 1:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.everywhere)

    def split(self, batch: Batch, parts: int = 1) -> Batch:
        """A batch of the dataset in parts that follow each other, each split over the devices.

        Args:
            batch: B rows, on the host.
            parts: into which B divides, each into the devices.

        Returns:
            Arrays with the leading axes [parts, B / parts]; on one device they stay on the host,
            from where the step takes them.
        """
        batch = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        if self.count == 1:
            return batch
        return jax.device_put(batch, NamedSharding(self.mesh, PartitionSpec(None, "data")))


def one_device() -> Devices:
    """The first device alone."""
    return _on(1)


def choose_devices(config: Config) -> Devices:
    """The devices that system.devices asks for.

    Raises:
        UserError: there are not so many, or the batch can't be split over them.
    """
    there, wanted = len(jax.devices()), config.system.devices
    if wanted is not None and wanted > there:
        kind = jax.devices()[0].device_kind
        raise UserError(f"system.devices: {wanted} are asked for, there are {there} ({kind})")
    count, training = wanted or there, config.training
    unit = count * training.accumulation
    if training.batch_size % unit:
        below = training.batch_size // unit * unit
        nearest = below if below and training.batch_size - below <= unit / 2 else below + unit
        parts = f" in {training.accumulation} parts" if training.accumulation > 1 else ""
        raise UserError(
            f"training.batch_size ({training.batch_size}) can't be split{parts} over {count} "
            f"devices (system.devices); the nearest that can is {nearest}"
        )
    return _on(count)


def _on(count: int) -> Devices:
    # Auto: with Explicit axes, which are the default, gathering and reshaping would raise.
    chosen, auto = jax.devices()[:count], (AxisType.Auto,)
    return Devices(jax.make_mesh((count,), ("data",), axis_types=auto, devices=chosen))
