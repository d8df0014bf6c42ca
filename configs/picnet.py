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

from picjax.configs import common

SETS = ("celeba_hq", "paris", "imagenet", "places2")
MASKS = {"center": ("center",), "random": ("rectangles", "irregular")}

# Image size of each variant.
VARIANTS = {"photos": 64, "demo": 64, "tiny": 32, "scenes": 32}
VARIANTS |= {f"{name}_{masks}": 256 for name in SETS for masks in MASKS}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant."""
    name = common.check_variant(variant, VARIANTS)
    config = published()
    config.image_size = VARIANTS[name]
    if VARIANTS[name] < 256:
        small(config)
    else:
        masks = MASKS[name.rpartition("_")[2]]
        config.update_from_flattened_dict({"data.masks": masks})
    changes = {"photos": photos, "demo": demo, "tiny": tiny, "scenes": scenes}
    if name in changes:
        changes[name](config)
    return config


def published() -> ConfigDict:
    """The settings of the official code at 256 px, on a folder of images."""
    config: Any = common.base("picnet")
    config.steps = 5_000_000
    config.data.rotation = 3.0
    config.model = {
        "ngf": 32,  # channels of the first block of encoder and generator
        "img_f": 128,  # largest number of channels in encoder and generator
        "z_nc": 128,  # channels of the latent map
        "encoder_depth": 6,  # blocks between the visible part's features and the prior
        "generator_depth": 0,  # additional blocks on the latent map in the generator
        "ndf": 32,  # channels of the first block of the discriminators
        "discriminator": "res",  # res or patch
        "output_scale": 4,  # number of image sizes that the generator outputs
        "upsample": "transposed",  # as the original, or nearest: no checkerboard
        "least_std": 1e-4,  # added to both stds; 0 in the official code
        # Ours: the decoder reads the visible part at every scale and adds to a smooth
        # fill of the hole.
        "fill": False,
        "dtype": "float32",  # of computation; bfloat16 for speed
        "remat": False,  # recompute blocks in the backward pass to save memory
    }
    config.loss = {
        "paths": "two",  # two, or one: only the prior, pulled to N(0, s^2)
        "gan_mode": "lsgan",  # lsgan, hinge, vanilla or wgangp
        "rec": 20.0,  # multi-scale L1
        "kl": 20.0,  # times the number of image sizes
        # prior_to_posterior, as the official code, or posterior_to_prior, as the paper
        "kl_rec": "prior_to_posterior",
        "adversarial": 1.0,
    }
    config.opt.b1 = 0.0
    return config


def small(config: Any) -> None:
    """Photographs from the installed packages; minutes on a laptop."""
    config.steps = 4_000
    config.batch_size = 16
    config.log_every = 20
    config.save_every = 500
    config.sample_every = 500
    config.data.update(name="photos", rotation=0.0)
    config.model.update(upsample="nearest", z_nc=32)


def photos(config: Any) -> None:
    """Few photographs, little time: our additions (docs/picmm.md says what each buys)."""
    config.model.fill = True
    config.loss.adversarial = 0.03
    config.opt.b1 = 0.5
    config.data.rotation = 10.0


def demo(config: Any) -> None:
    """`make demo SYSTEM=picnet`: some minutes of training on two cores."""
    photos(config)
    config.steps = 700
    config.batch_size = 8
    config.save_every = 500
    config.sample_every = 500
    config.model.update(ngf=16, img_f=64, z_nc=16, encoder_depth=2, ndf=16)
    config.opt.update(lr=5e-4, decay=0.5)


def tiny(config: Any) -> None:
    """Seconds, for tests."""
    common.tiny(config)
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
