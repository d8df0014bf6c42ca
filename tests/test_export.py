"""Exported weights and functions draw what the run's model draws; the Hub by a stand-in."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.configs import load_config
from helpers.pictures import half_mask, picture

import picjax
from picjax import checkpoints, export, hub, methods, saving
from picjax.cli import UserError
from picjax.images import to_float
from picjax.model import Model
from picjax.system import image_shape, inference_variables


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir at step 0, and its model."""
    config = load_config("pix2pix", "tiny")
    height, width = image_shape(config)
    batch = {
        "image": np.zeros((2, height, width, 3), np.uint8),
        "mask": np.zeros((2, height, width, 1), np.uint8),
    }
    system = methods.make(config)
    state = jax.jit(system.init)(to_float(batch), jax.random.key(0))
    workdir = tmp_path_factory.mktemp("run")
    checkpoints.write_config(workdir, config)
    with saving.Checkpoints(workdir, 1, "") as saved:
        saved.save(state, {})
    return workdir, Model(config, system, inference_variables(state), 0)


def command(*words: object) -> None:
    export.main([str(word) for word in words])


def same_arrays(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_weights_come_back_with_their_config(run, tmp_path):
    workdir, model = run
    file = tmp_path / "model.safetensors"
    command("--workdir", workdir, "--out", file)
    loaded = picjax.load(file)
    same_arrays(loaded.variables, model.variables)
    assert loaded.config.to_json() == model.config.to_json() and loaded.step == 0
    image, known = picture(0), half_mask()
    np.testing.assert_array_equal(
        loaded.complete(image, known, n=2), model.complete(image, known, n=2)
    )


def test_half_of_the_size_and_nearly_the_same_weights(run, tmp_path):
    workdir, model = run
    file, half = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    command("--workdir", workdir, "--out", file)
    command("--workdir", workdir, "--out", half, "--half")
    assert half.stat().st_size < 0.75 * file.stat().st_size  # both have the config
    loaded = picjax.load(half).variables
    for ours, theirs in zip(
        jax.tree.leaves(loaded), jax.tree.leaves(model.variables), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_exported_function_draws_the_same_for_any_batch(run, tmp_path):
    workdir, model = run
    file = tmp_path / "model.stablehlo"
    command("--workdir", workdir, "--out", file, "--num=2", "--platforms=cpu,cuda")
    complete = export.read_function(file)
    height, width = model.size
    for b in (1, 3):
        images = np.stack([picture(i, height, width) for i in range(b)])
        known = np.stack([half_mask(height, width)[..., None]] * b)
        ours = complete({"image": images, "mask": known}, seed=5)
        assert ours.shape == (b, 2, height, width, 3)
        theirs = model.complete(list(images), list(known), n=2, seed=5)
        difference = np.abs(ours.astype(int) - np.stack(theirs))
        assert difference.max() <= 1  # rounding of another program


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--out=a.onnx",), "extension '.onnx' is none of .safetensors, .stablehlo"),
        (("--out=a.stablehlo", "--num=0"), "--num is 0"),
        (("--out=a.stablehlo", "--platforms=gpu"), "'gpu' is none of cpu, cuda, tpu"),
    ],
)
def test_wrong_exports_are_refused(words, error, run):
    with pytest.raises(UserError, match=error):
        command("--workdir", run[0], *words)


def test_damaged_files_are_refused(run, tmp_path):
    weights, function = tmp_path / "a.safetensors", tmp_path / "a.stablehlo"
    for file in (weights, function):
        file.write_bytes(b"12345678901234567890")
    with pytest.raises(UserError, match="cannot be read"):
        picjax.load(weights)
    with pytest.raises(UserError, match="holds no exported function"):
        export.read_function(function)
    _, model = run
    config = model.config.copy_and_resolve_references()
    config.model.ngf = 2 * config.model.ngf
    export.write_weights(weights, config, model.variables, 0)
    with pytest.raises(UserError, match="does not fit its config: params/"):
        picjax.load(weights)


# ---- the Hub ----


class StandIn:
    """The Hub as a folder; what picjax calls of huggingface_hub."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.private: dict[str, bool] = {}

    def HfApi(self) -> "StandIn":
        return self

    def create_repo(self, repo_id, private, exist_ok):
        assert exist_ok
        if repo_id.startswith("other/"):
            raise OSError("403 Forbidden\nmore")
        self.private[repo_id] = private

    def upload_folder(self, repo_id, folder_path, commit_message):
        assert "step" in commit_message
        shutil.copytree(folder_path, self.folder / repo_id)

    def hf_hub_download(self, repo_id, filename):
        path = self.folder / repo_id / filename
        if not path.is_file():
            raise OSError("404 Not Found")
        return str(path)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path / "hub")
    monkeypatch.setattr(hub, "require", lambda module, extra: stand_in)
    return stand_in


def test_a_pushed_run_is_loaded_by_its_address(run, stand_in):
    workdir, model = run
    line = {"step": 7, "rec": 0.5, "seconds": 1.0}
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert picjax.push(workdir, "me/faces", private=True) == "hf://me/faces"
    assert stand_in.private == {"me/faces": True}
    loaded = picjax.load("hf://me/faces")
    same_arrays(loaded.variables, model.variables)
    card = (stand_in.folder / "me/faces/README.md").read_text()
    assert card.startswith("---\nlibrary_name: picjax\n")
    assert 'picjax.load("hf://me/faces")' in card and "| rec | 0.5 |" in card
    assert "method `pix2pix`" in card and "Not measured" in card
    assert (stand_in.folder / "me/faces/config.json").is_file()


def test_the_hubs_refusals_are_one_sentence(run, stand_in):
    with pytest.raises(
        UserError, match=r"'other/x' cannot be written \(403 Forbidden\)"
    ):
        picjax.push(run[0], "other/x")
    with pytest.raises(UserError, match=r"'hf://me/none' cannot be read \(404"):
        picjax.load("hf://me/none")
    for name in ("faces", "a/b/c", "/x"):
        with pytest.raises(UserError, match="names no repository; write user/name"):
            picjax.push(run[0], name)
