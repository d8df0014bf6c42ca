"""The commands complete, eval and pack on folders of hostile files."""

import json
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from helpers import hostile
from helpers.fuzz.outcomes import CHANGES, RIGHT, Kind, command, model, refusal, sandbox
from helpers.fuzz.settings import base_config
from helpers.hostile import NAMES, NUMBERS, Recipe, mostly
from picjax import checkpoints, complete, images
from picjax import eval as evaluation
from picjax.data import pack, records, shards
from picjax.evaluation.run import read_manifest
from picjax.model import Model

# ---- complete ----


class CompleteCase(NamedTuple):
    """A folder of images with names, masks, and options."""

    files: dict[str, Recipe]
    mask: str | Recipe
    options: tuple[str, ...]
    config: tuple[tuple[int, ...], Any] | None  # a changed part of config.json


MASKS = mostly(
    st.sampled_from(["center", "half", "rectangles"]) | hostile.USABLE,
    st.sampled_from(["files", "", "[red]", "no.png"]) | hostile.recipes(),
)
OPTIONS = st.just(()) | st.lists(
    st.one_of(
        NUMBERS.map(lambda x: f"--seed={x}"),
        st.sampled_from([0, 1, 2, 3, -1, 10**12, 2.5]).map(lambda x: f"--num={x}"),
        st.sampled_from(
            ["--invert-mask", "--num", "--out=", "--best-of=3", "--sampler=x"]
        ),
        st.sampled_from(["--out=a/b", "--out=file", "--out=" + "n" * 300, "--bogus"]),
        st.sampled_from(["--config.sampler.x=1", "--compose=x.json"]),
    ),
    max_size=2,
).map(tuple)


def check_complete(case: CompleteCase) -> str:
    with sandbox() as folder:
        content: Any = {"config": {**base_config(), "system": "picmm"}}
        if case.config is not None:
            content = hostile.replace_at(content, *case.config)
        (folder / "config.json").write_text(json.dumps(content))
        (folder / "in").mkdir()
        (folder / "file").write_text("")
        for name, recipe in case.files.items():
            hostile.write(folder / "in", name, recipe)
        mask: Any = case.mask
        if isinstance(mask, Recipe):
            mask = hostile.write(folder, "mask", mask)
        words = [f"--workdir={folder}", f"--image={folder / 'in'}", f"--mask={mask}"]
        options = [
            f"--out={folder / word[6:]}" if word.startswith("--out=") else word
            for word in case.options
        ]
        before = set(folder.rglob("*"))

        def load(*_: Any) -> Model:
            checkpoints.read_config(folder)
            return model()

        with mock.patch.object(complete, "load", load):
            outcome = command(complete.main, *words, "--num=2", *options)
        written = [p for p in folder.rglob("*.png") if p not in before]
        check_sets(folder / "in", written)
    return outcome


def check_sets(inputs: Path, written: list[Path]) -> None:
    """Every image's files are complete, with the known pixels of the truth."""
    names = {path.name for path in written}
    truths = [path for path in written if path.name.endswith("_truth.png")]
    for truth in truths:
        stem = truth.name.removesuffix("_truth.png")
        assert {f"{stem}_mask.png", f"{stem}_grid.png", f"{stem}_out_0.png"} <= names
        true = np.asarray(Image.open(truth))
        mask = Image.open(truth.with_name(f"{stem}_mask.png"))  # the hole: transparent
        shown = np.asarray(mask.convert("RGB"))
        sample = np.asarray(Image.open(truth.with_name(f"{stem}_out_0.png")))
        known = (shown == true).all(-1) & ~(shown == images.HOLE_GREY).all(-1)
        np.testing.assert_array_equal(sample[known], true[known])
    assert bool(written) == bool(truths)


# ---- eval ----


class EvalCase(NamedTuple):
    """Folders of true images and completions."""

    names: tuple[str, ...]
    real: Recipe
    fake: Recipe
    damaged: Recipe
    options: tuple[str, ...]


EVAL_OPTIONS = st.lists(
    st.one_of(
        st.sampled_from(["--mask=center", "--raw", "--num=1", "--num=0", "--images=1"]),
        st.sampled_from(
            ["--metrics=l1,psnr", "--metrics=x", "--pattern={stem}", "--seed=-1"]
        ),
        NUMBERS.map(lambda x: f"--images={x}"),
        NUMBERS.map(lambda x: f"--seed={x}"),
    ),
    max_size=3,
).map(tuple)


def check_eval(case: EvalCase) -> str:
    with sandbox() as folder:
        for part in ("real", "fake", "out"):
            (folder / part).mkdir()
        real = case.real._replace(orientation=1)
        for i, name in enumerate(case.names):
            hostile.write(folder / "real", name, case.damaged if i == 1 else real)
            fake = case.fake._replace(size=case.real.size, orientation=1)
            hostile.write(folder / "fake", f"{name}_out_0", fake)
        words = (f"--real={folder / 'real'}", f"--fake={folder / 'fake'}")
        words += (f"--out={folder / 'out'}", "--metrics=l1")
        outcome = command(evaluation.main, *words, *case.options)
        table = folder / "out/samples.csv"
        if outcome == RIGHT:
            assert table.exists() and b"\0" not in table.read_bytes()
            page = (folder / "out/report.html").read_text()
            assert "<b>&lt;" not in page
            json.loads((folder / "out/metrics.json").read_text())
            refusal(lambda: read_manifest(str(folder / "out/manifest.json")))
        else:
            assert not (folder / "out/metrics.json").exists()
    return outcome


# ---- pack ----


class PackCase(NamedTuple):
    """A folder to be packed."""

    files: dict[str, Recipe]
    size: Any


def check_pack(case: PackCase) -> str:
    with sandbox() as folder:
        (folder / "in").mkdir()
        for name, recipe in case.files.items():
            hostile.write(folder / "in", name, recipe)
        out = folder / "out"
        words = (folder / "in", f"--out={out}", f"--size={case.size}")
        outcome = command(pack.main, *words)
        if outcome == RIGHT:
            packed = shards.open_shards(str(out), "key")
            whole = sum(recipe.is_whole for recipe in case.files.values())
            assert whole <= len(packed) <= len(case.files)
            image, _ = records.unpack(packed[0])
            assert image.shape == (int(case.size), int(case.size), 3)
        else:
            assert not out.exists()
    return outcome


KINDS = {
    "complete": Kind(
        st.builds(CompleteCase, hostile.FOLDERS, MASKS, OPTIONS, st.none() | CHANGES),
        check_complete,
        12,
    ),
    "eval": Kind(
        st.builds(
            EvalCase,
            st.lists(NAMES, min_size=1, max_size=2, unique=True).map(tuple),
            hostile.USABLE,
            hostile.USABLE,
            hostile.recipes(),
            EVAL_OPTIONS,
        ),
        check_eval,
        6,
    ),
    "pack": Kind(
        st.builds(PackCase, hostile.FOLDERS, st.one_of(st.integers(8, 40), NUMBERS)),
        check_pack,
        6,
    ),
}
