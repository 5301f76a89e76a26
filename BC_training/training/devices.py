"""The devices of a run. A step's batch is the same whatever their number: they only split it.

Parameters are on every device, rows of a batch on one each; XLA adds the reduction of gradients and
of batch statistics. Random bits don't depend on how an array is split
(jax_threefry_partitionable).
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from BC_training.common.accelerator import first_device
from BC_training.common.config import Config
from BC_training.common.types import Batch
from BC_training.training.hosts import ALONE, Hosts
from gameplay_pipeline.plumbing.errors import UserError


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh of devices along the axis `data`, as many on each host."""

    mesh: Mesh
    hosts: Hosts = ALONE

    @property
    def count(self) -> int:
        """How many devices there are."""
        return self.mesh.size

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """Arrays that every device holds whole, equal on all hosts; None stays None."""
        if self.hosts.count == 1:
            return jax.device_put(tree, self.everywhere)
        return jax.tree.map(self._replicate_over_hosts, tree)

    def keep_replicated(self, tree: Any) -> Any:
        """Inside a jitted function: has XLA leave these arrays whole on every device."""
        if self.count == 1:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.everywhere)

    def rows(self, batch_size: int, parts: int = 1) -> Int[np.ndarray, "b"]:
        """Which rows of a batch of the dataset this host reads: those of its devices.

        Args:
            batch_size: B.
            parts: as in `split`.
        """
        by_host = np.arange(batch_size).reshape(parts, self.hosts.count, -1)
        return by_host[:, self.hosts.rank].reshape(-1)

    def split(self, batch: Batch, parts: int = 1) -> Batch:
        """A batch of the dataset in parts that follow each other, each split over the devices.

        Args:
            batch: the rows of this host, those of `rows`.
            parts: into which B divides, each into the devices.

        Returns:
            Arrays with the leading axes [parts, B / parts]; on one device they stay on the host,
            from where the step takes them.
        """
        batch = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        if self.count == 1:
            return batch
        sharding = NamedSharding(self.mesh, PartitionSpec(None, "data"))
        if self.hosts.count == 1:
            return jax.device_put(batch, sharding)
        place = jax.make_array_from_process_local_data
        return jax.tree.map(lambda rows: place(sharding, rows), batch)

    def _replicate_over_hosts(self, array: Any) -> Any:
        copies = [jax.device_put(array, device) for device in self.mesh.local_devices]
        return jax.make_array_from_single_device_arrays(array.shape, self.everywhere, copies)


def one_device() -> Devices:
    """The first device alone."""
    return _on(1, ALONE)


def choose_devices(config: Config, hosts: Hosts = ALONE) -> Devices:
    """The devices that system.devices asks for, as many on each host.

    Raises:
        UserError: there are not so many, or another number on one host, the batch or their number
            can't be split, or they can't compute in training.precision.
    """
    _refuse_precision(config)
    counts = hosts.gather(jax.local_device_count())
    for rank, count in enumerate(counts):
        if count != counts[0]:
            raise UserError(
                f"{hosts.name(rank)} has {count} devices, {hosts.name(0)} has {counts[0]}: all "
                "need the same number (CUDA_VISIBLE_DEVICES, or what the launcher gives to each)"
            )
    there, wanted = sum(counts), config.system.devices
    if wanted is not None and wanted > there:
        kind = jax.devices()[0].device_kind
        raise UserError(f"system.devices: {wanted} are asked for, there are {there} ({kind})")
    count, training = wanted or there, config.training
    if count % hosts.count:
        raise UserError(f"system.devices: {count} can't be shared by {hosts.count} hosts")
    unit = count * training.accumulation
    if training.batch_size % unit:
        below = training.batch_size // unit * unit
        nearest = below if below and training.batch_size - below <= unit / 2 else below + unit
        parts = f" in {training.accumulation} parts" if training.accumulation > 1 else ""
        raise UserError(
            f"training.batch_size ({training.batch_size}) can't be split{parts} over {count} "
            f"devices (system.devices); the nearest that can is {nearest}"
        )
    return _on(count, hosts)


def _on(count: int, hosts: Hosts) -> Devices:
    on_each: dict[int, list[Any]] = {}
    for device in jax.devices():
        on_each.setdefault(device.process_index, []).append(device)
    # One host's after the other's, so that its rows of a batch are neighbours.
    chosen = [d for rank in sorted(on_each) for d in on_each[rank][: count // hosts.count]]
    # Auto: with Explicit axes, which are the default, gathering and reshaping would raise.
    mesh = Mesh(np.array(chosen), ("data",), axis_types=(AxisType.Auto,))
    return Devices(mesh, hosts)


def _refuse_precision(config: Config) -> None:
    """Refuses bfloat16 on a GPU that would only emulate it."""
    device = first_device()
    # Only GPUs have a compute capability; bfloat16 came with the eighth.
    capability = float(getattr(device, "compute_capability", 8.0))
    if config.training.precision == "bfloat16" and capability < 8.0:
        raise UserError(
            f"training.precision: {device.device_kind} can't compute in bfloat16 (its compute "
            f"capability is {capability}, 8.0 is needed); set it to float32"
        )
