"""Released weights: found, downloaded, checked, kept as .npz, or one clear error."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from picjax.cli import UserError
from picjax.evaluation.metrics import weights
from picjax.official import files

torch = pytest.importorskip("torch")

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
