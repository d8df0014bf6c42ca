"""Label and instance maps, transforms of pictures, saved images."""

import re

import numpy as np
from fixture import Fixture, below, nchw
from inade_shared import (
    has_edges,
    maps,
)
from PIL import Image

from picjax.data import maps as transforms
from picjax.methods.inade.layout import Layout, edge_map, semantics

# ---- data ----


def check_preprocess(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    instance = maps(inputs["instance"])
    edges = edge_map(instance)
    if "edges" in out:
        np.testing.assert_array_equal(nchw(edges), out["edges"])
    for name, expected in out.items():
        case, _, what = name.rpartition("_")
        if what == "semantics":
            label = maps(inputs.get(f"{case}_label", inputs["label"]))
            with_edges = has_edges(expected)
            layout = Layout(label, edges=edges if with_edges else None)
            made = semantics(layout, expected.shape[1] - with_edges)
            np.testing.assert_array_equal(nchw(made), expected)
        elif what == "instances":
            # The networks read the map itself: the same as the file's one-hot maps.
            own = maps(inputs.get(f"{case}_instance", inputs["instance"]))
            assert expected.shape[1] == int(own.max()) + 1
            np.testing.assert_array_equal(own, expected.argmax(1))


def check_reidentify(fixture: Fixture) -> None:
    for name, raw in fixture.inputs.items():
        ranks = transforms.reidentify(raw)
        np.testing.assert_array_equal(ranks, fixture.outputs[name])
        # The original saves 8 bits, which wrap.
        if f"{name}_png" in fixture.outputs:
            np.testing.assert_array_equal(
                ranks.astype(np.uint8), fixture.outputs[f"{name}_png"]
            )


# Pillow 12 and 13 round resized pixels differently, by at most one level of 255.
GREY_LEVEL = 2 / 255 + 1e-6


def check_transforms(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    image, label, ids = (
        Image.fromarray(inputs[name]) for name in ("image", "label", "instance")
    )
    label_nc = int(setting(fixture, "label_nc", r"label_nc \(here (\d+)\)"))
    cases = [n.removesuffix("_image") for n in out if n.endswith("_image")]
    for case in cases:
        geometry = transforms.Geometry(
            mode=case.removesuffix("_flip"),
            load_size=int(setting(fixture, "load_size", r"load (\d+)")),
            crop_size=int(setting(fixture, "crop_size", r"crop (\d+)")),
            aspect_ratio=setting(fixture, "aspect_ratio", r"aspect ([\d.]+\d|\d+)"),
            corner=(int(inputs[f"{case}_crop"][0]), int(inputs[f"{case}_crop"][1])),
            flip=bool(inputs[f"{case}_flip"]),
        )
        pixels = transforms.read_image(image, geometry).transpose(2, 0, 1)
        fixture.assert_close(case, pixels, out[f"{case}_image"], 0.0, GREY_LEVEL)
        labels = transforms.read_label(label, geometry, label_nc)
        np.testing.assert_array_equal(labels[None], out[f"{case}_label"])
        instances = transforms.read_map(ids, geometry)
        np.testing.assert_array_equal(instances[None], out[f"{case}_instance"])
    if "ade20k_annotation" in inputs:
        raw = inputs["ade20k_annotation"]
        expected = out["ade20k_label"]
        same = transforms.Geometry("crop", 0, raw.shape[1])
        labels = transforms.read_label(Image.fromarray(raw), same, label_nc=150)
        np.testing.assert_array_equal(labels[None], expected)


def setting(fixture: Fixture, name: str, pattern: str) -> float:
    """A number of the file's hyper-parameters, or of its text."""
    if name in fixture.hyper:
        return fixture.hyper[name]
    match = re.search(pattern, fixture.meta["arrays"])
    assert match, f"{fixture.path}: meta does not say {name}"
    return float(match[1])


def check_output(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    made = transforms.to_uint8(inputs["x"].transpose(1, 2, 0))
    np.testing.assert_array_equal(made, out["uint8"])
    for name, expected in below(out, "colormap_").items():
        np.testing.assert_array_equal(transforms.palette(int(name)), expected)
    if "label_color" in out:
        classes = int(setting(fixture, "N", r"N\s*=\s*(\d+)"))
        coloured = transforms.colour(inputs["label"][0], classes)
        np.testing.assert_array_equal(coloured, out["label_color"])
