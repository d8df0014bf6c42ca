"""The original's test, replayed with imported weights and its noise."""

import json
from typing import Any

import numpy as np
import pytest
from helpers.convert import REFERENCE, tiny_run

from picjax import convert
from picjax.cli import UserError
from picjax.official import originals, replay


def test_replayed_test_of_the_original():
    """From the tensors of the file to completions with its noise."""
    path = REFERENCE / "picmm" / "test_sampling.npz"
    sizes = {"model.ngf": 4, "model.img_f": 16, "model.mixture.k": 3, "model.ndf": 4}
    settings = [f"--config.{key}={value}" for key, value in sizes.items()]
    settings += ["--config.image_size=128"]
    config = convert.make_config("picmm", "", settings)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name.startswith("param/")}
    tensors = {
        net: replay.below(arrays, f"param/{suffix}/")
        for suffix, net in originals.official("picmm").FILES.items()
        if net != "discriminator"
    }
    variables = convert.read_nets(config, tensors)
    recording = replay.read(path, "picmm")
    differences = replay.check(config, variables, recording)
    assert {"alpha", "sample0", "sample1", "z_m"} <= differences.keys()
    assert max(differences.values()) < 2e-5
    scale = variables["generator"]["params"]["out4"]["conv1"]["bias"]
    variables["generator"]["params"]["out4"]["conv1"]["bias"] = scale + 0.1
    with pytest.raises(
        UserError, match=r"sample0 differs by 0.\d+ from the original's"
    ):
        replay.check(config, variables, recording)


def test_replayed_generator_of_pix2pix(tmp_path):
    """In both modes, with the dropout of the file; without it in one."""
    path = REFERENCE / "pix2pix" / "resnet6_batch_dropout.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if "/" in name}
        hyper = json.loads(str(file["meta"]))["hyper"]
    settings = {"generator": "resnet", "blocks": hyper["n_blocks"], "ngf": hyper["ngf"]}
    settings = [f"--config.model.{key}={value}" for key, value in settings.items()]
    config = convert.make_config("pix2pix", "", settings)
    tensors = {"generator": replay.below(arrays, "param/")}
    variables = convert.read_nets(config, tensors)
    differences = replay.check(config, variables, replay.read(path, "pix2pix"))
    assert differences.keys() == {"eval", "train"}
    assert max(differences.values()) < 1e-4
    generator = variables["generator"]
    generator["params"]["last"]["bias"] = generator["params"]["last"]["bias"] + 0.1
    kept = {name: x for name, x in arrays.items() if "keep_mask" not in name}
    np.savez(tmp_path / "x.npz", **kept)
    with pytest.raises(UserError, match="eval differs by"):
        replay.check(config, variables, replay.read(tmp_path / "x.npz", "pix2pix"))


def test_check_names_what_a_file_lacks(tmp_path):
    config, variables, _ = tiny_run()
    path = tmp_path / "x.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot be read"):
        replay.read(path, "picmm")
    arrays: dict[str, Any] = {"in/img": np.zeros((1, 3, 32, 32), np.float32)}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="has none of out/sample"):
        replay.read(path, "picmm")
    np.savez(path, **arrays, **{"out/sample0": arrays["in/img"]})
    with pytest.raises(UserError, match="does not fit this run .*mask"):
        replay.check(config, variables, replay.read(path, "picmm"))
    with pytest.raises(UserError, match="knows no test of lama"):
        replay.read(path, "lama")
