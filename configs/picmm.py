"""PICMM: pluralistic image completion with Gaussian mixture models (NeurIPS 2022).

    python -m picjax.train --config=configs/picmm.py            # photographs, 64 px
    python -m picjax.train --config=configs/picmm.py:scenes     # known posterior
    python -m picjax.train --config=configs/picmm.py:celeba_hq --config.data.path=DIR

A variant is one of VARIANTS, optionally followed by `-PRESET`: `scenes-official` is
scenes trained as the official code does. A preset says how the mixture is trained.
"""

from typing import Any

from ml_collections import ConfigDict

from picjax.configs import common

# How component j is chosen, what pulls it to the posterior of z_c, and what the
# official code's slips add (docs/picmm.md compares them).
PAPER = {
    "loss.hole": 0.0,
    "loss.adversarial": 1.0,
    "model.fill": False,
    "model.latent_gain": 0.02,
    "model.log_std_start": 0.0,
    "opt.b1": 0.0,
    "model.mixture.given": "sample",
    "model.mixture.gate": "frequency",
}
OFFICIAL = PAPER | {
    "model.mixture.select": "official",
    "model.mixture.loss": "published",
    "model.mixture.clamp": (),
}
PRESETS = {
    # q(z_c) to the component: learns means, weights and spread.
    "default": {},
    # What the paper means, with the sign of its loss mended: cannot learn the spread.
    "paper": PAPER | {"model.mixture.loss": "component_to_posterior"},
    # One bound gives choice, distance and weights.
    "elbo": {"model.mixture.select": "elbo"},
    # The official code to the bit: the mixture's gradient is lost on the way.
    "official": OFFICIAL
    | {"model.mixture.trained": False, "model.mixture.extra_calls": True},
    # The official losses, had their gradient arrived.
    "published": OFFICIAL,
}

# Image size of each variant.
VARIANTS = {
    "photos": 64,
    "demo": 64,
    "embedded": 64,
    "tiny": 32,
    "scenes": 32,
    "celeba_hq": 256,
    "ffhq": 256,
    "places2": 256,
    "paris": 256,
    "imagenet": 256,
}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant, `VARIANT[-PRESET]`."""
    name, _, preset = variant.partition("-")
    name = common.check_variant(name, VARIANTS)
    preset = common.check_variant(preset, PRESETS, "preset")
    config = published()
    config.image_size = VARIANTS[name]
    if VARIANTS[name] < 256:
        small(config)
    changes = {"photos": photos, "demo": demo, "embedded": embedded}
    changes |= {"tiny": tiny, "scenes": scenes}
    if name in changes:
        changes[name](config)
    config.update_from_flattened_dict(PRESETS[preset])
    return config


def published() -> ConfigDict:
    """The settings of the official code at 256 px, on a folder of images."""
    config: Any = common.base("picmm")
    config.data.rotation = 3.0
    mixture = {
        "k": 4,  # components
        "norm": "batch",  # batch or layer
        # How component j is assigned to a draw, how it is pulled towards the posterior
        # of z_c, and how the mixture's weights are trained (docs/picmm.md).
        "select": "sampled",
        "loss": "posterior_to_component",
        "gate": "cross_entropy",
        "given": "mean",  # z_m that the mixture is conditioned on: its mean or a sample
        "clamp": (-5.0, 2.0),  # range of log std in the mixture's loss; (): unbounded
        "trained": True,
        "extra_calls": False,  # the official code's surplus batch-norm updates
    }
    config.model = {
        "ngf": 32,  # channels of the first block of encoder and generator
        "img_f": 128,  # largest number of channels in encoder and generator
        "ndf": 32,  # channels of the first block of the discriminator
        "output_scale": 4,  # number of image sizes that the generator outputs
        "upsample": "transposed",  # as the original, or nearest: no checkerboard
        "log_std_start": 0.0,  # log std of every latent before training
        "latent_grid": 1,  # least side of the latents' map, which is pooled twice at most
        "latent_gain": 0.02,  # of the initialisation of both layers around the latents
        # Ours: the decoder reads the visible part at every scale and adds to a smooth
        # fill of the hole.
        "fill": False,
        "dtype": "float32",  # of computation; bfloat16 for speed
        "remat": False,  # recompute blocks in the backward pass to save memory
        "mixture": mixture,
    }
    config.loss = {
        "gan_mode": "lsgan",  # lsgan, hinge, vanilla or wgangp
        "rec": 20.0,  # multi-scale L1
        # Weight, 0 to 1, of the hole in the L1 of the image from z_hat; 0: as published.
        "hole": 0.0,
        "adversarial": 1.0,
        "kl": 0.0,  # to N(0, 1), on z_m and z_c
        "prior": 0.0,  # mixture loss added to the encoder's: the KL term of an ELBO
    }
    # Ours, of completion.
    config.sampler = {
        "temperature": 1.0,  # draws scatter around a mean by so many deviations
        "least_weight": 0.0,  # no draws from components with less weight
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
    config.model.update(upsample="nearest", log_std_start=-3.0)


def photos(config: Any) -> None:
    """Few photographs, little time: our additions (docs/picmm.md says what each buys)."""
    config.model.update(fill=True, latent_grid=4)
    config.model.update(latent_gain=3.0, log_std_start=-4.0)
    config.loss.update(hole=0.1, adversarial=0.03)
    config.sampler.temperature = 3.0
    config.opt.b1 = 0.5
    config.data.rotation = 10.0


def demo(config: Any) -> None:
    """`make demo`: some minutes of training on two cores."""
    photos(config)
    config.steps = 700  # with more, errors rise again (docs/results.md)
    config.batch_size = 8
    config.save_every = 500
    config.sample_every = 500
    config.model.update(ngf=16, img_f=64, ndf=16)
    config.opt.update(lr=5e-4, decay=0.5)


def embedded(config: Any) -> None:
    """The model in the package: holes as people paint them, few weights."""
    demo(config)
    config.steps = 1_400
    config.data.masks = ("center", "freeform", "irregular", "half")
    config.model.latent_grid = 2


def tiny(config: Any) -> None:
    """Seconds, for tests."""
    common.tiny(config)
    config.samples = 2
    config.model.update(ngf=4, img_f=8, ndf=4)
    config.model.mixture.k = 2


def scenes(config: Any) -> None:
    """Procedural scenes whose posterior is known; twelve minutes on one core."""
    config.steps = 5_000
    config.save_every = 1_000
    config.sample_every = 1_000
    config.data.update(name="scenes", flip=False)
    config.model.update(ngf=16, img_f=32, ndf=16)
    config.model.upsample = "transposed"  # as published
    config.model.mixture.k = 8
    config.loss.hole = 1.0  # makes draws valid (docs/picmm.md)
    config.sampler.least_weight = 0.05  # so do components that have a mode
    config.opt.update(lr=2e-3, decay=0.5)
