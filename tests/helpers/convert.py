"""Helpers of tests of importing and exporting official weights."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from helpers.states import numpy_draws
from picjax import convert
from picjax.official import originals
from picjax.official.mapping import regroup_by_net
from picjax.system import inference_variables

REFERENCE = Path(__file__).parents[1] / "reference"
# Small networks with the structure of the original.
TINY = ["--config.model.upsample=transposed", "--config.model.log_std_start=0.0"]
TINY += ["--config.steps=2", "--config.sample_every=0"]


@lru_cache
def tiny_run() -> tuple[Any, Any, Any]:
    """Config, variables, and the same variables as official tensors."""
    config = convert.make_config("picmm", "tiny", TINY)
    variables = first_variables(config)
    return config, variables, exported(config, variables)


def first_variables(config):
    """Variables by net, with NumPy's draws."""
    with numpy_draws():
        state = convert.first_state(config, {})
    return regroup_by_net(inference_variables(state))


def exported(config, variables):
    """The output of `export` by net instead of file name."""
    nets = originals.official(config.system).FILES
    contents = convert.export(config, variables)
    return {net: contents[f"latest_net_{suffix}.pth"] for suffix, net in nets.items()}


def assert_same_files(ours, theirs):
    assert ours.keys() == theirs.keys()
    for net, tensors in theirs.items():
        assert ours[net].keys() == tensors.keys()
        for name, x in tensors.items():
            assert ours[net][name].dtype == x.dtype
            np.testing.assert_array_equal(ours[net][name], x, err_msg=name)


def command(*words: object) -> None:
    """The command; NumPy draws what the files lack."""
    with numpy_draws():
        convert.main([str(word) for word in words])


def touch(folder: Path, *names: str) -> list[str]:
    """Create empty files and return their paths."""
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]
