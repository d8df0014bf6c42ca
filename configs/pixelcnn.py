"""PixelCNN++: exact likelihood, completion pixel by pixel (arXiv 1701.05517).

    python -m picjax.train --config=configs/pixelcnn.py            # photographs, 32 px
    python -m picjax.train --config=configs/pixelcnn.py:scenes     # known posterior
    python -m picjax.train --config=configs/pixelcnn.py:digits     # handwritten, 8 px
    python -m picjax.train --config=configs/pixelcnn.py:cifar10 --config.data.path=DIR
    python -m picjax.train --config=configs/pixelcnn.py:imagenet32 --config.data.path=DIR

Use a mask whose hole comes last in raster order, such as --mask=top (the upper half is
known), or train with several orientations, config.model.turns (docs/pixelcnn.md).
"""

from typing import Any

from ml_collections import ConfigDict

from picjax.configs import common

# Image size of each variant.
VARIANTS = {
    "photos": 32,
    "demo": 8,
    "tiny": 8,
    "scenes": 16,
    "digits": 8,
    "cifar10": 32,
    "imagenet32": 32,
}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant."""
    name = common.check_variant(variant, VARIANTS)
    config = published()
    config.image_size = VARIANTS[name]
    if name not in ("cifar10", "imagenet32"):
        small(config)
    changes = {"demo": demo, "tiny": tiny, "scenes": scenes, "digits": digits}
    changes |= {"cifar10": cifar10, "imagenet32": imagenet32}
    if name in changes:
        changes[name](config)
    return config


def published() -> ConfigDict:
    """The settings of the official code."""
    config: Any = common.base("pixelcnn")
    config.image_size = 32
    config.batch_size = 128
    config.steps = 500_000
    config.sample_every = 10_000
    # `classes`: the number of image classes (TFDS labels, one folder each, or the ten
    # digits) that the network is conditioned on; 0: unconditional.
    config.data.update(classes=0, load_size=32, crop="center", flip=False)
    config.data.masks = ("top",)  # see loss.pixels
    config.model = {
        "features": 160,  # channels of both streams
        "blocks": 5,  # gated blocks per level
        "mixtures": 10,  # logistics per pixel
        "channels": 3,  # of an image; 1: grey
        "nonlinearity": "concat_elu",  # concat_elu, elu or relu
        "dropout": 0.5,
        "dtype": "float32",  # of computation; bfloat16 for speed
        "remat": False,  # recompute blocks in the backward pass to save memory
        # Orientations of the image (docs/pixelcnn.md) that are learnt and that a
        # completion chooses from; the network is conditioned on it if there are
        # several.
        "turns": ("upright",),
        "label": 0,  # class of a completion if the image's is unknown
        "sampler": "cached",  # or fixed_point
        # Candidates per completion, one of which is resampled by the likelihood of the
        # known pixels after the hole; 1: these pixels are ignored.
        "candidates": 1,
        "rounded": True,  # draws are rounded to the 256 values
    }
    config.loss = {
        "form": "stable",  # of a bin's probability; official: as published
        "pixels": "all",  # whose likelihood is learnt; missing: only those in the hole
    }
    config.opt.update(lr=1e-3, b1=0.95, b2=0.9995)
    config.opt.fall = 0.999995  # factor of lr per step
    config.opt.ema = 0.9995  # decay of the parameter average per step
    return config


def small(config: Any) -> None:
    """Photographs from the installed packages; narrow, without dropout."""
    config.steps = 10_000
    config.batch_size = 16
    config.log_every = 20
    config.save_every = 1_000
    config.sample_every = 1_000
    config.data.update(name="photos", load_size=0, crop="random", flip=True)
    config.model.update(features=48, blocks=2, mixtures=5, dropout=0.0)
    config.opt.update(ema=0.995, decay=0.5)


def demo(config: Any) -> None:
    """`make demo`: handwritten digits, some minutes on two cores."""
    digits(config)
    config.steps = 1_500
    config.save_every = 500
    config.sample_every = 500


def tiny(config: Any) -> None:
    """Seconds, for tests."""
    common.tiny(config)
    config.samples = 2
    config.model.update(features=4, blocks=1, mixtures=2, dropout=0.5)


def scenes(config: Any) -> None:
    """Procedural scenes whose posterior is known; only the hole is learnt.

    An hour on two cores with JAX_NUM_CPU_DEVICES=2.
    """
    config.steps = 20_000
    config.batch_size = 32
    config.save_every = 2_000
    config.data.update(name="scenes", flip=False, masks=("center",))
    # Up to six figures are possible: one logistic per colour, and some to spare.
    config.model.update(features=32, blocks=1, mixtures=10)
    config.loss.pixels = "missing"
    config.opt.update(lr=3e-3)


def digits(config: Any) -> None:
    """The 1,797 handwritten digits that scikit-learn carries: 8 px, 17 greys."""
    config.steps = 4_000
    config.batch_size = 32
    config.data.update(name="digits", load_size=8, crop="center", flip=False)
    config.model.update(features=32, channels=1, dropout=0.2)
    config.opt.update(lr=2e-3)


def cifar10(config: Any) -> None:
    """A prepared TFDS cifar10; set config.data.path to .../cifar10/3.0.2."""
    config.data.update(name="tfds", eval_path="test")


def imagenet32(config: Any) -> None:
    """ImageNet at 32 px on one GPU; a report states 3.93 bits/dim after two days.

    State the version with every result: the images of van den Oord et al. (2016) and
    those of the ImageNet site (Chrabaszcz et al., 2017) are resized differently. 17
    rows are known, as in the report; --config.data.masks="('top',)" makes it half of
    them.
    """
    config.data.masks = ("top_17_of_32",)
    config.batch_size = 12
    config.steps = 1_000_000
