"""Feature metrics beside pytorch-fid, torchmetrics and lpips on the same cores.

    python -m bench.metrics [--batch 16] [--rounds 5] [--images 64] [--json FILE]

All networks have the same random weights; images are 256 px. Needs the `parity` extra.
Ours run on all JAX devices, as in `picjax.eval`; JAX_NUM_CPU_DEVICES=2 turns a CPU into
two devices. A whole FID is timed from uint8 images to the number. Memory is the largest
resident set of a process that streams rows of 2,048 features through the statistics.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import table
from bench.step import torch_device

SIZE = 256
SAMPLES = 10  # samples per image, for the diversity


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """uint8 images, NHWC."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def torch_images(images: np.ndarray) -> Any:
    """The same for PyTorch, NCHW."""
    import torch  # pyright: ignore[reportMissingImports]

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def torch_state(tensors) -> dict[str, Any]:
    """NumPy's tensors as PyTorch's."""
    import torch  # pyright: ignore[reportMissingImports]

    return {name: torch.from_numpy(np.asarray(x)) for name, x in tensors.items()}


def our_inception(
    tensors, pipeline: str, batch: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 images to pool features, as `picjax.eval` computes them."""
    import jax

    from picjax.evaluation.metrics.features import Inception
    from picjax.evaluation.metrics.networks import Networks, Settings
    from picjax.evaluation.metrics.results import RANDOM
    from picjax.evaluation.metrics.weights import Loaded

    class LoadedNetworks(Networks):
        def load(self, released):
            return Loaded(tensors, RANDOM)

    each = batch // jax.local_device_count()
    networks = LoadedNetworks(Settings(pipeline=pipeline, batch=each))
    network = Inception(networks, "fid", pipeline)
    return lambda images: network.features(list(images))["2048"]


def pytorch_fid_inception(
    tensors, compiled: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """The same with pytorch-fid's network and input, on the device that is there."""
    import torch  # pyright: ignore[reportMissingImports]
    from pytorch_fid import inception  # pyright: ignore[reportMissingImports]

    inception.load_state_dict_from_url = lambda *_, **__: torch_state(tensors)
    device = torch_device()
    network = inception.InceptionV3([3]).eval().to(device)
    if compiled:
        network.compile()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            given = torch_images(images).to(device).float() / 255
            return network(given)[0][:, :, 0, 0].cpu().numpy()

    return run


def torchmetrics_fid(tensors) -> Any:
    """torchmetrics' FID with torch-fidelity's network and TensorFlow's resize."""
    import torch  # pyright: ignore[reportMissingImports]
    from torchmetrics.image.fid import (  # pyright: ignore[reportMissingImports]
        FrechetInceptionDistance,
    )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save(torch_state(tensors), path)
        return FrechetInceptionDistance(
            2048, feature_extractor_weights_path=str(path), antialias=False
        )


def rows(
    seconds: dict[str, list[float]], ours: dict[str, str], count: int, unit: str
) -> list[table.Row]:
    """Rates, and ours over the peer's; `ours` maps each of our runs to its peer."""
    found = []
    for name, values in seconds.items():
        row: table.Row = {"run": name, unit: count / median(values)}
        row |= {"lowest": count / max(values), "highest": count / min(values)}
        if name in ours:
            row["x peer"] = table.ratio(values, seconds[ours[name]])
        found.append(row)
    return found


def measure_inception(tensors, args) -> list[table.Row]:
    """Features of one batch."""
    images = pictures(args.batch)
    networks = {
        "picjax, pytorch_fid input": our_inception(tensors, "pytorch_fid", args.batch),
        "pytorch-fid": pytorch_fid_inception(tensors),
        "picjax, tf_legacy input": our_inception(tensors, "tf_legacy", args.batch),
        "torchmetrics": torchmetrics_network(tensors),
    }
    seconds = table.interleave(
        {name: lambda run=run: run(images) for name, run in networks.items()},
        args.rounds,
    )
    names = list(networks)
    peers = {names[0]: names[1], names[2]: names[3]}
    return rows(seconds, peers, args.batch, "images/s")


def torchmetrics_network(tensors) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 images to pool features by torch-fidelity's network."""
    import torch  # pyright: ignore[reportMissingImports]

    network = torchmetrics_fid(tensors).inception

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch_images(images)).numpy()

    return run


def measure_fid(tensors, args) -> list[table.Row]:
    """FID from images to the number."""
    import torch  # pyright: ignore[reportMissingImports]

    from picjax.evaluation.metrics import fid

    sets = [pictures(args.images, seed) for seed in (1, 2)]
    features = our_inception(tensors, "tf_legacy", args.batch)
    peer = torchmetrics_fid(tensors)

    def batches(images: np.ndarray) -> list[np.ndarray]:
        return [images[i : i + args.batch] for i in range(0, len(images), args.batch)]

    def ours() -> float:
        stats = []
        for images in sets:
            moments = fid.Moments()
            for batch in batches(images):
                moments.add(features(batch))
            stats.append(moments.stats())
        return fid.distance(*stats)

    def theirs() -> float:
        peer.reset()
        with torch.no_grad():
            for images, real in zip(sets, (True, False), strict=True):
                for batch in batches(images):
                    peer.update(torch_images(batch), real=real)
            return float(peer.compute())

    runs = {"picjax": ours, "torchmetrics": theirs}
    seconds = table.interleave(runs, max(args.rounds // 2, 1))
    count = 2 * args.images
    return rows(seconds, {"picjax": "torchmetrics"}, count, "images/s")


def measure_lpips(args) -> list[table.Row]:
    """Distances of pairs, and of all pairs of an image's samples."""
    import jax
    import jax.numpy as jnp
    import lpips as peer_package  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    from picjax.evaluation.metrics import backbones, layers, lpips

    tensors = layers.random_tensors(backbones.shapes("alex"))
    model = layers.everywhere(lpips.make_model(tensors))
    peer = peer_package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = peer.net.state_dict()
    given = torch_state(tensors)
    peer.net.load_state_dict(
        {name: given["features." + name.split(".", 1)[1]] for name in state}
    )
    a, b = pictures(args.batch, 3), pictures(args.batch, 4)
    samples, pairs = pictures(SAMPLES, 5), lpips.all_pairs(SAMPLES)
    nowhere = jnp.zeros((SIZE, SIZE), jnp.float32)

    def pair(model: Any, both: Any) -> Any:
        return lpips.distance(model, *(lpips.to_float(x) for x in both))

    def distances(given: Any, pairs: Any) -> Any:
        model, taps = given
        return lpips.pair_distances(model, taps, pairs, nowhere).T

    distance = layers.on_all_devices(pair)
    embed = layers.on_all_devices(lambda m, x: lpips.embed(m, lpips.to_float(x)))
    among = layers.on_all_devices(distances)

    def diversity() -> np.ndarray:
        count = jax.local_device_count()
        taps = embed(model, layers.fill_up(samples, count))
        return np.asarray(among((model, taps), layers.fill_up(pairs, count)))

    def theirs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            x, y = (torch_images(x).float() / 127.5 - 1 for x in (a, b))
            return peer(x, y).numpy()

    def their_diversity() -> list[np.ndarray]:
        split = np.array_split(pairs.T, -(-len(pairs) // args.batch), 1)
        return [theirs(samples[i], samples[j]) for i, j in split]

    found = []
    for title, ours, peers, count in (
        (
            "pairs of images",
            lambda: np.asarray(distance(model, (a, b))),
            lambda: theirs(a, b),
            args.batch,
        ),
        (
            f"all pairs of {SAMPLES} samples",
            diversity,
            their_diversity,
            len(pairs),
        ),
    ):
        runs = {f"picjax, {title}": ours, f"lpips, {title}": peers}
        seconds = table.interleave(runs, args.rounds)
        first, second = runs
        found += rows(seconds, {first: second}, count, "pairs/s")
    return found


def stream_moments(rows: int) -> float:
    """Largest resident set, in MB, of this process after so many feature rows."""
    from picjax.evaluation.metrics import fid

    moments, rng = fid.Moments(), np.random.default_rng(0)
    for _ in range(rows // 50):
        moments.add(rng.normal(size=(50, 2048)).astype(np.float32))
    assert moments.count == rows
    status = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) / 1024  # getrusage has the parent's, too


def measure_memory(counts: list[int]) -> list[table.Row]:
    """Largest resident set after so many rows, each in a process of its own."""
    rows: list[table.Row] = []
    for count in counts:
        command = [sys.executable, "-m", "bench.metrics", f"--stream={count}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append({"images": count, "MB": float(done.stdout)})
    return rows


def main() -> None:
    parser = table.parser(__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64, help="of either set, for FID")
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stream:
        print(stream_moments(args.stream))
        return

    import jax

    machine = table.machine()
    machine["JAX devices"] = jax.local_device_count()
    if args.batch % machine["JAX devices"]:
        parser.error(f"--batch is no multiple of {machine['JAX devices']} devices")
    warnings.simplefilter("ignore")  # the peers' own

    import torch  # pyright: ignore[reportMissingImports]

    from picjax.evaluation.metrics import inception, layers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tensors = layers.random_tensors(inception.shapes())
    tables = {
        f"Inception features, batch {args.batch}": measure_inception(tensors, args),
        f"FID of 2 x {args.images} images": measure_fid(tensors, args),
        f"LPIPS, AlexNet, batch {args.batch}": measure_lpips(args),
        "Statistics of a stream": measure_memory([1000, 5000, 50000]),
    }
    table.report(tables, machine, args.json)


if __name__ == "__main__":
    main()
