"""Placement of arrays: a device mesh, rules from names to layouts, global batches.

Methods and networks do not depend on it. The batch is split over all devices; the state
is replicated, or split over the `fsdp` axis by the rules below. Under `jit` the results
do not depend on the layout.
"""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import multihost

from picjax.cli import UserError
from picjax.system import Tree

AnyMesh = Mesh | AbstractMesh
Layout = Callable[[tuple[int, ...], AnyMesh], P]
T = TypeVar("T")
WEEK = 7 * 24 * 3600  # seconds that a process may wait for the others


def replicate(shape: tuple[int, ...], mesh: AnyMesh) -> P:
    """Keep a whole copy on every device."""
    del shape, mesh
    return P()


def split_largest(shape: tuple[int, ...], mesh: AnyMesh) -> P:
    """Split the longest axis that divides evenly over `fsdp`.

    Arrays below 16,384 elements are not split: gathering them costs more than it saves.
    """
    parts = mesh.shape["fsdp"]
    if parts == 1 or math.prod(shape) < 2**14:
        return P()
    for axis in sorted(range(len(shape)), key=lambda a: -shape[a]):
        if shape[axis] % parts == 0:
            return P(*(None,) * axis, "fsdp")
    return P()


# The first pattern that matches a leaf's path, such as
# `params/encoder/block0/conv1/kernel`, applies.
RULES: Sequence[tuple[str, Layout]] = (
    (r"^(step|stats/)", replicate),
    (r".", split_largest),
)


def make_mesh(
    data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of devices with axes `data` and `fsdp`.

    Args:
      data: length of the axis `data`; -1: as many devices as remain.
      fsdp: length of the axis `fsdp`.
      devices: None: all that are there.

    Raises:
      UserError: if the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape, types = mesh_shape(len(devices), data, fsdp), (AxisType.Auto,) * 2
    return jax.make_mesh(shape, ("data", "fsdp"), types, devices=devices)


def mesh_shape(count: int, data: int, fsdp: int) -> tuple[int, int]:
    """The lengths of the axes of a mesh of `count` devices; see `make_mesh`.

    Raises:
      UserError: if their product is not the number of devices.
    """
    if data == -1 and fsdp > 0 and count % fsdp == 0:
        data = count // fsdp
    if fsdp < 1 or data * fsdp != count:
        raise UserError(
            f"config.mesh (data={data}, fsdp={fsdp}) does not cover the {count} "
            "devices; make data x fsdp equal to their number, or data -1"
        )
    return data, fsdp


def local_mesh() -> Mesh:
    """A mesh of this process's devices, for work of which each process does a share."""
    return make_mesh(devices=jax.local_devices())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis is split over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, P())


def state_shardings(
    mesh: AnyMesh, abstract: Tree, rules: Sequence[tuple[str, Layout]] = RULES
) -> Tree:
    """The sharding of every leaf of an abstract state, by the first rule that matches.

    Raises:
      ValueError: if no rule matches a leaf.
    """

    def place(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, layout in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, layout(leaf.shape, mesh))
        raise ValueError(f"no sharding rule matches {name}")

    return jax.tree_util.tree_map_with_path(place, abstract)


def global_batch(mesh: Mesh, local: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Combine the batches of all processes to one, split over the devices."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in local.items()
    }


def local_batch_size(mesh: AnyMesh, batch_size: int) -> int:
    """The number of images that each process reads for a global batch.

    Raises:
      UserError: if the batch does not split evenly over the devices.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"config.batch_size {batch_size} does not split over {mesh.size} devices; "
            f"use a multiple of {mesh.size}"
        )
    return batch_size // jax.process_count()


def join_cluster() -> None:
    """Join the other processes of a run if a launcher started several.

    Under `srun` and on a Cloud TPU slice JAX finds the other processes itself;
    elsewhere set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      UserError: if only some of the three are set.
    """
    if jax.distributed.is_initialized():
        return
    env, own = os.environ, local_devices(os.environ)
    if "JAX_COORDINATOR_ADDRESS" in env:
        try:
            count, index = int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
        except (KeyError, ValueError):
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set, but JAX_NUM_PROCESSES and "
                "JAX_PROCESS_ID are not both numbers; set all three, or none"
            ) from None
        jax.distributed.initialize(env["JAX_COORDINATOR_ADDRESS"], count, index, own)
    elif int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1 or "," in env.get(
        "TPU_WORKER_HOSTNAMES", ""
    ):
        jax.distributed.initialize(local_device_ids=own)


def own_share(items: Sequence[T]) -> Sequence[T]:
    """The items that this process works on."""
    return items[jax.process_index() :: jax.process_count()]


def first_value(value: int) -> int:
    """The first process's value, from 0 to 2^32 - 1."""
    return int(multihost_utils.broadcast_one_to_all(np.uint32(value)))


def wait_for_all(point: str) -> None:
    """Wait until all processes are here.

    No device takes part, so that one may work much longer than another.

    Args:
      point: a name that no other point of the command has.
    """
    if jax.process_count() > 1:
        wait = multihost.get_barrier_sync_fn()
        wait(key=f"picjax:{point}", timeout_ms=1000 * WEEK)


@contextlib.contextmanager
def finish_together(work: str) -> Iterator[None]:
    """`wait_for_all` at the end of a block, also if it raises."""
    try:
        yield
    finally:
        wait_for_all(work)


def local_devices(env: Mapping[str, str]) -> list[int] | None:
    """The devices of this process for `jax.distributed.initialize`.

    In a Slurm step JAX gives each task one GPU, the one with its number on the node:
    right for a task per GPU, but not for a task per node, nor for GPUs that Slurm has
    bound to the tasks.

    Args:
      env: the variables of the environment.

    Returns:
      An empty list, which JAX takes for all that are visible, or None: as JAX chooses.
    """
    tasks, nodes = env.get("SLURM_STEP_NUM_TASKS"), env.get("SLURM_STEP_NUM_NODES")
    if "JAX_LOCAL_DEVICE_IDS" in env or tasks is None:
        return None
    return [] if tasks == nodes or "SLURM_GPUS_PER_TASK" in env else None
