"""n completions of an image, on disk or from Python.

    python -m picjax.complete --workdir=runs/demo-picmm --image=a.jpg --mask=center
    python -m picjax.complete --workdir=runs/demo-picmm --compose scene.json

    model = picjax.load("runs/demo-picmm")
    images = model.complete(image, mask, n=10, seed=0)   # uint8 [n h w 3]

An image of any size is resized to the model's (aspect not kept, as in training), its
hole completed, and the result resized back and pasted: known pixels stay the input's to
the last bit. A run on `aligned` pairs makes whole pictures: its image is the picture to
start from, and there is no mask.
"""

import argparse
import ast
import contextlib
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from picjax import checkpoints, masks, report, sharding, systems
from picjax.cli import Parser, UserError, check_choice, run
from picjax.compose import compose
from picjax.data.pipeline import to_float
from picjax.draw import Drawn, make_draw, visible
from picjax.inputs import (
    as_known,
    as_pixels,
    find_images,
    match_masks,
    read_image,
    read_known,
    refuse_same,
)
from picjax.system import Config, System, Tree, image_shape

HOLE_GREY = 127  # what PICNet's test script shows a hole as
CELL = 192  # pixels: the longest side in a grid
COLUMNS = 6  # completions in a row of a grid
SETTING = "--config.sampler."


class Model:
    """A trained system, ready to complete images.

    Attributes:
      config: the run's config.
      size: height and width at which the system works.
      step: the training step of the variables.
      has_likelihood: whether `evaluate` says how likely images are.
      translates: whether it makes whole pictures from others, without a mask.
    """

    def __init__(self, config: ConfigDict, system: System, variables: Tree, step: int):
        self.config = config
        self.size = image_shape(config)
        self.step = step
        self.translates = translates(config)
        self._mesh = sharding.make_mesh()
        self._remarks = system.remarks
        self._variables = jax.device_put(variables, sharding.replicated(self._mesh))

        self._sample = jax.jit(make_draw(system), static_argnames=("n", "of"))
        self._can_rank = system.score is not None

        def evaluate(variables: Tree, batch: dict[str, Array], key: Array):
            return system.evaluate(variables, to_float(batch), key)

        self._evaluate = jax.jit(evaluate)
        self.has_likelihood = system.likelihood

    def sample(
        self,
        images: UInt8[np.ndarray, "b h w 3"],
        known: UInt8[np.ndarray, "b h w 1"],
        n: int,
        seed: int,
        of: int | None = None,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> Drawn:
        """n completions an image at the model's size, on the device, not waited for.

        Compiled once a batch size and n.

        Args:
          images: what lies in the hole has no influence.
          known: 1 = known, 0 = hole.
          n: completions an image; they share one pass of the encoder.
          seed: another seed, other completions.
          of: draw that many and keep the n that the system scores highest, best first.
          given: what else the system is given, such as `condition` uint8 [b h w 3].

        Raises:
          UserError: when `of` is below n, or the system scores nothing.
        """
        if of is not None and of < n:
            raise UserError(f"the best {n} of {of} cannot be kept; draw at least {n}")
        if of is not None and not self._can_rank:
            raise UserError(
                f"{self.config.system} does not score its completions; "
                "leave the best-of out"
            )
        key = jax.random.key(seed % 2**32)
        batch = visible(images, known, given or {})
        even = len(images) % self._mesh.size == 0
        place = sharding.batch_sharding if even else sharding.replicated
        batch = jax.device_put(batch, place(self._mesh))
        # Images that do not split over the devices share them out by completions.
        with contextlib.nullcontext() if even else jax.set_mesh(self._mesh):
            return self._sample(self._variables, batch, key, n=n, of=of or n)

    def evaluate(
        self,
        images: UInt8[np.ndarray, "b h w 3"],
        known: UInt8[np.ndarray, "b h w 1"],
        seed: int,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Array]:
        """What the system itself says of whole images: one number an image each."""
        batch = {"image": images, "mask": known, **(given or {})}
        return self._evaluate(self._variables, batch, jax.random.key(seed % 2**32))

    def complete(
        self,
        image: np.ndarray | Image.Image,
        mask: np.ndarray | Image.Image | str | None = None,
        n: int = 10,
        seed: int = 0,
        of: int | None = None,
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """n completions of one image at its own size.

        The draws depend on the seed, the visible part and the mask alone.

        Args:
          image: uint8 [h w 3] or [h w], or a Pillow image of any mode. If the model
            translates: the picture to make others from.
          mask: a Pillow image is read as a mask file (white = hole); an array is the
            library's [h w] or [h w 1] of 1 = known, 0 = hole; a string names a mask,
            such as "center". None if the model translates, and only then.
          n: how many.
          seed: another seed, other completions.
          of: draw that many and keep the n that the system scores highest, best first
            (by its discriminator: the top 10 of 50 in PICNet's paper).

        Returns:
          uint8 [n h w 3]; known pixels are the input's.

        Raises:
          UserError: when the image or the mask is none of the above, n < 1 or of < n,
            or the model makes numbers that are not finite.
        """
        if n < 1:
            raise UserError(f"n is {n}; ask for 1 completion or more")
        refuse_mask(self.translates, mask)
        pixels = as_pixels(image)
        if mask is None:
            whole = np.ones(pixels.shape[:2], np.uint8)
            picture, _ = fit(pixels, whole, self.size)
            nothing = np.zeros_like(picture[None])
            given = {"condition": picture[None]}
            drawn = self.sample(nothing, nothing[..., :1], n, seed, of, given)
            refuse_nan(drawn, ["the image"])
            return paste(pixels, 0 * whole, np.asarray(drawn.pixels[0]))
        known, said = as_known(mask, pixels, seed)
        small, small_known = fit(pixels, known, self.size)
        for warning in (*said, *self._remarks(small_known)):
            warnings.warn(warning, stacklevel=2)
        drawn = self.sample(small[None], small_known[None, ..., None], n, seed, of)
        refuse_nan(drawn, ["the image"])
        return paste(pixels, known, np.asarray(drawn.pixels[0]))


def refuse_nan(drawn: Drawn, names: Sequence[str]) -> None:
    """Completions whose numbers are not finite would be black pixels, silently.

    Raises:
      UserError: naming the first of these images.
    """
    for name, finite in zip(names, np.asarray(drawn.finite), strict=True):
        if not finite:
            raise UserError(
                f"the completions of {name} hold numbers that are not finite; the "
                "run's networks are spoilt: train again with a lower config.opt.lr"
            )


def load(
    workdir: str | Path, sampler: str | Mapping[str, Any] = "", best: bool = False
) -> Model:
    """The model of a workdir, at its newest checkpoint.

    Args:
      workdir: a run's folder.
      sampler: one of the system's ways of drawing, instead of the run's, such as
        "fast" of painter; or keys of `config.sampler` with other values, such as
        {"preset": "fast", "label": 3}.
      best: take the checkpoint kept by `config.best` instead.

    Raises:
      UserError: when the folder is no workdir or holds no such checkpoint, or the
        system has no such choice.
    """
    if sampler:  # refused before the weights are read
        config = checkpoints.read_config(Path(workdir))
        use_sampler(config, sampler)
        systems.make(config)
    config, variables, step = checkpoints.restore_variables(workdir, best)
    if sampler:
        use_sampler(config, sampler)
    return Model(config, systems.make(config), variables, step)


def use_sampler(config: Config, sampler: str | Mapping[str, Any]) -> None:
    """Sets the way of drawing: the preset, or keys of `config.sampler`.

    Values may be the words of a command line.

    Raises:
      UserError: when the system has no such choice, key or kind of value.
    """
    if "sampler" not in config:
        raise UserError(f"{config.system} draws in one way; leave the sampler out")
    given = {"preset": sampler} if isinstance(sampler, str) else sampler
    for key, value in given.items():
        check_choice("config.sampler's key", key, list(config.sampler))
        before = config.sampler[key]
        try:
            if isinstance(value, str) and not isinstance(before, str):
                value = ast.literal_eval(value)
            config.sampler[key] = value
        except (SyntaxError, TypeError, ValueError):
            raise UserError(
                f"config.sampler.{key} '{value}' is no {type(before).__name__} as "
                f"{before} is; mend the value"
            ) from None


def translates(config: Config) -> bool:
    """Whether the runs of a config make whole pictures from others."""
    return config.data.name == "aligned"


def refuse_mask(translates: bool, mask: object) -> None:
    """Completing takes a mask, translating takes none.

    Raises:
      UserError: when it is otherwise.
    """
    if translates and mask is not None:
        raise UserError(
            "this run makes whole pictures from pairs; leave the mask out, or --compose"
        )
    if not translates and mask is None:
        raise UserError(
            "this run completes holes; give a mask (--mask): a file, a folder or one "
            f"of {', '.join(masks.NAMES)}"
        )


def fit(
    image: UInt8[np.ndarray, "H W 3"],
    known: UInt8[np.ndarray, "H W"],
    size: tuple[int, int],
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Image and mask at the model's size, aspect not kept.

    A pixel that any part of the hole falls into is a hole, and a known pixel is the
    mean of known ones only: what the hole hides (an object to be removed) does not
    bleed into what the model sees.
    """
    if known.shape == size:
        return image, known
    box = (size[1], size[0])
    weight = known.astype(np.float32)
    whole = Image.fromarray(weight).resize(box, Image.Resampling.BOX)
    small = (np.asarray(whole) > 1 - 1e-4).astype(np.uint8)
    total = np.asarray(Image.fromarray(weight).resize(box, Image.Resampling.BILINEAR))
    channels = []
    for c in range(3):
        plane = Image.fromarray(image[..., c] * weight)
        colour = np.asarray(plane.resize(box, Image.Resampling.BILINEAR))
        channels.append(colour / np.maximum(total, 1e-6))
    mean = np.stack(channels, -1).round().clip(0, 255).astype(np.uint8)
    return mean * small[..., None], small


def paste(
    image: UInt8[np.ndarray, "H W 3"],
    known: UInt8[np.ndarray, "H W"],
    samples: UInt8[np.ndarray, "n h w 3"],
) -> UInt8[np.ndarray, "n H W 3"]:
    """Samples at the image's size (bicubic), known pixels the image's own."""
    height, width = known.shape
    out = np.empty((len(samples), height, width, 3), np.uint8)
    for i, sample in enumerate(samples):
        if sample.shape != image.shape:
            picture = Image.fromarray(sample)
            resized = picture.resize((width, height), Image.Resampling.BICUBIC)
            sample = np.asarray(resized)
        out[i] = np.where(known[..., None] == 1, image, sample)
    return out


class Job(NamedTuple):
    """One image to complete; `mask` is a file or the name of a mask, or None.

    A .json among images is a scene, which has a mask of its own.
    """

    image: Path
    mask: Path | str | None


def find_jobs(image: str, mask: str | None) -> list[Job]:
    """Pairs the images at a path with masks, where there are any; see `match_masks`.

    Raises:
      UserError: when something is missing, unreadable, or does not pair.
    """
    images = find_images(image, "--image")
    stems = [path.stem for path in images]
    refuse_same(stems, f"'{image}' holds {{}} images")
    matched = [None] * len(stems) if mask is None else match_masks(stems, mask)
    return [Job(*pair) for pair in zip(images, matched, strict=True)]


def find_scenes(files: Sequence[str]) -> list[Job]:
    """The scenes in files, each of which is composed once to see that it can be.

    Raises:
      UserError: when one cannot, or two have the same name.
    """
    paths = [Path(file) for file in files]
    refuse_same([path.stem for path in paths], "--compose has {} scenes")
    for path in paths:
        compose(path)
    return [Job(path, None) for path in paths]


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything the user can mend, before the first compile where it
        can be seen by then.
    """
    args = parse(argv)
    if args.num < 1:
        raise UserError(f"--num is {args.num}; ask for 1 completion or more")
    if bool(args.image) == bool(args.compose):
        raise UserError("give either --image, with --mask, or --compose")
    if args.compose and (args.mask or args.invert_mask):
        raise UserError("a scene says itself what is known; leave --mask out")
    masked = args.compose or args.mask
    if masked is None:
        refuse_mask(translates(checkpoints.read_config(Path(args.workdir))), None)
    if args.compose:
        jobs = find_scenes(args.compose)
    else:
        jobs = find_jobs(args.image, args.mask)
    out = Path(args.out) if args.out else Path(args.workdir) / "completions"
    if args.image and out.resolve() == jobs[0].image.parent.resolve():
        raise UserError(
            f"--out '{out}' is the folder of the images; choose another, so that a "
            "second run does not complete the first one's outputs"
        )
    if args.image and len(jobs) == 1:  # a damaged one among several is left out
        read_job(jobs[0], args)
    model = load(args.workdir, args.sampler)
    refuse_mask(model.translates, masked)
    complete_all(model, jobs, args, out)
    print(f"{args.num} completions of {len(jobs)} image(s) in {out}")


def read_job(
    job: Job, args: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The image, its mask where it has one, and warnings about that."""
    if args.compose:
        image, known = compose(job.image)
        return image, known[..., 0], []
    image = read_image(job.image)
    if job.mask is None:
        return image, None, []
    return image, *read_known(job.mask, image, args.seed, args.invert_mask)


def complete_all(
    model: Model, jobs: Sequence[Job], args: argparse.Namespace, out: Path
) -> None:
    """Completes every image that can be read; each warning is said once.

    Raises:
      UserError: after the others are done, when some could not be read.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    failed: list[UserError] = []
    said: set[str] = set()
    with progress_bar(console) as bar:
        for job in bar.track(jobs, description="images"):
            try:
                image, known, about = read_job(job, args)
            except UserError as error:
                failed.append(error)
                continue
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                num, seed, best_of = args.num, args.seed, args.best_of
                samples = model.complete(image, known, num, seed, best_of)
            about = {*about, *(str(warning.message) for warning in caught)}
            for warning in about - said:
                console.print(f"picjax: {warning}", markup=False)
            said |= about
            write(out, job.image.stem, image, known, samples)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} images were left out, the others are in "
            f"'{out}': {failed[0]}"
        )


def write(
    out: Path,
    stem: str,
    image: UInt8[np.ndarray, "h w 3"],
    known: UInt8[np.ndarray, "h w"] | None,
    samples: UInt8[np.ndarray, "n h w 3"],
) -> None:
    """Writes `<stem>_truth.png`, `_mask.png`, `_out_<i>.png` and `_grid.png`.

    Without a mask the image is no truth: `<stem>_condition.png` instead of the first
    two. Outputs of an earlier run with more completions are removed: a folder holds one
    run's completions of an image, never a mixture.
    """
    files = {"condition": image}
    if known is not None:
        masked = np.where(known[..., None] == 1, image, np.uint8(HOLE_GREY))
        files = {"truth": image, "mask": masked}
    files["grid"] = grid(list(files.values()), samples)
    files |= {f"out_{i}": sample for i, sample in enumerate(samples)}
    with ThreadPoolExecutor() as pool:  # packing a PNG takes long and one core
        paths = [out / f"{stem}_{name}.png" for name in files]
        list(pool.map(report.write_png, paths, files.values()))
    stale = len(samples)
    while (path := out / f"{stem}_out_{stale}.png").exists():
        path.unlink()
        stale += 1


def grid(
    inputs: Sequence[UInt8[np.ndarray, "h w 3"]],
    samples: UInt8[np.ndarray, "n h w 3"],
) -> UInt8[np.ndarray, "y x 3"]:
    """Truth where there is one, input and completions, each no larger than CELL."""
    shown = [thumbnail(sample) for sample in samples]
    first, rest = shown[:COLUMNS], shown[COLUMNS:]
    rows = [[*map(thumbnail, inputs), *first]]
    blanks = [np.full_like(shown[0], 255)] * len(inputs)
    for i in range(0, len(rest), COLUMNS):
        rows.append([*blanks, *rest[i : i + COLUMNS]])
    titles = ["truth", "input"][-len(inputs) :]
    return report.image_grid(rows, [*titles, *map(str, range(len(first)))])


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "y x 3"]:
    """The image as a grid shows it: small ones in larger pixels, large ones shrunk."""
    longest = max(image.shape)
    if longest < CELL:
        return image.repeat(CELL // longest, 0).repeat(CELL // longest, 1)
    picture = Image.fromarray(image)
    picture.thumbnail((CELL, CELL), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def progress_bar(console: Console) -> Progress:
    """Images done, rate, time left."""
    return Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class Rate(ProgressColumn):
    """Images a second, or seconds an image when slower than one."""

    def render(self, task: Task) -> Text:
        """`3.2 images/s`."""
        speed = task.speed
        if not speed:
            return Text("compiling")
        if speed < 1:
            return Text(f"{1 / speed:.1f} s/image")
        return Text(f"{speed:.1f} images/s")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.complete",
        usage="%(prog)s --workdir DIR --image PATH --mask PATH|NAME [...]\n"
        "       %(prog)s --workdir DIR --compose JSON [JSON ...] [...]",
        description="Completes the hole of each image in n different ways.",
        epilog="example: python -m picjax.complete --workdir=runs/demo-picmm "
        "--image=photo.jpg --mask=center --num=6",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="a run of picjax.train")
    add("--image", metavar="PATH", help="an image, or a folder of them")
    add(
        "--mask",
        metavar="PATH|NAME",
        help="white = hole; a folder's masks match by stem, or else by order; "
        f"or one of {', '.join(masks.NAMES)}; none for a run on aligned pairs",
    )
    add(
        "--compose",
        nargs="+",
        metavar="J",
        help="instead: JSON files of cut-outs (docs/composition.md)",
    )
    add("--num", type=int, default=10, metavar="N", help="completions an image (10)")
    add(
        "--best-of",
        type=int,
        metavar="M",
        help="draw M, keep the N that the system scores highest",
    )
    walks = "painter's walk: repaint, painter, fast, draft, plain; "
    other = f"{SETTING}KEY=VALUE for other settings of it, such as label=3"
    add("--sampler", default="", metavar="NAME", help=walks + other)
    add("--seed", type=int, default=0, help="another seed, other completions (0)")
    add("--out", metavar="DIR", help="where they go (WORKDIR/completions)")
    add("--invert-mask", action="store_true", help="mask files have black = hole")
    args, rest = parser.parse_known_args(argv)
    settings = [word.removeprefix(SETTING).split("=", 1) for word in rest]
    for word, setting in zip(rest, settings, strict=True):
        if not word.startswith(SETTING) or len(setting) < 2:
            parser.error(f"unrecognized arguments: {word}")
    preset = {"preset": args.sampler} if args.sampler else {}
    args.sampler = preset | dict(settings)
    return args


if __name__ == "__main__":
    run(main)
