"""Settings of a run, and the files that picjax wrote and reads again."""

import contextlib
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from ml_collections import ConfigDict

from helpers import hostile
from helpers.fuzz.outcomes import REFUSED, RIGHT, Kind, refusal, sandbox
from helpers.hostile import NUMBERS
from helpers.pictures import picture
from picjax import checkpoints, flags, masks, methods, settings
from picjax.data import sources
from picjax.evaluation.run import read_manifest
from picjax.evaluation.store import CompletionStore
from picjax.system import image_shape

CONFIGS = ("picmm", "picnet", "pix2pix", "pixelcnn", "painter")


def base_config() -> dict[str, Any]:
    return json.loads(packaged("picmm").to_json())


@lru_cache
def packaged(system: str) -> ConfigDict:
    return flags.make_config(system, "tiny", [])


# ---- settings ----


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


KINDS = {
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
