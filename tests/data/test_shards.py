"""Packed shards: the manifest, what is checked on opening, and resumed packing."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers.configs import shard_data
from helpers.pictures import picture
from helpers.processes import cluster, finish, start_worker
from PIL import Image

from picjax import signals
from picjax.cli import UserError
from picjax.data import pack, packing, pipeline, shards
from picjax.data.records import unpack

SIZE = 16


@pytest.fixture(autouse=True)
def two_images_per_shard(monkeypatch):
    monkeypatch.setattr(packing, "SHARD", 2)


def write_images(folder, count=7):
    folder.mkdir()
    for i in range(count):
        Image.fromarray(picture(i, 20, 24)).save(folder / f"{i}.png")
    return folder


def run_pack(images, out, *words):
    pack.main([str(images), f"--out={out}", f"--size={SIZE}", *words])
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Seven pictures and one file that is none."""
    folder = write_images(tmp_path_factory.mktemp("data") / "images")
    (folder / "8.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def packed(images, tmp_path):
    return run_pack(images, tmp_path / "packed")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def records(folder):
    opened = shards.open_shards(str(folder), "key")
    return [opened[i] for i in range(len(opened))]


# ---- the manifest ----


def test_the_manifest_describes_images_and_shards(images, packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    assert manifest["records"] == 7 and manifest["size"] == [SIZE, SIZE]
    assert manifest["skipped"][0]["file"] == "8.png" and len(manifest["skipped"]) == 1
    assert [s["records"] for s in manifest["shards"]] == [2, 2, 2, 1]
    for shard in manifest["shards"]:
        assert (packed / shard["file"]).stat().st_size == shard["bytes"]
    pixels = np.stack([unpack(record)[0] for record in records(packed)])
    np.testing.assert_allclose(manifest["mean"], (pixels / 255).mean((0, 1, 2)), 1e-5)
    np.testing.assert_allclose(manifest["std"], (pixels / 255).std((0, 1, 2)), 1e-5)


def test_check_compares_every_byte(packed, capsys):
    pack.main([f"--check={packed}"])
    assert "4 shards with 7 images are as they were packed" in capsys.readouterr().out
    flip(packed / "images-00001.array_record")
    shards.open_shards(str(packed), "key")  # which does not read everything
    with pytest.raises(UserError, match="of images-00001.array_record differ from"):
        pack.main([f"--check={packed}"])
    (packed / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        pack.main([f"--check={packed}"])


def flip(path):
    """Change one bit of the first record's pixels."""
    data = bytearray(path.read_bytes())
    data[data.index(b"pjx1") + 100] ^= 1
    path.write_bytes(data)


# ---- opening ----


def cut(folder):
    path = folder / "images-00002.array_record"
    path.write_bytes(path.read_bytes()[:-1])


def cut_without_manifest(folder):
    cut(folder)
    (folder / "manifest.json").unlink()


def exchange(folder):
    """A shard with another number of records takes the name of one, padded to its size."""
    path = folder / "images-00002.array_record"
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    shutil.copy(folder / "images-00003.array_record", path)
    manifest["shards"][2]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_manifest(**values):
    def change(folder):
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda f: (f / "images-00002.array_record").unlink(),
            "lacks images-00002.arr",
        ),
        (
            lambda f: shutil.copy(
                f / "images-00000.array_record", f / "x.array_record"
            ),
            r"holds x\.array_record, which is not in its manifest",
        ),
        (cut, r"images-00002\.array_record has [0-9,]+ bytes instead of"),
        (cut_without_manifest, r"images-00002\.array_record is damaged or cut short"),
        (exchange, r"images-00002\.array_record has 1 records instead of 2"),
        (lambda f: (f / "manifest.json").write_text("{"), "json' is damaged"),
        (change_manifest(shards=[3]), "json' is damaged"),
        (change_manifest(version=9), "is of version 9, where 1 is read; update"),
    ],
)
def test_folders_that_are_not_as_they_were_packed_are_refused(packed, change, words):
    change(packed)
    with pytest.raises(UserError, match=words) as error:
        pipeline.train_batches(shard_data(packed), SIZE, 1, 0)
    assert str(packed) in str(error.value) and "; " in str(error.value)


def test_shards_without_a_manifest_are_read(packed):
    before = records(packed)
    (packed / "manifest.json").unlink()
    assert records(packed) == before and len(before) == 7


def test_training_skips_a_damaged_record(packed, capsys):
    flip(packed / "images-00001.array_record")
    held_out = pipeline.eval_batches(shard_data(packed), SIZE, 8, 7, 0)
    assert int(next(held_out)["valid"].sum()) == 6
    message = capsys.readouterr().err
    assert "skipped record 2, in '" in message
    assert "images-00001.array_record', is damaged" in message


# ---- resuming ----


class Calls:
    """Counts the images that are decoded; stops the command at one of them."""

    def __init__(self, monkeypatch, stop_at=None):
        self.names, self.stop_at = [], stop_at
        self.original = packing.make_record
        monkeypatch.setattr(packing, "make_record", self)

    def __call__(self, file, job):
        self.names.append(file.name)
        if file.name == self.stop_at:
            raise signals.Interrupted("stopped")
        return self.original(file, job)


@pytest.fixture
def interrupted(images, tmp_path, monkeypatch):
    """A partial folder with two shards of four, and a third that is half written."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        Calls(patch, stop_at="4.png")
        with pytest.raises(signals.Interrupted):
            run_pack(images, out)
    assert not out.exists()
    partial = tmp_path / ".out.partial-packing"
    assert {path.name for path in partial.iterdir()} == {
        "00000.json",
        "00001.json",
        "shards",
    }
    (partial / "shards" / "images-00002.array_record").write_bytes(b"half")
    return out


def test_packing_resumes_with_the_bytes_of_an_undisturbed_run(
    interrupted, images, packed, monkeypatch, capsys
):
    calls = Calls(monkeypatch)
    run_pack(images, interrupted)
    assert sorted(calls.names) == ["4.png", "5.png", "6.png", "8.png"]
    assert "2 of 4 shards are already packed" in capsys.readouterr().err
    assert contents(interrupted) == contents(packed)
    assert not list(interrupted.parent.glob(".*"))


def test_what_has_changed_is_packed_again(interrupted, images, tmp_path, capsys):
    """A damaged shard, a changed picture, another list of pictures, other options."""
    folder = shutil.copytree(images, tmp_path / "inputs")  # keeps times
    partial = tmp_path / ".out.partial-packing"
    kept = shutil.copytree(partial, tmp_path / "kept")
    again = "holds shards of other images or options, or damaged ones; they are packed"
    cases = {
        "damaged": lambda: flip(partial / "shards" / "images-00000.array_record"),
        "changed": lambda: Image.new("RGB", (30, 30)).save(folder / "0.png"),
        "fewer": lambda: [(folder / f"{i}.png").unlink() for i in (0, 1, 2)],
        "size": lambda: None,
    }
    for name, change in cases.items():
        capsys.readouterr()
        change()
        words = ["--size=20"] if name == "size" else []
        run_pack(folder, interrupted, *words)
        message = capsys.readouterr().err
        assert again in message, name
        assert ("1 of 4 shards are" in message) == (name in ("damaged", "changed")), (
            name
        )
        assert contents(interrupted) == contents(
            run_pack(folder, tmp_path / name, *words)
        )
        shutil.rmtree(interrupted)
        shutil.copytree(kept, partial)
    shutil.rmtree(partial)


def test_two_commands_do_not_pack_into_one_folder(images, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def also(*_):
        monkeypatch.undo()
        run_pack(images, out)

    monkeypatch.setattr(pack, "pack", also)
    with pytest.raises(UserError, match="is in use by process .* or use another --out"):
        run_pack(images, out)


def test_a_full_disk_is_one_sentence_and_the_next_run_resumes(
    images, tmp_path, packed, capsys
):
    out = tmp_path / "out"
    folder = tmp_path / ".out.partial-packing" / "shards"
    folder.mkdir(parents=True)
    full = folder / "images-00001.array_record"
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device.*free some space"):
        run_pack(images, out)
    full.unlink()
    capsys.readouterr()
    run_pack(images, out)
    assert "of 4 shards are already packed" in capsys.readouterr().err
    assert contents(out) == contents(packed)


def test_two_killed_processes_are_continued_by_two(images, packed, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    killed = [start_worker("packer", str(tmp_path), "kill", env=e) for e in cluster(2)]
    for process in killed:
        process.communicate()
        assert process.returncode < 0
    assert not (tmp_path / "out").exists()
    kept = len(list((tmp_path / ".out.partial-packing").glob("0*.json")))
    assert kept >= 1
    workers = [start_worker("packer", str(tmp_path), env=env) for env in cluster(2)]
    messages = " ".join(finish(worker) for worker in workers)
    found = re.findall(r"(\d) of 2 shards are already packed", messages)
    assert sum(map(int, found)) == kept
    assert contents(tmp_path / "out") == contents(packed)
