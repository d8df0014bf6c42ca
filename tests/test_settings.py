"""Values of a config are checked by what they mean, before anything is traced."""

import importlib

import pytest
from helpers.configs import load_config

from picjax import methods, settings, train
from picjax.cli import UserError

BAD = {
    "seed": (-1, 2**32, True),
    "image_size": (0, -8, 2**40, (32,), (32, 0), "x"),
    "batch_size": (0, 10**9),
    "steps": (0, -1, {}, {"": None}),
    "sample_every": (-1,),
    "eval.every": (-1,),
    "eval.images": (0,),
    "mesh.data": (-2,),
    "data.masks": ("center", (1,), 3),
    "data.hole_ratio": ((0.6, 0.2), (0.0, 0.5), (0.2,), (float("nan"), 0.5), 0.4),
    "data.rotation": (-1.0, 361.0, float("inf")),
    "data.threads": (0, 10**6),
    "data.load_size": (-1, 10**9),
    "data.path": ("a\0b",),
    "opt.lr": (-1e-4, float("nan"), float("inf")),
    "opt.decay": (1.5,),
    "opt.b2": (1.0,),
    "opt.accumulate": (0, {}),
    "model.ngf": (0, -4, 10**9),
    "model.mult": ((), (0.0, 1), (1, -2), (1, True), "x", 2),
    "model.mixture.clamp": ((2.0, -5.0), (1.0,)),
    "loss.rec": (-1.0, float("nan")),
    "system": ("a\nb", 3),
}


@pytest.mark.parametrize("key", BAD)
def test_what_is_refused(key):
    for value in BAD[key]:
        config = load_config("picmm", "tiny")
        with config.ignore_type():
            config.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=rf"config\.{key} is .*; give "):
            settings.check(config)


@pytest.mark.parametrize("system", methods.NAMES)
def test_every_config_of_the_package_is_valid(system):
    module = importlib.import_module(f"picjax.configs.{system}")
    for variant in getattr(module, "VARIANTS", ("",)):
        settings.check(module.get_config(variant))


def test_a_missing_key_is_named():
    config = load_config("picmm", "tiny")
    del config["image_size"]
    with pytest.raises(UserError, match=r"config\.image_size is missing; "):
        settings.check(config)


@pytest.mark.parametrize(
    ("changes", "memory", "what"),
    [
        ({"batch_size": 2**24, "image_size": 2**14}, None, "a batch of"),
        ({}, 1e5, "a training step"),
    ],
)
def test_beyond_the_memory(changes, memory, what, tmp_path, monkeypatch):
    """Refused with an estimate, before anything of the size is made."""
    config = load_config("picmm", "tiny")
    config.update_from_flattened_dict(changes)
    if memory is not None:
        monkeypatch.setattr(train.memory, "total_memory", lambda: memory)
    with pytest.raises(
        UserError, match=rf"{what}.* needs .* GB or more.*; make config"
    ):
        train.train(config, tmp_path)


def test_the_multipliers_of_the_512_px_releases_are_valid():
    config = load_config("painter", "tiny")
    config.model.mult = (0.5, 1, 1, 2, 2, 4, 4)
    settings.check(config)
