"""PixelCNN++'s checkpoints: averaged variables by official names, and no others.

Only the last test needs TensorFlow itself.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import picjax
from picjax import checkpoints, convert
from picjax.cli import UserError
from picjax.methods.pixelcnn import official as pixelcnn
from picjax.methods.pixelcnn import tf_files
from picjax.methods.pixelcnn.build import network
from picjax.official import files, mapping, replay

TINY = ["--config.model.dropout=0.0"]
AVERAGE = pixelcnn.AVERAGE
WORKERS = Path(__file__).parents[1] / "workers"


@pytest.fixture(scope="module")
def tiny():
    """(config, parameters of the network, the same by official names)."""
    config = convert.make_config("pixelcnn", "tiny", TINY)
    shapes = checkpoints.abstract_state(config).params["net"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), shapes
    )
    table = pixelcnn.tables(config)["net"]
    named = mapping.to_official({"params": params}, table)
    return config, params, {n.replace(".", "/"): x for n, x in named.items()}


@pytest.fixture
def checkpoint(tiny):
    """As saved in training: raw and averaged variables, and unnamed moments."""
    found = {name: x + 1 for name, x in tiny[2].items()}
    found |= {f"{name}{AVERAGE}": x for name, x in tiny[2].items()}
    return found | {"Variable": np.float32(3), "Variable_1": np.zeros((2, 2))}


def command(*words: object) -> None:
    sizes = ["--system=pixelcnn", "--dataset=tiny", *TINY]
    convert.main([str(word) for word in (*sizes, *words)])


def assert_same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def fake_tensorflow(monkeypatch, tensors, read: list[str]) -> None:
    """Replace TensorFlow by a reader of these tensors that lists those it reads."""

    def load(path):
        if "broken" in path:
            raise ValueError("bad\nblock")
        shapes = {name: list(np.shape(x)) for name, x in tensors.items()}

        def get(name):
            read.append(name)
            return tensors[name]

        return SimpleNamespace(get_variable_to_shape_map=lambda: shapes, get_tensor=get)

    fake = SimpleNamespace(train=SimpleNamespace(load_checkpoint=load))
    monkeypatch.setattr(tf_files, "_tensorflow", lambda: fake)


def test_a_checkpoint_becomes_a_run(
    tiny, checkpoint, tmp_path, monkeypatch, capsys
) -> None:
    config, params, named = tiny
    read: list[str] = []
    fake_tensorflow(monkeypatch, checkpoint, read)
    (tmp_path / "params.ckpt.index").touch()
    (tmp_path / "params.ckpt.data-00000-of-00001").touch()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    replayed = replay.pixelcnn(
        {"net": network(config.model)},
        {"net": {"params": params}},
        {"x_uint8": images},
    )
    arrays: dict[str, Any] = {"in/x_uint8": images}
    arrays |= {f"out/{name}": np.asarray(x) for name, x in replayed.items()}
    np.savez(tmp_path / "check.npz", **arrays)
    words = f"--out={tmp_path / 'run'}", f"--check={tmp_path / 'check.npz'}"
    command(f"--from={tmp_path / 'params.ckpt.index'}", *words)
    assert sorted(read) == sorted(f"{name}{AVERAGE}" for name in named)
    variables = picjax.load(tmp_path / "run").variables
    assert_same(variables["params"]["net"], params)
    out = capsys.readouterr().out
    assert "largest difference of logits" in out and "the original's test passes" in out
    assert f"picjax.complete --workdir={tmp_path / 'run'} --image=FILE --mask=" in out


def test_an_import_that_fails_the_originals_test_leaves_nothing(tiny, tmp_path):
    """The file is opened first, and a large difference is no run."""
    config, _, named = tiny
    np.savez(tmp_path / "a.npz", **named)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    logits = np.zeros((2, 8, 8, 10 * config.model.mixtures), np.float32)
    check = {"in/x_uint8": images, "out/logits": logits}
    np.savez(tmp_path / "check.npz", **check)  # pyright: ignore
    words = [f"--from={tmp_path / 'a.npz'}", f"--out={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="logits differs by .* from the original's"):
        command(*words, f"--check={tmp_path / 'check.npz'}")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.npz", "check.npz"]
    with pytest.raises(UserError, match="--check 'nowhere.npz' cannot be read"):
        command("--from=no-file", f"--out={tmp_path / 'run'}", "--check=nowhere.npz")


def test_a_run_becomes_the_ports_file_and_comes_back(tiny):
    """The same kernels; of a transposed convolution only V and g differ in scale."""
    config, params, _ = tiny
    (name, port), *_ = convert.export(config, {"net": {"params": params}}).items()
    assert name == "pixelcnn_params.pth"
    assert port["u_init.conv.weight_v"].shape == (4, 4, 2, 3)
    assert port["upsize_u_stream.0.deconv.weight_g"].shape == (4, 1, 1, 1)
    blocks = config.model.blocks
    named = jax.tree.map(np.asarray, pixelcnn.from_port(port, blocks))
    back = convert.read_nets(config, {"net": named})
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    nets, given = {"net": network(config.model)}, {"x_uint8": images}
    ours, theirs = (
        replay.pixelcnn(nets, {"net": tree}, given)["logits"]
        for tree in ({"params": params}, back["net"])
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    config = convert.make_config(
        "pixelcnn", "tiny", ["--config.model.nonlinearity=elu"]
    )
    with pytest.raises(
        UserError, match="nonlinearity is 'elu', where the original has"
    ):
        convert.export(config, {"net": {"params": params}})


def test_raw_variables_are_read_if_none_is_averaged(tiny, tmp_path):
    config, params, named = tiny
    np.savez(tmp_path / "a.npz", **named, Variable=np.float32(0))
    read = pixelcnn.read(tf_files.find([str(tmp_path)]), config.model.blocks)
    assert_same(convert.read_nets(config, {"net": read})["net"]["params"], params)


def test_variables_that_do_not_fit_are_listed(tiny, checkpoint):
    """A variable of another network, another width, and one without an average."""
    config, _, named = tiny
    for change, message in [
        ({"model/dense_99/V": np.zeros(3)}, "dense_99.V.*no place for"),
        ({"model/conv2d_0/g": np.zeros(5)}, r"conv2d_0.g is \(5,\) here"),
    ]:
        tensors = pixelcnn.dotted(named | change)
        with pytest.raises(UserError, match=f"^net: .*{message}"):
            convert.read_nets(config, {"net": tensors})
    names = pixelcnn.averaged([*checkpoint, "model/new/V"])
    assert "model/new/V" not in names and len(names) == len(named)


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        ([], "", "holds no file that ends in .index, .ckpt"),
        (["a.index", "b.index"], "", "holds a.index, b.index; give one"),
        ([], "a.ckpt", "a.ckpt' does not exist"),
        (["a.npz"], "a.npz", "a.npz' cannot be read"),
        (["broken.ckpt"], "", r"is no checkpoint of TensorFlow's \(bad\); copy"),
        (["else.ckpt"], "", "no variable whose name begins with model/ .but Variable"),
    ],
)
def test_unusable_files_are_refused(names, path, message, tmp_path, monkeypatch):
    fake_tensorflow(monkeypatch, {"Variable": np.zeros(1)}, [])
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        pixelcnn.read(tf_files.find([str(tmp_path / path)]), 1)
    with pytest.raises(UserError, match="2 paths"):
        tf_files.find(["a", "b"])


def test_weights_that_are_not_finite_are_refused(tiny, tmp_path):
    named = tiny[2] | {"model/conv2d_0/g": np.full(4, np.nan)}
    np.savez(tmp_path / "a.npz", **named)
    with pytest.raises(UserError, match="conv2d_0/g is not finite"):
        pixelcnn.read(tmp_path / "a.npz", 1)


def test_missing_tensorflow_is_reported(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="with its convert extra .* as an .npz"):
        tf_files.open_checkpoint(tmp_path / "a")


def test_other_pytorch_files_are_refused(monkeypatch, tmp_path):
    """The port's own files are among the reference files."""
    monkeypatch.setattr(files, "read", lambda path: {"module.fc.weight": np.zeros(1)})
    with pytest.raises(UserError, match="is no state_dict of the PyTorch port"):
        pixelcnn.read(tmp_path / "a.pth", 5)


def test_files_that_tensorflow_wrote(tiny, checkpoint, tmp_path):
    """The old format, in one file, and the new one; in processes of their own."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    np.savez(tmp_path / "a.npz", **checkpoint)
    folders = [tmp_path / "V1", tmp_path / "V2"]
    for folder in folders:
        folder.mkdir()
    prefixes = [folder / "params.ckpt" for folder in folders]
    write, read = "write_tensorflow.py", "read_tensorflow.py"
    for worker, args in [(write, [tmp_path / "a.npz", *prefixes]), (read, folders)]:
        program = [sys.executable, str(WORKERS / worker), *map(str, args)]
        subprocess.run(program, check=True, capture_output=True)
    assert [prefix.is_file() for prefix in prefixes] == [True, False]
    for folder in folders:
        with np.load(folder / "read.npz") as found:
            tensors = {name: found[name] for name in found.files}
        nets = convert.read_nets(tiny[0], {"net": tensors})
        assert_same(nets["net"]["params"], tiny[1])
