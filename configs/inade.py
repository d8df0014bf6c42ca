"""INADE: many images from one label map, instance by instance (CVPR 2021).

    python -m picjax.train --config=configs/inade.py:celeba
    python -m picjax.train --config=configs/inade.py:ade20k-spade   # SPADE in its place

A variant is one of VARIANTS, with one of PRESETS behind a dash. Training needs a data
source with label and instance maps.
"""

from typing import Any

from ml_collections import ConfigDict

PRESETS = {
    "inade": {},
    # SPADE with a latent per image (Park et al., CVPR 2019).
    "spade": {"model.norm": "spade"},
    # CLADE (Tan et al., TPAMI 2021); deterministic.
    "clade": {"model.norm": "clade", "model.encoder": False},
}

# Image size of each variant: a side, or height and width.
VARIANTS = {
    "ade20k": 256,
    "cityscapes": (256, 512),
    "celeba": 256,
    "deepfashion": 256,
    "tiny": 32,
}


def get_config(variant: str = "ade20k") -> ConfigDict:
    """The config of a variant, `VARIANT[-PRESET]`."""
    name, _, preset = (variant or "ade20k").partition("-")
    if name not in VARIANTS:
        raise ValueError(f"variant '{name}' is none of {', '.join(VARIANTS)}")
    if preset and preset not in PRESETS:
        raise ValueError(f"preset '{preset}' is none of {', '.join(PRESETS)}")
    config = published(VARIANTS[name])
    change = {
        "ade20k": ade20k,
        "cityscapes": cityscapes,
        "celeba": celeba,
        "deepfashion": deepfashion,
        "tiny": tiny,
    }
    change[name](config)
    config.update_from_flattened_dict(PRESETS[preset or "inade"])
    return config


def published(image_size: int | tuple[int, int]) -> ConfigDict:
    """The settings of the official code."""
    data = {
        "name": "folder",  # a source with label and instance maps
        "path": "",  # training images
        "eval_path": "",  # held-out images; empty: a share of the training images
        "split": "train",  # of a TFDS data set
        "load_size": 286,  # resized to this, then cropped
        "crop": "random",  # random or center
        "flip": True,
        "rotation": 0.0,  # degrees, either way
        "masks": ("center",),  # for completion: drawn from these, one per image
        "hole_ratio": (0.2, 0.6),  # of free-form masks
        "mask_path": "",  # of masks from files
        "threads": 16,
    }
    model = {
        "norm": "inade",  # inade, spade or clade
        "label_nc": 150,  # classes
        "dontcare": True,  # one more class, of unlabelled pixels
        "instances": 151,  # size of the instance axis, at least the most in an image
        "noise_nc": 64,  # channels of an instance's style noise
        "z_dim": 256,  # size of an image's latent
        "encoder": True,  # styles of real images in training; without, noise is prior
        "edges": True,  # the instances' edges are input of the discriminator
        "sketch": False,  # a sketch in the batch guides the generator
        "statistics": "batch",  # of the normalisation: batch or instance
        "spectral": True,  # spectral norm in the generator
        "upsampling": "normal",  # doublings of the first features: normal 5, more 6, most 7
        "ngf": 64,  # width of the generator's and encoder's narrowest block
        "ndf": 64,  # width of the discriminator's first layer
        "scales": 2,  # discriminators, each at half the size of the one before
        "patch_layers": 4,  # layers of each before the logits
        "discriminator_norm": "instance",  # instance, batch or none
        "dtype": "float32",  # of computation; bfloat16 for speed
    }
    loss = {
        "gan_mode": "hinge",  # hinge, ls, original or w
        "feature": 10.0,  # L1 of the discriminator's features
        "perceptual": 10.0,  # L1 of VGG19's features
        "vgg_path": "",  # torchvision's vgg19-dcbb9e9d.pth; empty: no perceptual loss
        "kl": 0.05,  # of the encoder's statistics to the prior
        "kl_reduction": "sum",  # over the batch, as the original; or mean
    }
    opt = {
        "lr": 2e-4,
        "ttur": True,  # generator at lr / 2, discriminator at 2 lr
        "epoch_steps": 0,  # steps per epoch of the schedule; 0: a constant rate
        "constant_epochs": 50,  # at the full rate
        "decay_epochs": 0,  # in which the rate then falls to 0
        "b1": 0.0,
        "b2": 0.9,
        "accumulate": 1,  # steps whose gradients are averaged for one update
    }
    watch = {  # evaluation during training, as picjax.eval
        "every": 0,  # steps; 0: off
        "metrics": "l1,psnr,ssim,diversity",
        "images": 64,  # held-out ones
        "num": 4,  # completions of each
    }
    return ConfigDict(
        {
            "system": "inade",
            "seed": 0,
            "image_size": image_size,
            "batch_size": 16,  # over all devices
            "steps": 100_000,
            "log_every": 100,
            "save_every": 5_000,
            "sample_every": 1_000,  # 0: no grids
            "samples": 6,  # completions per row in the grids
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


def ade20k(config: Any) -> None:
    """Labels as in the files: 0 unlabelled, k class k."""
    config.model.update(label_nc=150, dontcare=True, instances=151)


def cityscapes(config: Any) -> None:
    """True instances; 512 x 256 pixels without resize and crop."""
    config.data.load_size = 512
    config.model.update(label_nc=35, dontcare=False, instances=256, upsampling="more")


def celeba(config: Any) -> None:
    """CelebAMask-HQ: one instance per class."""
    config.model.update(label_nc=19, dontcare=False, instances=19)


def deepfashion(config: Any) -> None:
    """One instance per class."""
    config.data.load_size = 256
    config.model.update(label_nc=8, dontcare=False, instances=8)


def tiny(config: Any) -> None:
    """Seconds: for tests."""
    config.batch_size = 4
    config.steps = 4
    config.log_every = 1
    config.save_every = 2
    config.sample_every = 4
    config.samples = 2
    config.data.load_size = 0
    config.model.update(label_nc=3, dontcare=False, instances=6, noise_nc=4, z_dim=4)
    config.model.update(ngf=1, ndf=2)
