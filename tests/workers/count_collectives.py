"""Prints the collectives of every method's training step on four devices, as JSON.

count_collectives.py METHOD:FSDP:SETTINGS ...

Settings are `KEY=VALUE`, separated by commas. The configs are tiny. Spectral norm is left
out: it reads weights alone, and would be half of the compilation.
"""

import json
import sys
from typing import Any

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)

from helpers.configs import make_batch

from picjax import flags, hlo, memory, methods, sharding, train
from picjax.layers import conv
from picjax.system import image_shape

conv._SpectralKernel._normalise = lambda self, kernel, axes, power_iterations: kernel


def count(name, fsdp, settings):
    """kind -> [count, bytes], and the bytes of all parameters."""
    words = [f"--config.{setting}" for setting in settings.split(",") if setting]
    config = flags.make_config(name, "tiny", words)
    mesh = sharding.make_mesh(fsdp=int(fsdp))
    split = sharding.batch_sharding(mesh)
    batch: Any = {
        key: jax.ShapeDtypeStruct(
            x.shape, "uint8" if key in ("image", "mask") else x.dtype, sharding=split
        )
        for key, x in make_batch(image_shape(config)[0], mesh.size).items()
    }
    functions: Any = train.make_functions(config, methods.make(config), mesh, batch)
    step = functions.step.lower(functions.state, batch).compile()
    found = hlo.collectives(step.as_text())
    return found, memory.tree_bytes(functions.state.params)


print(json.dumps({word: count(*word.split(":")) for word in sys.argv[1:]}))
