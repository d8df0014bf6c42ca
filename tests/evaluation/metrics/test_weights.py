"""Released weights: found, downloaded, checked, kept as .npz, or one clear error."""

import gc
import hashlib
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from picjax.cli import UserError
from picjax.evaluation.metrics import backbones, hyperiqa, inception, nima, weights
from picjax.official import digests, files

torch = pytest.importorskip("torch")
# pooch leaves a download's connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

SHAPES = {"features.0.weight": (2, 3, 1, 1), "features.0.bias": (2,)}


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A small network's file under its released name, and a place to download from."""
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    path = source / "net.pth"
    torch.save({k: torch.ones(shape) for k, shape in SHAPES.items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path = path.rename(source / f"net-{digest[:8]}.pth")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    return path


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def released(network):
    """What is published of it, on a server of its own."""
    handler = partial(QuietHandler, directory=network.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        yield weights.Released(url, (network.name,), lambda: SHAPES)
        server.shutdown()
        thread.join()
    gc.collect()  # connections, where their warnings are ignored


def test_pytorch_is_needed_once(network, released, monkeypatch):
    first = weights.load(released, str(network.parent))
    monkeypatch.setattr(files, "read", lambda path: pytest.fail("read again"))
    monkeypatch.setenv(weights.VARIABLE, str(network.parent))
    second = weights.load(released)
    assert first.source == second.source == network.name
    for name, shape in SHAPES.items():
        np.testing.assert_array_equal(first.tensors[name], np.ones(shape))
        np.testing.assert_array_equal(second.tensors[name], np.ones(shape))


def test_a_download_is_kept(network, released):
    weights.load(released)
    network.unlink()
    assert weights.load(released).tensors.keys() == SHAPES.keys()
    kept = weights.cache() / network.name
    assert sorted(kept.parent.iterdir()) == [kept.with_suffix(".npz"), kept]


def test_a_damaged_file_is_refused_wherever_it_is_from(network, released):
    network.write_bytes(network.read_bytes() + b"x")
    for folder in (None, str(network.parent)):
        with pytest.raises(UserError, match="is not the released file"):
            weights.load(released, folder)
    assert not list(weights.cache().iterdir())


@pytest.mark.parametrize("how", ["flipped", "other tensors", "without checksums"])
def test_a_damaged_conversion_is_repeated(how, network, released, capsys):
    """Or named, if the file that it is from is not there."""
    folder, converted = str(network.parent), network.with_suffix(".npz")

    def damage():
        with np.load(converted) as file:
            content = {name: file[name] for name in file.files}
        if how == "flipped":
            whole = bytearray(converted.read_bytes())
            whole[whole.index(np.ones(2, np.float32).tobytes())] ^= 1
            converted.write_bytes(bytes(whole))
        elif how == "other tensors":
            changed = content | {"features.0.bias": np.zeros(2)}
            np.savez(converted, allow_pickle=False, **changed)
        else:
            kept = {name: content[name] for name in SHAPES}
            np.savez(converted, allow_pickle=False, **kept)

    weights.load(released, folder)
    damage()
    again = weights.load(released, folder)
    assert f"'{converted}' is damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(again.tensors["features.0.bias"], np.ones(2))
    weights.load(released, folder)
    assert capsys.readouterr().err == ""  # it was mended
    damage()
    network.unlink()
    with pytest.raises(UserError, match=r"npz' is damaged .*; delete it"):
        weights.load(released, folder)


class Hostile:
    """Unpickled, it writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "run")


NETWORKS = {**backbones.RELEASED, **inception.RELEASED}
NETWORKS |= {"hyperiqa": hyperiqa.RELEASED, "nima": nima.RELEASED}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", ["torch", "pickle", "npz"])
def test_hostile_weights_run_nothing(network, form, tmp_path, monkeypatch):
    """Even where the digest of the file is the expected one."""
    marker = tmp_path / "marker"
    monkeypatch.setattr(digests, "verify", lambda *_, **__: "0" * 64)
    for name in NETWORKS[network].names:
        path = tmp_path / name
        if form == "torch":
            torch.save({"x": Hostile(marker)}, path)
        elif form == "pickle":
            path.write_bytes(pickle.dumps(Hostile(marker)))
        else:
            array = np.array([Hostile(marker)], dtype=object)
            np.savez(path.with_suffix(".npz"), x=array)
        with pytest.raises(UserError, match="holds more than tensors|is damaged"):
            weights.load(NETWORKS[network], str(tmp_path))
        for file in tmp_path.iterdir():
            file.unlink()
    assert not marker.exists()


def test_offline_says_which_file_to_put_where(network, released, tmp_path):
    network.unlink()
    with pytest.raises(UserError) as error:
        weights.load(released, str(tmp_path))
    for part in (network.name, str(tmp_path), "--weights", weights.VARIABLE):
        assert part in str(error.value)


def test_random_weights_are_taken_only_on_demand_and_say_so(network, released):
    network.unlink()
    loaded = weights.load(released, allow_random=True)
    assert loaded.source == "random features"
    assert {name: x.shape for name, x in loaded.tensors.items()} == SHAPES


def test_another_networks_file_is_refused(network, released, monkeypatch):
    wrong = SHAPES | {"features.0.bias": (3,)}
    released = released._replace(shapes=lambda: wrong)
    with pytest.raises(UserError, match="'features.0.bias' where \\(3,\\) is needed"):
        weights.load(released, str(network.parent))


def test_a_mistyped_folder_is_named(network, released, tmp_path):
    with pytest.raises(UserError, match="nowhere' does not exist"):
        weights.load(released, str(tmp_path / "nowhere"))
