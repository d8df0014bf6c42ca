"""Where arrays live: a device mesh, rules from names to layouts, global batches.

Systems and models know nothing of this. The batch is split over every device; the
state is replicated, or split over the `fsdp` axis by the rules below. Under `jit` the
numbers do not depend on the layout.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from picjax.cli import UserError
from picjax.system import Tree

AnyMesh = Mesh | AbstractMesh
Layout = Callable[[tuple[int, ...], AnyMesh], P]


def replicate(shape: tuple[int, ...], mesh: AnyMesh) -> P:
    """A whole copy on every device."""
    del shape, mesh
    return P()


def split_largest(shape: tuple[int, ...], mesh: AnyMesh) -> P:
    """The longest axis that divides evenly is split over `fsdp`.

    Arrays under 16,384 elements stay whole: gathering them costs more than it saves.
    """
    parts = mesh.shape["fsdp"]
    if parts == 1 or math.prod(shape) < 2**14:
        return P()
    for axis in sorted(range(len(shape)), key=lambda a: -shape[a]):
        if shape[axis] % parts == 0:
            return P(*(None,) * axis, "fsdp")
    return P()


# The first pattern found in a leaf's path (`params/encoder/block0/conv1/kernel`) wins.
RULES: Sequence[tuple[str, Layout]] = (
    (r"^(step|stats/)", replicate),
    (r".", split_largest),
)


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """A mesh of all devices with axes `data` and `fsdp`; -1 takes what is left.

    Raises:
      UserError: when the axes do not multiply to the number of devices.
    """
    count = jax.device_count()
    if data == -1 and fsdp > 0 and count % fsdp == 0:
        data = count // fsdp
    if fsdp < 1 or data * fsdp != count:
        raise UserError(
            f"config.mesh (data={data}, fsdp={fsdp}) does not cover the {count} "
            "devices; make data x fsdp equal to their number, or data -1"
        )
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), (AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The batch axis is split over every device."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def state_shardings(
    mesh: Mesh, abstract: Tree, rules: Sequence[tuple[str, Layout]] = RULES
) -> Tree:
    """A sharding for every leaf of an abstract state, by the first rule that matches.

    Raises:
      ValueError: when no rule matches a leaf.
    """

    def place(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, layout in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, layout(leaf.shape, mesh))
        raise ValueError(f"no sharding rule matches {name}")

    return jax.tree_util.tree_map_with_path(place, abstract)


def global_batch(mesh: Mesh, local: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The batches of all processes as one global batch, split over the devices."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in local.items()
    }


def local_batch_size(mesh: Mesh, batch_size: int) -> int:
    """Images a process reads for a global batch.

    Raises:
      UserError: when the batch does not split evenly over the devices.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"config.batch_size {batch_size} does not split over {mesh.size} devices; "
            f"use a multiple of {mesh.size}"
        )
    return batch_size // jax.process_count()


def join_cluster() -> None:
    """Joins the other processes of a run where a launcher started several.

    JAX itself finds its peers under `srun` and on a Cloud TPU slice; elsewhere set
    JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      UserError: when only some of the three are set.
    """
    env = os.environ
    if "JAX_COORDINATOR_ADDRESS" in env:
        try:
            count, index = int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
        except (KeyError, ValueError):
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set, but JAX_NUM_PROCESSES and "
                "JAX_PROCESS_ID are not both numbers; set all three, or none"
            ) from None
        jax.distributed.initialize(env["JAX_COORDINATOR_ADDRESS"], count, index)
    elif int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1 or "," in env.get(
        "TPU_WORKER_HOSTNAMES", ""
    ):
        jax.distributed.initialize()
