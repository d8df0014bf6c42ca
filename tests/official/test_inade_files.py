"""INADE's and SPADE's files: names used once, the original's image, and back."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.convert import command, first_variables, touch

from picjax import checkpoints, convert
from picjax.cli import UserError
from picjax.methods.inade.build import networks
from picjax.methods.inade.replay import replay
from picjax.official import files
from picjax.official.mapping import regroup_by_net
from picjax.official.originals import find_files
from picjax.system import image_shape

TINY = ("--system=inade", "--dataset=tiny")


@pytest.fixture(scope="module")
def original():
    """Config, generator and its tensors under the original's names."""
    config = convert.make_config("inade", "tiny", [])
    variables = first_variables(config)
    files = convert.export(config, variables)
    assert set(files) == {f"best_net_{x}.pth" for x in "GED"}
    return config, variables, files["best_net_G.pth"]


@pytest.fixture
def tensors(original, monkeypatch):
    """A generator's tensors, which are read from any file."""
    own = dict(original[2])
    monkeypatch.setattr(files, "read", lambda path: dict(own))
    return own


def run(folder: Path, out: Path, *words: object) -> None:
    command(*TINY, "--from", folder, "--out", out, *words)


def test_a_generator_is_imported_and_renders_as_before(
    tmp_path, original, tensors, capsys
):
    config, variables, _ = original
    rng = np.random.default_rng(0)
    given = {
        "label": rng.integers(0, 4, (2, 1, 32, 32)),
        "instance": rng.integers(0, 3, (2, 1, 32, 32)),
        "noise": rng.normal(size=(2, 3, 2, 4)).astype(np.float32),
        "noise_ins": rng.normal(size=(2, 4)).astype(np.float32),
    }
    nets = networks(config.model, image_shape(config))
    image = np.asarray(replay(nets, variables, given)["eval_image"])
    assert image.shape == (2, 3, 32, 32)
    recorded: Any = {f"in/{name}": x for name, x in given.items()}
    np.savez(tmp_path / "check.npz", **recorded | {"out/eval_image": image})
    touch(tmp_path, "best_net_G.pth")
    out = tmp_path / "run"
    run(tmp_path, out, f"--check={tmp_path}/check.npz")
    text = capsys.readouterr().out
    line = next(x for x in text.splitlines() if "difference of eval_image" in x)
    assert float(line.split(":")[-1]) < 1e-6
    assert "no file holds the encoder" in text
    # The way back gives the same tensors under the same names.
    config, restored, _ = checkpoints.restore_variables(out)
    written = convert.export(config, regroup_by_net(jax.device_get(restored)))
    back = written["best_net_G.pth"]
    assert back.keys() == tensors.keys()
    for name, x in tensors.items():
        np.testing.assert_array_equal(back[name], x, err_msg=name)


def test_the_names_are_the_originals(original):
    names = set(original[2])
    norm = {f"up_0.norm_s.{x}" for x in ("weight", "bias", "fc_noise.weight")}
    norm |= {f"up_0.norm_s.param_free_norm.running_{x}" for x in ("mean", "var")}
    conv = {f"up_0.conv_s.{x}" for x in ("weight_orig", "weight_u", "weight_v")}
    assert norm | conv | {"fc.weight", "conv_img.bias"} <= names
    assert len(names) == 198, "as many tensors as the released files hold"
    assert original[2]["head_0.norm_0.weight"].shape == (4, 16, 2)


def test_a_name_too_many_is_refused(tmp_path, tensors):
    tensors["head_0.extra"] = np.zeros(3, np.float32)
    touch(tmp_path, "best_net_G.pth")
    with pytest.raises(UserError, match="no place for"):
        run(tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_both_names_of_the_encoder_are_accepted(tmp_path):
    for name in ("E", "IE"):
        touch(tmp_path, "best_net_G.pth", f"best_net_{name}.pth")
        found = find_files([str(tmp_path)], "inade")
        assert found["encoder"].name == f"best_net_{name}.pth"
        found["encoder"].unlink()


def test_an_encoder_needs_a_config_with_one(tmp_path, tensors):
    touch(tmp_path, "latest_net_G.pth", "latest_net_E.pth")
    with pytest.raises(UserError, match="holds the encoder, which a run .* lacks"):
        run(tmp_path, tmp_path / "run", "--config.model.encoder=False")
