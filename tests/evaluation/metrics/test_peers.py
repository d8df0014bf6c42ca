"""Against pytorch-fid, torchmetrics and lpips themselves, with the same weights.

Needs the `parity` extra; skipped without it.
"""

# pyright: reportMissingImports=false
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.evaluation.metrics import backbones, fid, inception, layers, lpips, resize

with warnings.catch_warnings(action="ignore"):
    torch = pytest.importorskip("torch")
    peer_lpips = pytest.importorskip("lpips")
    peer_fid = pytest.importorskip("pytorch_fid.inception")
    pytest.importorskip("torch_fidelity")
    torchmetrics_fid = pytest.importorskip("torchmetrics.image.fid")

pytestmark = pytest.mark.filterwarnings("ignore")
RNG = np.random.default_rng(0)


def tensor(x: np.ndarray):
    return torch.from_numpy(np.ascontiguousarray(x))


def nchw(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Inception's, with norms that do something."""
    found = layers.random_tensors(inception.shapes())
    for name, x in found.items():
        if ".bn." in name:
            x += RNG.uniform(-0.1, 0.1, x.shape).astype(np.float32)
    return found


def test_every_tap_is_pytorch_fids(tensors, monkeypatch):
    state = {name: tensor(x) for name, x in tensors.items()}
    monkeypatch.setattr(peer_fid, "load_state_dict_from_url", lambda *_, **__: state)
    network = peer_fid.InceptionV3([0, 1, 2, 3]).eval()
    images = RNG.integers(0, 256, (2, 40, 52, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = network(tensor(nchw(images)).float() / 255)
    x = resize.for_inception(jnp.asarray(images), "pytorch_fid")
    taps = ("64", "192", "768", "2048")
    run = jax.jit(inception.features, static_argnames="taps")
    found = run(inception.prepare(tensors), x, taps=taps)
    for tap, value in zip(taps, expected, strict=True):
        value = value.mean((2, 3)).numpy()
        gate = 1e-3 * np.abs(value).mean()
        np.testing.assert_allclose(found[tap], value, rtol=0, atol=gate)


def test_fid_is_torchmetrics(tensors, tmp_path):
    """Of the first tap, whose covariance has full rank, with TensorFlow's resize."""
    path = tmp_path / "weights.pth"
    torch.save({name: tensor(x) for name, x in tensors.items()}, path)
    peer = torchmetrics_fid.FrechetInceptionDistance(
        64, feature_extractor_weights_path=str(path), antialias=False
    )
    run = jax.jit(inception.features, static_argnames="taps")
    params, stats = inception.prepare(tensors), []
    for real in (True, False):
        images = RNG.integers(0, 256 if real else 200, (72, 8, 8, 3), dtype=np.uint8)
        moments = fid.Moments()
        for batch in images.reshape(6, 12, 8, 8, 3):
            peer.update(tensor(nchw(batch)), real=real)
            x = resize.for_inception(jnp.asarray(batch), "tf_legacy")
            moments.add(np.asarray(run(params, x, taps=("64",))["64"]))
        stats.append(moments.stats())
    assert fid.distance(*stats) == pytest.approx(float(peer.compute()), rel=1e-3)


@pytest.mark.parametrize("net", list(backbones.RELEASED))
@pytest.mark.parametrize("version", lpips.VERSIONS)
def test_lpips_is_lpips(net, version):
    tensors = layers.random_tensors(backbones.shapes(net))
    pairs = [RNG.uniform(-1, 1, (2, 40, 48, 3)).astype(np.float32) for _ in "ab"]
    model = lpips.make_model(tensors, net, version)
    peer = peer_lpips.LPIPS(
        net=net, version=version, pnet_rand=True, spatial=True, verbose=False
    )
    state = peer.net.state_dict()
    for name in state:
        source = "features." + name.split(".", 1)[1]
        state[name] = tensor(tensors[source])
    peer.net.load_state_dict(state)
    with torch.no_grad():
        expected = peer(*(tensor(nchw(x)) for x in pairs)).numpy()[:, 0]
    found = jax.jit(lpips.spatial)(model, *pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
