"""Pictures and scenes, read from files or passed in Python."""

import json
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from PIL import Image

from helpers import hostile
from helpers.fuzz.outcomes import CHANGES, REFUSED, RIGHT, Kind, model, refusal, sandbox
from helpers.hostile import Recipe, mostly
from helpers.pictures import half_mask, picture
from picjax import images, masks
from picjax.data import composition

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


# ---- Model.complete ----


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


KINDS = {
    "image": Kind(st.builds(ImageCase, hostile.recipes()), check_image, 30),
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
}
