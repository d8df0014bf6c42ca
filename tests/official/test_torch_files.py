"""PyTorch's files: what is read, what is refused, what is never run. Needs PyTorch."""

# pyright: reportMissingImports=false
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.convert import REFERENCE, assert_same_files, command

from picjax.cli import UserError
from picjax.official import files
from picjax.official.replay import below

torch = pytest.importorskip("torch")


def save(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def network():
    layers = [torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)]
    return torch.nn.Sequential(*layers)


# ---- reading ----


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_what_is_read(zipped, key, tmp_path):
    """With what a real state_dict brings along: its metadata, integers, parameters."""
    net = network()
    content = net.state_dict(keep_vars=True)
    wrapped = {key: content, "epoch": 3, "optimizer": {"lr": 0.1}} if key else content
    read = files.read(save(tmp_path / "x.pth", wrapped, zipped))
    assert read.keys() == content.keys() and "1.num_batches_tracked" in read
    for name, x in content.items():
        np.testing.assert_array_equal(read[name], x.detach().numpy())
    assert read["1.num_batches_tracked"].dtype == np.int64


def test_half_precision_becomes_float32(tmp_path):
    halves = {"x": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}
    read = files.read(save(tmp_path / "x.pth", halves))
    assert read["x"].dtype == np.float32 and read["x"].tolist() == [1.5, -2.0]


class Hostile:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "run")


@pytest.mark.parametrize("kind", ["zipped", "legacy", "plain"])
def test_hostile_files_run_nothing(kind, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "latest_net_E.pth"
    content = {"block0.conv1.module.bias": torch.ones(3), "x": Hostile(marker)}
    if kind == "plain":
        path.write_bytes(pickle.dumps(content["x"]))
    else:
        save(path, content, kind == "zipped")
    pickle.loads(pickle.dumps(Hostile(marker)))
    assert marker.exists()  # so it would, if it were run
    marker.unlink()
    with pytest.raises(UserError, match="holds more than tensors|is damaged"):
        command("--system=picmm", f"--from={path}", f"--out={tmp_path / 'run'}")
    assert not marker.exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(zipped, tmp_path):
    path = save(tmp_path / "x.pth", network().state_dict(), zipped)
    whole = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match="x.pth' is damaged"):
            files.read(path)


def optimiser():
    adam = torch.optim.Adam(network().parameters())
    return adam.state_dict()


REFUSED = {
    "optimiser": (optimiser, "holds an optimiser's state"),
    "network": (network, "asks for 'torch.nn.modules.container.Sequential', which"),
    "tensor": (lambda: torch.ones(3), "holds no state_dict .* but a Tensor"),
    "list": (lambda: [1, 2], "but a list"),
    "nothing": (dict, "but an empty dict"),
    "numbers": (lambda: {"epoch": 3}, r"but a dict of 1 entries \('epoch'\)"),
    "two": (
        lambda: {key: {"a": torch.ones(1)} for key in files.WRAPPERS},
        "under each of state_dict, model, params",
    ),
    "nan": (lambda: {"a": torch.tensor([torch.nan])}, "a holds numbers that are not"),
    "complex": (lambda: {"a": torch.ones(1) * 1j}, "a is no plain tensor"),
    "sparse": (lambda: {"a": torch.eye(2).to_sparse()}, "a is no plain tensor"),
    "huge": (lambda: {"a": torch.ones(1).expand(2**50)}, "a is no plain tensor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, tmp_path):
    make, said = REFUSED[case]
    path = save(tmp_path / "x.pth", make())
    with pytest.raises(UserError, match=said) as caught:
        files.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\x89PNG\r\n\x1a\n"])
def test_other_programs_files(content, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="was not written by torch.save"):
        files.read(path)


# ---- writing ----


def test_files_for_every_pytorch(tmp_path):
    shared = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {"a": shared, "b": shared, "n": np.array(7)}
    path = tmp_path / "x.pth"
    files.write(path, tensors)
    assert not zipfile.is_zipfile(path)  # PyTorch 0.4 reads no zip
    loaded = torch.load(path, weights_only=True)
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()
    assert_same_files({"x": files.read(path)}, {"x": tensors})


# ---- from end to end ----


def official_tensors(path: Path, suffixes: list[str]) -> dict[str, dict]:
    """The networks of a reference file as the original saves them, second names too."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    aliases = json.loads(str(arrays.pop("meta")))["alias"]
    contents = {}
    for suffix in suffixes:
        own = below(arrays, f"param/{suffix}/")
        own |= {second: own[first] for second, first in aliases[suffix].items()}
        contents[suffix] = {f"module.{name}": x for name, x in own.items()}
    return contents


# The widths of the reference file, whose image may be of any size.
SMALL = ("img_f=16", "ngf=4", "ndf=4", "z_nc=8", "encoder_depth=2")


def test_from_files_to_completions_and_back(tmp_path, capsys):
    """The original's files, imported, complete as it did, and come out the same."""
    reference = REFERENCE / "picnet" / "test_sampling.npz"
    contents = official_tensors(reference, ["E", "G", "D"])
    official, run, back = (tmp_path / name for name in ("official", "run", "back"))
    official.mkdir()
    for suffix, named in contents.items():
        content = {name: torch.from_numpy(x) for name, x in named.items()}
        save(official / f"latest_net_{suffix}.pth", content, zipped=False)
    settings = [f"--config.model.{setting}" for setting in SMALL]
    words = ["--system=picnet", f"--from={official}", f"--check={reference}"]
    command(*words, *settings, "--config.image_size=128", f"--out={run}")
    imported = capsys.readouterr().out
    assert "no file holds the discriminator_rec, which only training" in imported
    differences = re.findall(r"largest difference of (\w+) .*: (\S+)", imported)
    assert {"q_mu", "sample0", "sample1", "sample2"} <= dict(differences).keys()
    assert all(float(value) < 2e-5 for _, value in differences)

    command("--to=pytorch", f"--from={run}", f"--out={back}")
    exported = capsys.readouterr().out.splitlines()
    for suffix, tensors in contents.items():
        read = files.read(back / f"latest_net_{suffix}.pth")
        assert_same_files({suffix: read}, {suffix: tensors})
    assert (back / "latest_net_D_rec.pth").exists()
    # The tables agree, checksums included.
    for row in imported.splitlines()[: len(contents) + 1]:
        assert row.split()[:4] in [line.split()[:4] for line in exported]
