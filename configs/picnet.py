"""PICNet: pluralistic image completion (CVPR 2019, arXiv 1903.04227).

    python -m picjax.train --config=configs/picnet.py           # photographs, 64 px
    python -m picjax.train --config=configs/picnet.py:scenes    # known posterior
    python -m picjax.train --config=configs/picnet.py:celeba_hq_center \\
        --config.data.path=DIR

A variant is one of VARIANTS. The published ones exist for each data set twice: with
centre masks (`_center`) and with random ones (`_random`).
"""

from typing import Any

from ml_collections import ConfigDict

SETS = ("celeba_hq", "paris", "imagenet", "places2")
MASKS = {"center": ("center",), "random": ("rectangles", "irregular")}

# Image size of each variant.
VARIANTS = {"photos": 64, "demo": 64, "tiny": 32, "scenes": 32}
VARIANTS |= {f"{name}_{masks}": 256 for name in SETS for masks in MASKS}


def get_config(variant: str = "photos") -> ConfigDict:
    """The config of a variant."""
    variant = variant or "photos"
    if variant not in VARIANTS:
        raise ValueError(f"variant '{variant}' is none of {', '.join(VARIANTS)}")
    config = published()
    config.image_size = VARIANTS[variant]
    if VARIANTS[variant] < 256:
        small(config)
    else:
        masks = MASKS[variant.rpartition("_")[2]]
        config.update_from_flattened_dict({"data.masks": masks})
    if variant == "demo":
        demo(config)
    if variant == "tiny":
        tiny(config)
    if variant == "scenes":
        scenes(config)
    return config


def published() -> ConfigDict:
    """The settings of the official code at 256 px, on a folder of images."""
    data = {
        "name": "folder",  # photos, folder, tfds, arrayrecord or scenes
        "path": "",  # training images
        "eval_path": "",  # held-out images; empty: a share of the training images
        "split": "train",  # of a TFDS data set
        "load_size": 0,  # resized to this, then cropped; 0: 266/256 of the image size
        "crop": "random",  # random or center
        "flip": True,
        "rotation": 3.0,  # degrees, either way
        "masks": ("center",),  # drawn from these, one an image
        "hole_ratio": (0.2, 0.6),  # of free-form masks
        "mask_path": "",  # of masks from files
        "threads": 16,
    }
    model = {
        "ngf": 32,  # width of the first block of encoder and generator
        "img_f": 128,  # width that they grow to
        "z_nc": 128,  # channels of the latent map
        "encoder_depth": 6,  # blocks from the visible part's feature to the prior
        "generator_depth": 0,  # further blocks of the latent map in the generator
        "ndf": 32,  # width of the first block of the discriminators
        "discriminator": "res",  # res or patch
        "output_scale": 4,  # image sizes that the generator puts out
        "upsample": "transposed",  # as the originals, or nearest: no checkerboard
        "least_std": 1e-4,  # added to both stds; the official code has no floor: 0
        "dtype": "float32",  # of computation; bfloat16 for speed
        "remat": False,  # recompute blocks in the backward pass to save memory
    }
    loss = {
        "paths": "two",  # two, or one: the prior alone, to N(0, s^2)
        "gan_mode": "lsgan",  # lsgan, hinge, vanilla or wgangp
        "rec": 20.0,  # multi-scale L1
        "kl": 20.0,  # times the number of image sizes
        "kl_rec": "prior_to_posterior",  # as the official code; or the paper's
        #                                  posterior_to_prior
        "adversarial": 1.0,
    }
    opt = {
        "lr": 1e-4,
        "decay": 0.0,  # share of the steps, at the end, in which lr falls to 0
        "b1": 0.0,
        "b2": 0.999,
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
            "system": "picnet",
            "seed": 0,
            "image_size": 256,
            "batch_size": 8,  # over all devices
            "steps": 5_000_000,
            "log_every": 100,
            "save_every": 10_000,
            "sample_every": 1_000,  # 0: no grids
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
    """Photographs from the installed packages; minutes on a laptop."""
    config.steps = 4_000
    config.batch_size = 16
    config.log_every = 20
    config.save_every = 500
    config.sample_every = 500
    config.data.update(name="photos", rotation=0.0)
    config.model.update(upsample="nearest", z_nc=32)


def demo(config: Any) -> None:
    """`make demo SYSTEM=picnet`: some minutes of training on two cores."""
    config.steps = 2_000
    config.batch_size = 8
    config.save_every = 500
    config.sample_every = 500
    config.model.update(ngf=16, img_f=64, z_nc=16, encoder_depth=2, ndf=16)
    config.opt.update(lr=3e-3, decay=0.5)


def tiny(config: Any) -> None:
    """Seconds: for tests."""
    config.batch_size = 4
    config.steps = 4
    config.log_every = 1
    config.save_every = 2
    config.sample_every = 4
    config.samples = 2
    config.model.update(ngf=4, img_f=8, z_nc=4, encoder_depth=1, ndf=4)


def scenes(config: Any) -> None:
    """Procedural scenes whose posterior is known; five minutes on two cores."""
    config.steps = 1_000
    config.save_every = 1_000
    config.sample_every = 1_000
    config.data.update(name="scenes", flip=False)
    config.model.update(ngf=16, img_f=32, z_nc=16, encoder_depth=2, ndf=16)
    config.model.upsample = "transposed"  # as published
    config.opt.update(lr=2e-3, decay=0.5)
