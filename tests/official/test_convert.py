"""The command: imported runs, settings, refusals.

Tensors are in test_transfer.py; tests that need PyTorch to read files in
test_torch_files.py.
"""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers.convert import TINY, command, tiny_run, touch
from helpers.states import numpy_draws
from PIL import Image

import picjax
from picjax import checkpoints, complete, convert, methods, train
from picjax.cli import UserError
from picjax.model import Model
from picjax.official import files

# ---- runs ----


@pytest.fixture
def tiny():
    return tiny_run()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    config, variables, _ = tiny_run()
    workdir = tmp_path_factory.mktemp("imported") / "run"
    with numpy_draws():
        state = convert.first_state(config, variables)
    convert.write_run(workdir, config, state)
    return workdir


@pytest.fixture
def imported(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def test_an_imported_run_completes_with_the_given_weights(tiny, imported, tmp_path):
    config, variables, _ = tiny
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    words = [f"--workdir={imported}", f"--image={tmp_path / 'a.png'}", "--mask=center"]
    complete.main([*words, "--num=2", f"--out={tmp_path / 'out'}"])
    turned = {
        kind: {net: tree[kind] for net, tree in variables.items()}
        for kind in ("params", "stats")
    }
    model = Model(config, methods.make(config), turned, 0)
    for i, sample in enumerate(model.complete(picture, "center", n=2)):
        written = np.asarray(Image.open(tmp_path / f"out/a_out_{i}.png"))
        np.testing.assert_array_equal(written, sample)
    assert picjax.load(imported).step == 0


def test_an_imported_run_is_fine_tuned_with_any_data(imported):
    config = convert.make_config("picmm", "tiny", TINY)
    config.opt.lr = 1e-2
    config.data.masks = ("half",)
    config.batch_size = 2
    before = picjax.load(imported).variables["params"]
    state = train.train(config, imported)
    assert int(state.step) == 2
    for net, params in state.params.items():
        moved = [
            np.abs(np.asarray(a) - np.asarray(b)).max()
            for a, b in zip(
                jax.tree.leaves(params), jax.tree.leaves(before[net]), strict=True
            )
        ]
        assert 0 < max(moved) < 0.1, net
    # Once trained it is a run as any other.
    config.opt.lr = 1e-3
    with pytest.raises(UserError, match="opt.lr"):
        train.train(config, imported)


def test_an_imported_run_keeps_its_networks(imported):
    config = convert.make_config("picmm", "tiny", [*TINY, "--config.model.ngf=6"])
    with pytest.raises(UserError, match=r"model.ngf \(6, was 4\)"):
        train.train(config, imported)
    assert checkpoints.is_untrained(imported)


def test_the_command_that_completes_with_an_import():
    config = convert.make_config("picnet", "", [])
    found = convert.completing_command(config, "my runs/a")
    words = "--workdir='my runs/a' --image=FILE --mask=center"
    assert found == f"python -m picjax.complete {words}"
    config = convert.make_config("pix2pix", "facades", [])
    assert "--mask" not in convert.completing_command(config, "a")


# ---- files and settings ----


def test_settings():
    settings = ["--config.data.path=/x", "--config.opt.lr=1", "--config.image_size=64"]
    config = convert.make_config("picmm", "celeba_hq-elbo", settings)
    assert config.data.path == "/x" and config.opt.lr == 1 and config.image_size == 64
    assert config.model.mixture.select == "elbo"
    for bad, error in [
        ("--config.opt.rate=1", "'--config.opt.rate=1' is no flag"),
        ("--config.model.ngf=wide", "does not fit its key"),
    ]:
        with pytest.raises(UserError, match=error):
            convert.make_config("picmm", "", [bad])
    with pytest.raises(UserError, match="--dataset=faces: variant 'faces' is none of"):
        convert.make_config("picmm", "faces", [])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--from=x"], "--system is missing"),
        (["--from=x", "--system=lama"], "'lama' cannot be converted"),
        (["--from=x", "--system=picmm", "--fast"], "unrecognized arguments: --fast"),
        (["--from=x", "--to=pytorch", "--check=y"], "takes one run"),
        (["--from=x", "--to=pytorch"], "'x' is not a workdir"),
        (["--from=x", "--system=picmm"], "--from 'x' does not exist"),
    ],
)
def test_wrong_commands(words, error, tmp_path):
    with pytest.raises(UserError, match=error):
        command(*words, f"--out={tmp_path / 'out'}")
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_overwritten(imported):
    with pytest.raises(UserError, match="exists already"):
        command("--system=picmm", "--from=x", f"--out={imported}")
    with pytest.raises(UserError, match="is a run of picmm, not of picnet"):
        command("--to=pytorch", "--system=picnet", f"--from={imported}", "--out=x")


@pytest.mark.parametrize(
    ("torch", "error"),
    [
        (None, r"which is not installed; install picjax with its convert extra"),
        (SimpleNamespace(__version__="2.9.1+cpu"), r"PyTorch 2.9.1\+cpu can be made"),
    ],
)
def test_pytorch_missing_or_unsafe(torch, error, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", torch)
    (path,) = touch(tmp_path, "latest_net_E.pth")
    with pytest.raises(UserError, match=error):
        files.read(Path(path))
