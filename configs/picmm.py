"""PICMM: pluralistic image completion with Gaussian mixture models (NeurIPS 2022).

    python -m picjax.train --config=configs/picmm.py            # photographs, 64 px
    python -m picjax.train --config=configs/picmm.py:scenes     # known posterior
    python -m picjax.train --config=configs/picmm.py:celeba_hq --config.data.path=DIR

A variant is one of VARIANTS, optionally followed by `-PRESET`: `scenes-official` is
scenes trained as the official code does. A preset says how the mixture is trained.
"""

from typing import Any

from ml_collections import ConfigDict

# How component j is chosen, what pulls it to the posterior of z_c, and what the
# official code's slips add (docs/picmm.md compares them).
OFFICIAL = {
    "loss.hole": False,
    "model.log_std_start": 0.0,
    "model.mixture.given": "sample",
    "model.mixture.gate": "frequency",
    "model.mixture.select": "official",
    "model.mixture.loss": "published",
    "model.mixture.clamp": (),
}
PRESETS = {
    # q(z_c) to the component: learns means, weights and spread.
    "default": {},
    # What the paper means, with the sign of its loss mended: cannot learn the spread.
    "paper": {
        "loss.hole": False,
        "model.log_std_start": 0.0,
        "model.mixture.given": "sample",
        "model.mixture.gate": "frequency",
        "model.mixture.loss": "component_to_posterior",
    },
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
    "tiny": 32,
    "scenes": 32,
    "celeba_hq": 256,
    "ffhq": 256,
    "places2": 256,
    "paris": 256,
    "imagenet": 256,
}


def get_config(variant: str = "photos") -> ConfigDict:
    """The config of a variant, `VARIANT[-PRESET]`."""
    name, _, preset = (variant or "photos").partition("-")
    if name not in VARIANTS:
        raise ValueError(f"variant '{name}' is none of {', '.join(VARIANTS)}")
    if preset and preset not in PRESETS:
        raise ValueError(f"preset '{preset}' is none of {', '.join(PRESETS)}")
    config = published()
    config.image_size = VARIANTS[name]
    if VARIANTS[name] < 256:
        small(config)
    if name == "demo":
        demo(config)
    if name == "tiny":
        tiny(config)
    if name == "scenes":
        scenes(config)
    config.update_from_flattened_dict(PRESETS[preset or "default"])
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
    mixture = {
        "k": 4,  # components
        "norm": "batch",  # batch or layer
        # How component j is chosen, pulled to the posterior of z_c, and weighted: see
        # ASSIGNMENTS, COMPONENT_LOSSES and WEIGHT_LOSSES of methods/picmm/mixture.py.
        "select": "sampled",
        "loss": "posterior_to_component",
        "gate": "cross_entropy",
        "given": "mean",  # of z_m, or a sample
        "clamp": (-5.0, 2.0),  # of log std in the mixture's loss; (): free
        "trained": True,
        "extra_calls": False,  # the official code's surplus batch-norm updates
    }
    model = {
        "ngf": 32,  # width of the first block of encoder and generator
        "img_f": 128,  # width that they grow to
        "ndf": 32,  # width of the first block of the discriminator
        "output_scale": 4,  # image sizes that the generator puts out
        "upsample": "transposed",  # as the originals, or nearest: no checkerboard
        "log_std_start": 0.0,  # of every latent, before training
        "dtype": "float32",  # of computation; bfloat16 for speed
        "remat": False,  # recompute blocks in the backward pass to save memory
        "mixture": mixture,
    }
    loss = {
        "gan_mode": "lsgan",  # lsgan, hinge, vanilla or wgangp
        "rec": 20.0,  # multi-scale L1
        "hole": False,  # whether L1 compares the hole of z_hat's image, too
        "adversarial": 1.0,
        "kl": 0.0,  # to N(0, 1), on z_m and z_c
        "prior": 0.0,  # of the mixture's loss in the encoder's: an evidence bound's KL
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
            "system": "picmm",
            "seed": 0,
            "image_size": 256,
            "batch_size": 8,  # over all devices
            "steps": 1_000_000,
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
    config.model.update(upsample="nearest", log_std_start=-3.0)


def demo(config: Any) -> None:
    """`make demo`: some minutes of training on two cores."""
    config.steps = 2_000
    config.batch_size = 8
    config.save_every = 500
    config.sample_every = 500
    config.model.update(ngf=16, img_f=64, ndf=16)
    config.opt.update(lr=3e-3, decay=0.5)


def tiny(config: Any) -> None:
    """Seconds: for tests."""
    config.batch_size = 4
    config.steps = 4
    config.log_every = 1
    config.save_every = 2
    config.sample_every = 4
    config.samples = 2
    config.model.update(ngf=4, img_f=8, ndf=4)
    config.model.mixture.k = 2


def scenes(config: Any) -> None:
    """Procedural scenes whose posterior is known; six minutes on one core."""
    config.steps = 2_600
    config.save_every = 1_300
    config.sample_every = 1_300
    config.data.update(name="scenes", flip=False)
    config.model.update(ngf=16, img_f=32, ndf=16)
    config.model.upsample = "transposed"  # as published
    config.model.mixture.k = 8
    config.loss.hole = True  # makes draws valid (docs/picmm.md)
    config.opt.update(lr=2e-3, decay=0.5)
