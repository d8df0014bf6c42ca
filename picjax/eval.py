"""Measures a trained system, or two folders of images.

A run is measured on its config's held-out data with masks fixed by the seed, n
completions an image, known pixels pasted, everything rounded to uint8 first. Writes
metrics.json (numbers and the whole protocol), report.md, report.html, samples.csv (one
row a sample) and grid.png.
"""

import argparse
import csv
import difflib
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from picjax import __version__, masks, report
from picjax.cli import Parser, UserError, run
from picjax.complete import (
    HOLE_GREY,
    Model,
    load,
    progress_bar,
    thumbnail,
)
from picjax.data import pipeline
from picjax.inputs import find_images, match_masks, read_image, read_known
from picjax.metrics.suite import (
    MEANING,
    METRICS,
    Group,
    Metric,
    Result,
    choose,
    table_cells,
    tree,
)

PICTURES = 8  # images in the grid
PICTURE_SAMPLES = 8  # completions of each
BATCH = 8  # images completed at once on a device
PACKAGES = ("jax", "flax", "numpy", "pillow")


# ---- completions, one group an image ----


def model_groups(
    model: Model,
    num: int,
    images: int,
    seed: int,
    batch_size: int,
    best_of: int | None = None,
) -> Iterator[Group]:
    """Groups of a model's held-out images; the device works one batch ahead."""
    batches = pipeline.eval_batches(
        model.config.data, model.size, batch_size, images, seed
    )
    pending: tuple[dict[str, Any], jax.Array] | None = None
    for batch in batches:
        given = {name: batch[name] for name in pipeline.GIVEN if name in batch}
        pair = batch["image"], batch["mask"]
        samples = model.sample(*pair, num, seed, best_of, given)
        if pending is not None:
            yield from _unpack(*pending)
        if model.has_likelihood:
            batch |= model.evaluate(batch["image"], batch["mask"], seed)
        pending = batch, samples
    if pending is not None:
        yield from _unpack(*pending)


def _unpack(batch: dict[str, Any], samples: jax.Array) -> Iterator[Group]:
    known = {"image", "mask", "name", "valid"}
    host = np.asarray(samples)
    for i in np.flatnonzero(batch["valid"]):
        truth = np.asarray(batch["image"][i])
        extra = {k: np.asarray(v[i]) for k, v in batch.items() if k not in known}
        yield Group(
            name=str(batch["name"][i]),
            truth=truth,
            mask=np.asarray(batch["mask"][i]),
            samples=host[i],
            chosen=choose(host[i], truth),
            extra=extra,
        )


class Pair(NamedTuple):
    """A real image, its completions in order, and its mask where one is given."""

    stem: str
    real: Path
    fakes: list[Path]
    mask: Path | str | None


def find_pairs(real: str, fake: str, num: int | None, mask: str | None) -> list[Pair]:
    """Matches the images of two folders by stem.

    `<stem>.png` in `real` belongs to `<stem>_out_<i>.png`, or else to `<stem>.*`, in
    `fake`. Where `real` holds `<stem>_truth.png`, as picjax.complete writes, only
    these are taken, and both folders may be the same one.

    Raises:
      UserError: when an image has no completion, or not as many as the others.
    """
    reals = find_images(real, "--real")
    truths = [path for path in reals if path.stem.endswith("_truth")]
    names = {path.stem.removesuffix("_truth"): path for path in truths or reals}
    outs: dict[str, dict[int, Path]] = {}
    singles: dict[str, Path] = {}
    for path in find_images(fake, "--fake"):
        match = re.fullmatch(r"(.+)_out_(\d+)", path.stem)
        if match:
            outs.setdefault(match[1], {})[int(match[2])] = path
        else:
            singles[path.stem] = path
    fakes = {stem: [outs[stem][i] for i in sorted(outs[stem])] for stem in outs}
    if not truths:
        fakes = {stem: [path] for stem, path in singles.items()} | fakes
    most = max((len(fakes.get(stem, [])) for stem in names), default=0)
    wanted = num or max(most, 1)
    for stem in names:
        if len(fakes.get(stem, [])) < wanted:
            raise UserError(
                f"--fake '{fake}' holds {len(fakes.get(stem, []))} of {wanted} "
                f"completions of '{stem}' (`{stem}_out_<i>.png`); complete it again, "
                "or set --num"
            )
    matched = match_masks(list(names), mask) if mask else [None] * len(names)
    return [
        Pair(stem, path, fakes[stem][:wanted], known)
        for (stem, path), known in zip(names.items(), matched, strict=True)
    ]


def folder_groups(pairs: Sequence[Pair], seed: int, invert: bool) -> Iterator[Group]:
    """Groups from files.

    Raises:
      UserError: where an image and its completions differ in size.
    """
    for pair in pairs:
        truth = read_image(pair.real)
        samples = [read_image(path) for path in pair.fakes]
        for path, sample in zip(pair.fakes, samples, strict=True):
            if sample.shape != truth.shape:
                raise UserError(
                    f"'{path}' is {_size(sample)} but '{pair.real}' is {_size(truth)}; "
                    "resize one of them, by a rule that you state"
                )
        mask = None
        if pair.mask is not None:
            mask = read_known(pair.mask, truth, seed, invert)[0]
            mask = mask[..., None]
        stack = np.stack(samples)
        yield Group(pair.stem, truth, mask, stack, choose(stack, truth), {})


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


# ---- measuring ----


def measure(
    groups: Iterator[Group], metrics: dict[str, Metric], table: io.TextIOWrapper
) -> Iterator[Group]:
    """Counts every group in every metric and hands it on; a row a sample to `table`.

    Memory does not grow with the number of groups.
    """
    writer: csv.DictWriter[str] | None = None
    for group in groups:
        columns: dict[str, np.ndarray] = {}
        for metric in metrics.values():
            columns |= metric.add(group)
        hole = math.nan if group.mask is None else 1 - float(group.mask.mean())
        for i in range(len(group.samples)):
            row = {"image": group.name, "sample": i, "hole": hole}
            row |= {name: float(values[i]) for name, values in columns.items()}
            row["picnet"] = int(i == group.chosen)
            if writer is None:
                writer = csv.DictWriter(table, row.keys(), lineterminator="\n")
                writer.writeheader()
            writer.writerow({k: _short(v) for k, v in row.items()})
        yield group


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def evaluate(
    groups: Iterator[Group],
    total: int,
    names: Sequence[str],
    protocol: dict[str, Any],
    out: Path,
) -> list[Result]:
    """Measures all groups and writes every file of an evaluation into `out`.

    Args:
      groups: what to measure, seen once.
      total: how many groups, for the progress bar.
      names: keys of METRICS.
      protocol: what a reader must know; the counts are added here.
      out: the folder.

    Raises:
      UserError: when there is no image.
    """
    metrics = {name: METRICS[name]() for name in names}
    rows: list[list[np.ndarray]] = []
    holes: list[float] = []
    sizes, count, samples = set(), 0, 0
    with report.open_atomic(out / "samples.csv") as file:
        table = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        with progress_bar(Console(stderr=True, highlight=False)) as bar:
            task = bar.add_task("images", total=total)
            for group in measure(groups, metrics, table):
                if count < PICTURES:
                    rows.append(pictures(group))
                if group.mask is not None:
                    holes.append(1 - float(group.mask.mean()))
                sizes.add(_size(group.truth))
                count, samples = count + 1, len(group.samples)
                bar.advance(task)
        if not count:
            raise UserError("there is no held-out image; see config.data.eval_path")
        table.detach()
    results = [r for metric in metrics.values() for r in metric.results()]
    protocol |= {
        "metrics": {name: metric.about for name, metric in metrics.items()},
        "images": count,
        "samples_per_image": samples,
        "resolution": ", ".join(sorted(sizes)),
        "mean_hole_share": float(np.mean(holes)) if holes else None,
    }
    write(out, protocol, results, report.image_grid(rows, titles(rows[0], bool(holes))))
    return results


# ---- writing ----


def pictures(group: Group) -> list[np.ndarray]:
    """A row of the grid: truth, input where it is known, completions."""
    row = [group.truth]
    if "condition" in group.extra:
        row.append(group.extra["condition"])
    elif group.mask is not None:
        row.append(np.where(group.mask == 1, group.truth, np.uint8(HOLE_GREY)))
    return [thumbnail(x) for x in [*row, *group.samples[:PICTURE_SAMPLES]]]


def titles(row: Sequence[np.ndarray], masked: bool) -> list[str]:
    """What stands above the columns of `pictures`."""
    fixed = ["truth", "input"] if masked else ["truth"]
    return fixed + [str(i) for i in range(len(row) - len(fixed))]


def write(
    out: Path, protocol: dict[str, Any], results: Sequence[Result], grid: np.ndarray
) -> None:
    """Writes metrics.json, report.md, report.html and grid.png."""
    content = {"protocol": protocol, "samples": MEANING, "results": tree(results)}
    report.write_text(out / "metrics.json", json.dumps(content, indent=2) + "\n")
    report.write_png(out / "grid.png", grid)

    header, cells = table_cells(results)
    title = f"Evaluation of {protocol['what']}"
    sentence = protocol_sentence(protocol)
    legend = [f"{name}: {text}" for name, text in protocol["metrics"].items()]
    legend += [f"column {name}: {text}" for name, text in MEANING.items()]
    legend.append("value ± standard error of the mean over images, or [interval]")
    report.write_text(
        out / "report.md",
        f"# {title}\n\n{sentence}\n\n{report.markdown_table(header, cells)}\n"
        + "".join(f"- {line}\n" for line in legend)
        + "\n![completions](grid.png)\n",
    )
    parts = [
        report.html_paragraph(sentence),
        report.html_table(header, cells),
        *[report.html_paragraph(line) for line in legend],
        report.html_image(grid, "truth, input and completions"),
    ]
    report.write_text(out / "report.html", report.html_page(title, parts))


def protocol_sentence(protocol: dict[str, Any]) -> str:
    """The protocol for people; metrics.json holds all of it."""
    hole, best_of = protocol["mean_hole_share"], protocol.get("best_of")
    return (
        f"{protocol['images']} images ({protocol['data_source']}), "
        f"{protocol['samples_per_image']} completions each"
        + (f", the best of {best_of} by the system's own score" if best_of else "")
        + f" (seed {protocol['seed']}), "
        f"{protocol['resolution']} pixels, masks: {protocol['masks']}"
        + ("" if hole is None else f" (mean hole {100 * hole:.1f} %)")
        + f". {protocol['pixels']}."
    )


# ---- command line ----


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.eval",
        usage="%(prog)s --workdir DIR [...]\n       %(prog)s --real DIR --fake DIR [...]",
        description="Measures a run on its held-out images, or completions in a folder "
        "against the images in another.",
        epilog="example: python -m picjax.eval --workdir=runs/demo-picmm --num=10",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", metavar="DIR", help="a run of picjax.train")
    add("--real", metavar="DIR", help="instead of a run: a folder of images ...")
    add("--fake", metavar="DIR", help="... and of completions, <stem>_out_<i>.png")
    add("--mask", metavar="PATH|NAME", help="other masks than the run's (white = hole)")
    add("--invert-mask", action="store_true", help="with --real: black = hole")
    add("--num", type=int, metavar="N", help="completions an image (10, or all found)")
    add("--best-of", type=int, metavar="M", help="with --workdir: as in complete")
    add("--sampler", default="", metavar="NAME", help="as in complete")
    add("--images", type=int, metavar="N", help="how many (100 of a run, or all found)")
    add("--seed", type=int, default=0, help="of masks and completions (0)")
    add(
        "--metrics",
        metavar="A,B",
        help=f"some of {','.join(METRICS)} (all that apply)",
    )
    add("--out", metavar="DIR", help="where it goes (WORKDIR/eval, or FAKE/eval)")
    return parser.parse_args(argv)


def metric_names(given: str | None) -> list[str]:
    """The metrics asked for; none for all that apply.

    Raises:
      UserError: for a name that is none.
    """
    if given is None:
        return []
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "give some of them"
            raise UserError(
                f"--metrics '{name}' is none of {', '.join(METRICS)}; {hint}"
            )
    if not names:
        raise UserError(f"--metrics is empty; give some of {', '.join(METRICS)}")
    return list(dict.fromkeys(names))


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything the user can mend.
    """
    args = parse(argv)
    for option in ("num", "images", "best_of"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            name = option.replace("_", "-")
            raise UserError(f"--{name} is below 1; give 1 or more")
    names = metric_names(args.metrics)
    if bool(args.workdir) == bool(args.real or args.fake):
        raise UserError("give either --workdir, or --real and --fake")
    if args.workdir:
        results, out = evaluate_run(args, names)
    elif args.real and args.fake:
        results, out = evaluate_folders(args, names)
    else:
        raise UserError("--real and --fake go together; give both folders")
    header, cells = table_cells(results)  # the units are in the report
    print(report.markdown_table(header[:-1], [row[:-1] for row in cells]), end="")
    print(f"protocol and numbers: {out}/metrics.json, {out}/report.html")


def evaluate_run(
    args: argparse.Namespace, names: list[str]
) -> tuple[list[Result], Path]:
    """Measures a workdir's model on its held-out images."""
    if args.invert_mask:
        raise UserError("--invert-mask goes with --real; leave it out")
    model, images = load(args.workdir, args.sampler), args.images or 100
    if args.mask:
        use_masks(model.config, args.mask)
    config: dict[str, Any] = json.loads(model.config.to_json())
    data = config["data"]
    known = data["name"] == "scenes" and list(data["masks"]) == ["center"]
    names = applying(names, known, model.has_likelihood)
    protocol = {
        "what": f"{config['system']} ({args.workdir}, step {model.step})",
        "system": config["system"],
        "workdir": args.workdir,
        "step": model.step,
        "data_source": f"held-out part of {data['name']}",
        "data": data,
        "masks": ", ".join(data["masks"]) or "none, the whole image is made",
        "best_of": args.best_of,
        "sampler": config.get("sampler"),
        **common_protocol(args.seed),
    }
    out = Path(args.out or Path(args.workdir) / "eval")
    batch_size = min(BATCH * jax.device_count(), images)
    num, best_of = args.num or 10, args.best_of
    groups = model_groups(model, num, images, args.seed, batch_size, best_of)
    return evaluate(groups, images, names, protocol, out), out


def use_masks(config: ConfigDict, mask: str) -> None:
    """Sets a config's masks to a named one, or to those of files.

    Raises:
      UserError: for a name that there is none of.
    """
    if Path(mask).exists():
        change = {"data.masks": (pipeline.FILES,), "data.mask_path": mask}
    else:
        masks.check_name(mask)
        change = {"data.masks": (mask,)}
    with config.ignore_type():
        config.update_from_flattened_dict(change)


def evaluate_folders(
    args: argparse.Namespace, names: list[str]
) -> tuple[list[Result], Path]:
    """Measures the completions in one folder against the images in another."""
    if args.best_of:
        raise UserError("--best-of goes with --workdir; leave it out")
    if args.sampler:
        raise UserError("--sampler goes with --workdir; leave it out")
    names = applying(names, known_posterior=False, known_likelihood=False)
    pairs = find_pairs(args.real, args.fake, args.num, args.mask)[: args.images]
    protocol = {
        "what": f"{args.fake} against {args.real}",
        "data_source": args.real,
        "data": {"real": args.real, "fake": args.fake},
        "masks": args.mask or "not given",
        **common_protocol(args.seed),
    }
    out = Path(args.out or Path(args.fake) / "eval")
    groups = folder_groups(pairs, args.seed, args.invert_mask)
    return evaluate(groups, len(pairs), names, protocol, out), out


def applying(
    names: list[str], known_posterior: bool, known_likelihood: bool
) -> list[str]:
    """The metrics to measure; posterior and likelihood only where they are known.

    Raises:
      UserError: when one is asked for elsewhere.
    """
    if "posterior" in names and not known_posterior:
        raise UserError(
            "--metrics posterior needs a run on the data set scenes with centre masks; "
            "leave it out"
        )
    if "likelihood" in names and not known_likelihood:
        raise UserError(
            "--metrics likelihood needs a run of a system that has one, such as "
            "pixelcnn; leave it out"
        )
    known = {"posterior": known_posterior, "likelihood": known_likelihood}
    return names or [name for name in METRICS if known.get(name, True)]


def common_protocol(seed: int) -> dict[str, Any]:
    """What every evaluation states."""
    return {
        "seed": seed,
        "pixels": "Rounded to uint8, known pixels pasted",
        "versions": {"picjax": __version__}
        | {name: metadata.version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    run(main)
