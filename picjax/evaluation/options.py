"""The options of `picjax.eval`: which go together, and what follows from them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picjax import masks
from picjax.checkpoints import check_name
from picjax.cli import UserError, check_choice
from picjax.evaluation import protocols
from picjax.evaluation.metrics import catalog
from picjax.evaluation.run import read_manifest


class Options(argparse.Namespace):
    """The options of `picjax.eval`, then what `resolve` derives from them."""

    workdir: list[str] | None
    checkpoint: str | None
    real: str | None
    fake: list[str] | None
    pattern: str | None
    mask: str | None
    invert_mask: bool
    pair: str
    raw: bool
    num: int | None
    best_of: int | None
    sampler: str | None
    images: int | None
    seed: int
    metrics: str
    baselines: str | None
    weights: str | None
    allow_random_features: bool
    feature: str | None
    stats: str | None
    save_stats: str | None
    manifest: str | None
    out: str | None
    repeated: dict[str, Any] | None = None  # content of the manifest
    preset: protocols.Preset | None = None
    own_size: bool = False  # runs of different sizes, at the images' own size
    baseline_folder: Path = Path()  # of baselines' completions, until the end

    @property
    def expected(self) -> list[dict[str, Any]] | None:
        """The manifest's images."""
        return self.repeated["images"] if self.repeated else None


def check(options: Options) -> None:
    """Refuses options that do not go together.

    Raises:
      UserError: naming them.
    """
    for name in ("num", "images", "best_of"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is below 1; give 1 or more")
    check_choice("--pair", options.pair, masks.PAIRINGS)
    check_name(options.checkpoint or "newest")
    if bool(options.workdir) == bool(options.fake):
        raise UserError(
            "--workdir and --fake exclude each other, and one is needed; give --workdir, "
            "or --real and --fake"
        )
    if options.fake and not options.real:
        raise UserError("--real and --fake go together; give both folders")
    if options.stats and options.save_stats:
        raise UserError("--stats and --save-stats exclude each other; give one")
    if options.workdir:
        refuse(options, ["invert_mask", "pattern"], "goes with --fake; leave it out")
        if options.pair != "name":
            raise UserError("--pair goes with --fake; leave it out")
    else:
        refuse(
            options,
            ["best_of", "sampler", "checkpoint"],
            "goes with --workdir; leave it out",
        )
        if not options.mask:
            refuse(
                options, ["invert_mask", "raw"], "is about masks; give them by --mask"
            )
    if options.manifest:
        why = "is stated by --manifest; leave it out"
        refuse(options, ["num", "images", "seed", "best_of"], why)


def refuse(options: Options, names: Sequence[str], why: str) -> None:
    """Refuses the options of these names.

    Raises:
      UserError: if one is set.
    """
    for name in names:
        if getattr(options, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} {why}")


def resolve(options: Options) -> None:
    """Fills options from a manifest and a paper's protocol, then with defaults.

    Raises:
      UserError: if a metric or a paper is unknown, or an option of networks is of no
        use.
    """
    if options.manifest:
        options.repeated = read_manifest(options.manifest)
        previous = options.repeated["protocol"]
        options.num, options.images = previous["num"], len(options.repeated["images"])
        options.seed, options.best_of = previous["seed"], previous.get("best_of")
        options.raw = options.raw or previous.get("raw", False)
        options.metrics = options.metrics or previous["asked"]
        options.own_size = previous.get("own_size", False)
    options.metrics = options.metrics if options.metrics is not None else "basic"
    options.seed = options.seed or 0
    if options.metrics.startswith(protocols.PREFIX):
        preset = options.preset = protocols.find(options.metrics)
        options.images = options.images or preset.images
        if options.workdir:
            options.num = options.num or preset.num
        names = preset.metrics
    else:
        names = catalog.parse_names(options.metrics, "--metrics")
    if "fid" not in names:
        refuse(options, ["stats", "save_stats"], "goes with --metrics=fid; name it")
    if not any(name in catalog.NETWORK_METRICS for name in names):
        why = "is of metrics with networks, and none is measured; name one by --metrics"
        refuse(options, ["weights", "feature", "allow_random_features"], why)
