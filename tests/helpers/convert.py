"""Helpers of tests of importing and exporting official weights."""

from pathlib import Path

import numpy as np

from picjax import convert

REFERENCE = Path(__file__).parents[1] / "reference"


def assert_same_files(ours, theirs):
    assert ours.keys() == theirs.keys()
    for net, tensors in theirs.items():
        assert ours[net].keys() == tensors.keys()
        for name, x in tensors.items():
            assert ours[net][name].dtype == x.dtype
            np.testing.assert_array_equal(ours[net][name], x, err_msg=name)


def command(*words: object) -> None:
    convert.main([str(word) for word in words])


def touch(folder: Path, *names: str) -> list[str]:
    """Create empty files and return their paths."""
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]
