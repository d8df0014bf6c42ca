"""Images/s of the input pipeline beside torch's DataLoader on the same cores.

    python -m bench.data [--images 2000] [--batch 8] [--rounds 5] [--json FILE]

The files are 256 px JPEGs cut from the embedded photographs. Every image is resized to
266, cropped to 256 at random, flipped, combined with a centre mask and batched as floats.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from bench import table

SIZE, LOAD_SIZE = 256, 266


def write_jpegs(
    folder: Path, count: int, across: int = 1, seed: int = 0, quality: int = 92
) -> None:
    """Write `count` JPEG files, each of `across` random crops of photographs in a row."""
    from skimage import data

    folder.mkdir(parents=True)
    names = ("astronaut", "coffee", "chelsea", "rocket")
    photos = [Image.fromarray(getattr(data, name)()) for name in names]
    rng = np.random.default_rng(seed)
    for i in range(count):
        file = Image.new("RGB", (across * SIZE, SIZE))
        for j in range(across):
            photo = photos[(i + j) % len(photos)]
            side = int(rng.integers(200, min(photo.size)))
            x, y = (int(rng.integers(0, n - side + 1)) for n in photo.size)
            box = (x, y, x + side, y + side)
            crop = photo.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box)
            file.paste(crop, (j * SIZE, 0))
        file.save(folder / f"{i:06}.jpg", quality=quality)


class Folder:
    """The peer's map-style data set: the official transforms, with Pillow and torch.

    Args:
      folder: of JPEG files.
      size: of the crops.
      load_size: of the whole images before.
    """

    def __init__(self, folder: Path, size: int = SIZE, load_size: int = LOAD_SIZE):
        self.paths = sorted(folder.rglob("*.jpg"))
        self.size, self.load_size = size, load_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        import torch  # pyright: ignore[reportMissingImports]

        size, load_size = self.size, (self.load_size, self.load_size)
        with Image.open(self.paths[index]) as file:
            file.draft("RGB", load_size)  # as we do: decodes at a fraction of the size
            image = file.convert("RGB").resize(load_size, Image.Resampling.BILINEAR)
        x, y = torch.randint(self.load_size - size + 1, (2,)).tolist()
        image = image.crop((x, y, x + size, y + size))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = torch.ones(1, size, size)
        mask[:, size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = 0
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return {"image": pixels.float() / 127.5 - 1, "mask": mask}


def torch_batches(images: Folder, batch: int, workers: int, start: str) -> Iterator:
    """Endless batches of a DataLoader with one worker per core, which `start` starts."""
    from torch.utils.data import DataLoader  # pyright: ignore[reportMissingImports]

    loader = DataLoader(
        images,  # pyright: ignore[reportArgumentType]
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        multiprocessing_context=start,
        persistent_workers=True,
    )
    while True:
        yield from loader


def our_batches(
    name: str, path: Path, batch: int, size: int = SIZE, load_size: int = LOAD_SIZE
) -> Iterator:
    """Endless float batches on the device, from files or from packed shards."""
    import jax

    from configs import picmm
    from picjax.data import pipeline
    from picjax.images import to_float

    config: Any = picmm.get_config("celeba_hq").data
    config.update(name=name, path=str(path), rotation=0.0, load_size=load_size)
    convert = jax.jit(to_float)
    for found in pipeline.train_batches(config, size, batch, seed=0):
        arrays = {key: found[key] for key in ("image", "mask")}
        yield jax.block_until_ready(convert(arrays))


def pack(folder: Path, out: Path) -> None:
    """Pack a folder by the command that users run."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "picjax.data.pack", str(folder), f"--out={out}"]
    subprocess.run(command, check=True)


def rate(batches: Iterator, batch: int, drain: int, count: int) -> float:
    """Images/s over `count` batches, after the buffered ones."""
    for _ in range(drain):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return batch * count / (time.perf_counter() - start)


def measure(folder: Path, shards: Path, args) -> list[table.Row]:
    """Rates of the three sources, measured alternately."""
    cores = len(os.sched_getaffinity(0))
    peer = "torch DataLoader, folder"
    sources: dict[str, Callable[[], Iterator]] = {
        # JAX's threads forbid a fork.
        peer: lambda: torch_batches(Folder(folder), args.batch, cores, "spawn"),
        "picjax, folder": lambda: our_batches("folder", folder, args.batch),
        "picjax, packed": lambda: our_batches("arrayrecord", shards, args.batch),
    }
    streams = {name: make() for name, make in sources.items()}
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(args.rounds):
        for name, stream in streams.items():
            rates[name].append(rate(stream, args.batch, args.drain, args.count))
    return [
        {
            "source": name,
            "images/s": median(values),
            "lowest": min(values),
            "highest": max(values),
            "x torch": median(a / b for a, b in zip(values, rates[peer], strict=True)),
        }
        for name, values in rates.items()
    ]


def main() -> None:
    parser = table.parser(__doc__)
    parser.add_argument(
        "--images", type=int, default=2000, help="number of files (2000)"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--count", type=int, default=60, help="timed batches per round (60)"
    )
    parser.add_argument(
        "--drain", type=int, default=30, help="untimed batches before (30)"
    )
    args = parser.parse_args()
    about = table.machine()
    with tempfile.TemporaryDirectory() as root:
        folder, shards = Path(root, "jpeg"), Path(root, "packed")
        write_jpegs(folder, args.images)
        pack(folder, shards)
        rows = measure(folder, shards, args)
    title = f"Input pipeline, 256 px, batch {args.batch}"
    table.report({title: rows}, about, args.json)


if __name__ == "__main__":
    main()
