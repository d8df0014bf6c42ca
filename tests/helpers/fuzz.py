"""The properties of the fuzz: what any input must lead to.

Each check takes a case, and returns "refused" (a `UserError`, or one line and exit 2) or
"right". Everything else, such as a traceback, a wrong pixel, or a file that is not
complete, is an exception.
"""

import contextlib
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from hypothesis import HealthCheck
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from ml_collections import ConfigDict
from PIL import Image

from helpers import hostile
from helpers.fake_system import make_model
from helpers.hostile import NAMES, NUMBERS, Recipe, mostly
from helpers.pictures import half_mask, picture
from picjax import checkpoints, cli, complete, flags, images, masks, methods, settings
from picjax import eval as evaluation
from picjax.cli import UserError
from picjax.data import composition, pack, sources
from picjax.evaluation.run import read_manifest
from picjax.evaluation.store import CompletionStore
from picjax.model import Model
from picjax.system import image_shape

REFUSED, RIGHT = "refused", "right"
# Hypothesis's remarks about cases that take long to make, of which there are many.
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
CONFIGS = ("picmm", "picnet", "pix2pix", "pixelcnn", "painter")


@contextlib.contextmanager
def sandbox() -> Iterator[Path]:
    """A new folder that is left without temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            warnings.filterwarnings("ignore", category=UserWarning)  # about masks
            yield folder
        left = [p for p in folder.rglob("*") if ".tmp" in p.name or "partial" in p.name]
        assert not left, f"half-written: {left}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refusal(function: Callable[[], Any]) -> tuple[str, Any]:
    """What a function of the library returns, or REFUSED with a sentence."""
    try:
        return RIGHT, function()
    except UserError as error:
        check_sentence(f"picjax: {cli.printable(' '.join(str(error).split()))}\n")
        return REFUSED, None


def command(main: Callable[[list[str]], None], *words: object) -> str:
    """Run a command as its console script does.

    Returns:
      RIGHT for exit 0, REFUSED for exit 2 with its sentence as the last line.
    """
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    # Ctrl-C ends the fuzz itself, not the command in it.
    handlers = mock.patch.object(cli.signals, "install")
    with handlers, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run(lambda: main([str(word) for word in words]))
        except SystemExit as done:
            code = done.code
    lines = err.getvalue().split("\n")
    assert all(not line or line.startswith("picjax: ") for line in lines), lines
    if code == 0:
        return RIGHT
    assert code == 2, code
    check_sentence(f"{lines[-2]}\n")
    return REFUSED


def check_sentence(text: str) -> None:
    assert text.startswith("picjax: ") and text.count("\n") == 1, text
    assert "; " in text, f"no advice: {text}"
    assert "Traceback" not in text


@lru_cache
def model() -> Model:
    return make_model()


# ---- image files ----


class ImageCase(NamedTuple):
    """An image file as an image, a mask and a cut-out."""

    recipe: Recipe


def check_image(case: ImageCase) -> str:
    recipe = case.recipe
    with sandbox() as folder:
        path = hostile.write(folder, "a", recipe)
        outcome, found = refusal(lambda: images.read_picture(path))
        if recipe.is_whole:
            assert outcome == RIGHT, "a whole file was refused"
        if outcome == RIGHT:
            for array in (found.pixels, found.srgb):
                assert array.dtype == np.uint8 and array.shape[2:] == (3,)
            if recipe.has_exact_pixels:
                np.testing.assert_array_equal(found.pixels, hostile.pixels(recipe))
            if recipe.is_whole and recipe.mode not in ("1", "P", "LAB"):
                assert found.srgb.max() > 100, "it became dark"
        _, mask = refusal(lambda: masks.load_mask(path, (20, 30)))
        if mask is not None:
            assert mask[0].shape == (20, 30) and set(np.unique(mask[0])) <= {0, 1}
        refusal(lambda: composition.open_picture(path, "cut-out"))
        if outcome == RIGHT:
            with Image.open(path) as opened:
                assert images.as_picture(opened).pixels.shape == found.pixels.shape
    return outcome


# ---- the command complete ----


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


def base_config() -> dict[str, Any]:
    return json.loads(packaged("picmm").to_json())


@lru_cache
def packaged(system: str) -> ConfigDict:
    return flags.make_config(system, "tiny", [])


# ---- the command eval ----


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


# ---- packing ----


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
            records = pack.open_shards(str(out), "key")
            whole = sum(recipe.is_whole for recipe in case.files.values())
            assert whole <= len(records) <= len(case.files)
            image, _ = pack.unpack(records[0])
            assert image.shape == (int(case.size), int(case.size), 3)
        else:
            assert not out.exists()
    return outcome


# ---- the library ----


class LibraryCase(NamedTuple):
    """The arguments of Model.complete."""

    image: tuple[str, tuple[int, ...], str]  # kind, shape, dtype
    mask: tuple[str, tuple[int, ...], str]
    n: Any
    seed: Any


DTYPES = (
    "uint8",
    "bool",
    "int32",
    "int64",
    "float32",
    "float64",
    "complex64",
    "object",
    "U3",
)
SHAPES = st.one_of(
    st.sampled_from([(40, 60, 3), (40, 60), (40, 60, 1), (40, 60, 4)]),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
)
INTEGERS = mostly(
    st.integers(1, 2),
    st.sampled_from(
        [0, -1, 10**30, np.int8(2), np.uint64(2**63), np.int64(-1), np.float32(1)]
        + [True, 1.0, "1", None, float("nan"), [1]]
    ),
)
ARRAYS = st.tuples(
    st.sampled_from(
        [
            "picture",
            "picture",
            "picture",
            "picture",
            "zeros",
            "ones",
            "nan",
            "giant",
            "other",
        ]
    ),
    SHAPES,
    st.sampled_from(DTYPES),
)


def make_array(kind: str, shape: tuple[int, ...], dtype: str, image: bool) -> Any:
    if kind == "picture":
        return picture(0) if image else half_mask()
    if kind == "giant":
        one = np.zeros((1, 1, 3) if image else (1, 1), "uint8")
        return np.broadcast_to(one, (2**20, 2**20, 3) if image else (2**20, 2**20))
    if kind == "nan" and dtype.startswith(("float", "complex")):
        return np.full(shape, np.nan, dtype)
    array = np.ones(shape, dtype) if kind == "ones" else np.zeros(shape, dtype)
    return tuple(array) if kind == "other" and array.ndim else array


def check_library(case: LibraryCase) -> str:
    image, mask = make_array(*case.image, True), make_array(*case.mask, False)
    with sandbox():
        try:
            outcome, samples = refusal(
                lambda: model().complete(image, mask, n=case.n, seed=case.seed)
            )
        except TypeCheckError:  # in the tests annotations are checked before
            return REFUSED
    if outcome == RIGHT:
        true = images.as_picture(image).pixels
        known = np.asarray(mask).reshape(true.shape[:2]) == 1
        assert samples.shape == (int(case.n), *true.shape)
        for sample in samples:
            np.testing.assert_array_equal(sample[known], true[known])
    return outcome


# ---- scenes ----


class SceneCase(NamedTuple):
    """A changed scene."""

    cutout: Recipe
    place: tuple[int, int, int, int]  # x, y, scale in tenths, rotation
    change: tuple[tuple[int, ...], Any] | None
    text: bytes | None  # instead of JSON


CUTOUTS = st.tuples(
    st.sampled_from(["PNG", "WEBP", "TIFF"]),
    st.just("RGBA"),
    st.tuples(st.integers(12, 30), st.integers(12, 30)),
).map(lambda fields: Recipe(*fields))
PLACES = ((-5, 70), (-5, 60), (5, 20), (-360, 360))


def check_scene(case: SceneCase) -> str:
    with sandbox() as folder:
        hostile.write(folder, "a", case.cutout)
        x, y, tenths, rotation = case.place
        entry = {"file": f"a.{case.cutout.suffix}", "position": [x, y]}
        entry |= {"scale": tenths / 10, "rotation": rotation, "flip": True, "z": 1}
        scene: Any = {"width": 64, "height": 48, "objects": [entry], "erode": 1}
        if case.change is not None:
            scene = hostile.replace_at(scene, *case.change)
        text = json.dumps(scene).encode() if case.text is None else case.text
        (folder / "scene.json").write_bytes(text)
        outcome, found = refusal(lambda: composition.compose(folder / "scene.json"))
        if found is not None:
            image, mask = found
            assert image.shape == (scene["height"], scene["width"], 3)
            assert set(np.unique(mask)) == {0, 1}
    return outcome


# ---- configs ----


class ConfigCase(NamedTuple):
    """Settings of a training run."""

    system: str
    settings: tuple[tuple[int, Any], ...]  # position of a key, value


CONFIG_VALUES = st.one_of(
    NUMBERS,
    st.sampled_from(["", "x", "center", "files", "folder", "()", "(1,)", "(0.5, 0.2)"]),
    st.sampled_from(
        ["('center', 'centre')", "None", "True", "[1]", "{}", "\0", "é", "all"]
    ),
)


def check_config(case: ConfigCase) -> str:
    keys = flags.flat_keys(packaged(case.system))
    words = [f"--config={case.system}:tiny"]
    words += [f"--config.{keys[i % len(keys)]}={value}" for i, value in case.settings]

    def prepare() -> Any:
        config, _ = flags.parse(words)
        settings.check(config)
        methods.make(config)
        size = image_shape(config)
        if max(size) > 256:
            return None
        rng = np.random.default_rng(0)
        drawn = masks.mask_drawer(config.data, size)(rng, "a", None)
        assert drawn.shape == size and set(np.unique(drawn)) <= {0, 1}
        element = sources.training(config.data, size).read(0, rng)
        assert element["image"].shape == (*size, 3)
        return config

    with sandbox():
        return refusal(prepare)[0]


# ---- files that picjax wrote ----


class WrittenCase(NamedTuple):
    """A changed config.json, manifest, or stored completion."""

    kind: str
    path: tuple[int, ...]
    value: Any
    damage: hostile.Damage


def check_written(case: WrittenCase) -> str:
    with sandbox() as folder:
        if case.kind == "completions":
            return check_stored(folder, case.damage)
        entry = {
            "index": 0,
            "name": "a",
            "truth": "0",
            "mask": None,
            "completions": "0",
        }
        protocol = {"num": 1, "seed": 0, "asked": "l1", "data": {"name": "photos"}}
        content: Any = {
            "config": {"config": base_config()},
            "manifest": {"protocol": protocol, "images": [entry]},
        }[case.kind]
        content = hostile.replace_at(content, case.path, case.value)
        path = folder / f"{case.kind}.json"
        path.write_bytes(hostile.damaged(json.dumps(content).encode(), case.damage))
        if case.kind == "manifest":
            return refusal(lambda: read_manifest(str(path)))[0]

        def make() -> None:
            config = checkpoints.read_config(folder)
            if max(image_shape(config)) <= 256:
                methods.make(config)

        return refusal(make)[0]


def check_stored(folder: Path, damage: hostile.Damage) -> str:
    """Damaged completions are drawn again, never used."""
    samples = np.stack([picture(i, 8, 8) for i in range(4)]).reshape(2, 2, 8, 8, 3)
    store = CompletionStore(folder / "c", {"num": 2}, folder / "none", samples[0].shape)
    with contextlib.redirect_stderr(io.StringIO()):
        store.open(2)
        store.save(["0", "1"], samples)
        (path,) = (folder / "c").glob("0.*")
        whole = path.read_bytes()
        path.write_bytes(hostile.damaged(whole, damage))
        found = store.load(["0", "1"])
    if found is None:
        assert path.exists() is False or path.read_bytes() != whole
        return REFUSED
    np.testing.assert_array_equal(found, samples)
    return RIGHT


# ---- all of it ----


class Kind(NamedTuple):
    """One kind of case, and how many of a hundred are of it."""

    cases: Any
    check: Callable[[Any], str]
    share: int


CHANGES = st.tuples(hostile.PATHS, hostile.JSON_VALUES)
KINDS = {
    "image": Kind(st.builds(ImageCase, hostile.recipes()), check_image, 30),
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
    "library": Kind(
        st.builds(LibraryCase, ARRAYS, ARRAYS, INTEGERS, INTEGERS), check_library, 16
    ),
    "scene": Kind(
        st.builds(
            SceneCase,
            mostly(CUTOUTS, hostile.recipes()),
            st.tuples(*(st.integers(*ends) for ends in PLACES)),
            st.none() | CHANGES,
            mostly(st.none(), st.binary(max_size=20)),
        ),
        check_scene,
        10,
    ),
    "config": Kind(
        st.builds(
            ConfigCase,
            st.sampled_from(CONFIGS),
            st.lists(
                st.tuples(st.integers(0, 99), CONFIG_VALUES), min_size=1, max_size=2
            ).map(tuple),
        ),
        check_config,
        10,
    ),
    "written": Kind(
        st.builds(
            WrittenCase,
            st.sampled_from(["config", "manifest", "completions"]),
            hostile.PATHS,
            hostile.JSON_VALUES,
            hostile.DAMAGES,
        ),
        check_written,
        10,
    ),
}
