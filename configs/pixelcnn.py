"""PixelCNN++: exact likelihood, completion pixel by pixel (arXiv 1701.05517).

    python -m picjax.train --config=configs/pixelcnn.py            # photographs, 32 px
    python -m picjax.train --config=configs/pixelcnn.py:scenes     # known posterior
    python -m picjax.train --config=configs/pixelcnn.py:digits     # handwritten, 8 px
    python -m picjax.train --config=configs/pixelcnn.py:cifar10 --config.data.path=DIR
    python -m picjax.train --config=configs/pixelcnn.py:imagenet32 --config.data.path=DIR

Complete with a hole that comes last in raster order, such as --mask=top (the upper half
is known), or train with config.model.turns (docs/pixelcnn.md).
"""

from typing import Any

from ml_collections import ConfigDict

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


def get_config(variant: str = "photos") -> ConfigDict:
    """The config of a variant."""
    name = variant or "photos"
    if name not in VARIANTS:
        raise ValueError(f"variant '{name}' is none of {', '.join(VARIANTS)}")
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
    data = {
        "name": "folder",  # photos, folder, tfds, arrayrecord, scenes or digits
        "path": "",  # training images
        "eval_path": "",  # held-out images; empty: a share of the training images
        "split": "train",  # of a TFDS data set
        # Of the images (TFDS's label, a folder each, or the ten digits), which the
        # network is told; 0: none.
        "classes": 0,
        "load_size": 32,  # resized to this, then cropped; 0: 266/256 of the image size
        "crop": "center",  # random or center
        "flip": False,
        "rotation": 0.0,  # degrees, either way
        "masks": ("top",),  # which part is known; see loss.pixels
        "hole_ratio": (0.2, 0.6),  # of free-form masks
        "mask_path": "",  # of masks from files
        "threads": 16,
    }
    model = {
        "features": 160,  # channels of both streams
        "blocks": 5,  # gated blocks a level
        "mixtures": 10,  # logistics a pixel
        "channels": 3,  # of an image; 1: grey
        "nonlinearity": "concat_elu",  # concat_elu, elu or relu
        "dropout": 0.5,
        "dtype": "float32",  # of computation; bfloat16 for speed
        "remat": False,  # recompute blocks in the backward pass to save memory
        # Ways of turning the image that it learns (picjax/sampling/raster.py), to choose
        # from when completing; more than one: it is told which.
        "turns": ("upright",),
        "label": 0,  # the class of what is completed, where it is not known
        "sampler": "cached",  # or fixed_point
        # Draws for each completion, one of which is taken by the likelihood of what is
        # known after the hole; 1: what comes after is not looked at.
        "candidates": 1,
        "rounded": True,  # draws are rounded to the 256 values
    }
    loss = {
        "form": "stable",  # of a bin's probability; official: as published
        "pixels": "all",  # whose likelihood is learnt; missing: the masks' holes alone
    }
    opt = {
        "lr": 1e-3,
        "fall": 0.999995,  # what lr is multiplied by before every step
        "decay": 0.0,  # share of the steps, at the end, in which lr falls to 0
        "b1": 0.95,
        "b2": 0.9995,
        "ema": 0.9995,  # of the averaged parameters, a step
        "accumulate": 1,  # steps whose gradients are averaged for one update
    }
    watch = {  # evaluation during training, as picjax.eval, with averaged weights
        "every": 0,  # steps; 0: off
        "metrics": "l1,psnr,ssim,diversity",
        "images": 64,  # held-out ones
        "num": 4,  # completions of each
    }
    return ConfigDict(
        {
            "system": "pixelcnn",
            "seed": 0,
            "image_size": 32,
            "batch_size": 128,  # over all devices
            "steps": 500_000,
            "log_every": 100,
            "save_every": 10_000,
            "sample_every": 10_000,  # 0: no grids
            "samples": 6,  # completions a row in the grids
            "keep": 3,  # newest checkpoints kept
            "best": "",  # a logged metric: the step where it was best is kept too
            "eval": watch,
            "mesh": {"data": -1, "fsdp": 1},  # devices; -1: all that are left
            "data": data,
            "model": model,
            "loss": loss,
            "opt": opt,
        }
    )


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
    """Seconds: for tests."""
    config.batch_size = 4
    config.steps = 4
    config.log_every = 1
    config.save_every = 2
    config.sample_every = 4
    config.samples = 2
    config.model.update(features=4, blocks=1, mixtures=2, dropout=0.5)


def scenes(config: Any) -> None:
    """Procedural scenes whose posterior is known: the hole alone is learnt.

    An hour on two cores with JAX_NUM_CPU_DEVICES=2.
    """
    config.steps = 20_000
    config.batch_size = 32
    config.save_every = 2_000
    config.data.update(name="scenes", flip=False, masks=("center",))
    # Up to six figures may come: a logistic for each colour, and some to spare.
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
    """A prepared TFDS cifar10 (give config.data.path, .../cifar10/3.0.2)."""
    config.data.update(name="tfds", eval_path="test")


def imagenet32(config: Any) -> None:
    """32 px ImageNet, on one card: 3.93 bits/dim was reported after two days of it.

    Say which version a number is of: the images of van den Oord et al. (2016) and the
    ImageNet site's (Chrabaszcz et al., 2017) are resized differently. 17 rows are known,
    as in that report; --config.data.masks="('top',)" makes it half of them.
    """
    config.data.masks = ("top_17_of_32",)
    config.batch_size = 12
    config.steps = 1_000_000
