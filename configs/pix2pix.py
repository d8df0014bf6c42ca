"""Pix2Pix: a conditional GAN (CVPR 2017), for completion and paired translation.

    python -m picjax.train --config=configs/pix2pix.py          # photographs, 64 px
    python -m picjax.train --config=configs/pix2pix.py:scenes   # known posterior
    python -m picjax.train --config=configs/pix2pix.py:facades \\
        --config.data.path=facades/train --config.data.eval_path=facades/val

A variant is one of VARIANTS. `facades`, `edges2shoes` and `maps` translate pictures
(files of A and B side by side), the others complete holes.
"""

from typing import Any

from ml_collections import ConfigDict

# Image size of each variant.
VARIANTS = {
    "photos": 64,
    "demo": 64,
    "tiny": 32,
    "scenes": 32,
    "half32_patch": 32,
    "half32_pixel": 32,
    "facades": 256,
    "edges2shoes": 256,
    "maps": 256,
}


def get_config(variant: str = "photos") -> ConfigDict:
    """The config of a variant."""
    name = variant or "photos"
    if name not in VARIANTS:
        raise ValueError(f"variant '{name}' is none of {', '.join(VARIANTS)}")
    config = published()
    config.image_size = VARIANTS[name]
    change = {
        "photos": small,
        "demo": demo,
        "tiny": tiny,
        "scenes": scenes,
        "half32_patch": half32,
        "half32_pixel": half32_pixel,
        "edges2shoes": edges2shoes,
        "facades": facades,
        "maps": maps,
    }
    change[name](config)
    return config


def published() -> ConfigDict:
    """The defaults of the official PyTorch code, on pairs of pictures."""
    data = {
        "name": "aligned",  # that, or as in configs/picmm.py to complete holes
        "path": "",  # training images
        "eval_path": "",  # held-out images; empty: a share of the training images
        "direction": "AtoB",  # of pairs: AtoB makes the right half from the left; BtoA
        "split": "train",  # of a TFDS data set
        "load_size": 286,  # resized to this, then cropped
        "crop": "random",  # random or center
        "flip": True,
        "rotation": 0.0,  # degrees, either way
        "masks": (),  # drawn from these, one an image; of pairs nothing is known
        "hole_ratio": (0.2, 0.6),  # of free-form masks
        "mask_path": "",  # of masks from files
        "threads": 16,
    }
    model = {
        "generator": "unet",  # unet or resnet
        "levels": 0,  # halvings of the U-Net; 0: all that the size allows, at most 8
        "blocks": 9,  # of the ResNet: 9 or 6
        "padding": "reflect",  # of these blocks: reflect, replicate or zero
        "ngf": 64,  # width of the generator's first layer
        "discriminator": "patch",  # patch or pixel
        "patch_layers": 3,  # patches of 70 pixels; 1: 16, 2: 34
        "ndf": 64,  # width of the discriminator's first layer
        "norm": "batch",  # batch, instance or none
        "bias": False,  # where no norm follows and the original has none all the same
        # Where the generator drops: none, official (the PyTorch code; in a U-Net of 5
        # levels nowhere), or paper (the U-Net's three innermost decoder levels).
        "dropout": "official",
        "dropout_at_test": True,  # or else all completions of an image are the same
        "norm_at_test": "image",  # batch norm by each image's own statistics, or running
        "mask_channel": False,  # the mask beside the image; a hole is grey without it
        "init": "normal",  # normal, xavier, kaiming or orthogonal
        "init_gain": 0.02,
        "dtype": "float32",  # of computation; bfloat16 for speed
    }
    loss = {
        "gan_mode": "vanilla",  # vanilla, lsgan, wgangp (with its penalty) or hinge
        "l1": 100.0,
        "adversarial": 1.0,
        "pool": 0,  # earlier fakes that the discriminator is shown again
    }
    opt = {
        "lr": 2e-4,
        "decay": 0.5,  # share of the steps, at the end, in which lr falls to 0
        "b1": 0.5,
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
            "system": "pix2pix",
            "seed": 0,
            "image_size": 256,
            "batch_size": 1,  # over all devices
            "steps": 80_000,
            "log_every": 100,
            "save_every": 5_000,
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


def facades(config: Any) -> None:
    """Labels (right) to photographs (left): 400 pairs, 200 epochs."""
    config.data.direction = "BtoA"


def maps(config: Any) -> None:
    """Aerial photographs to maps (BtoA: the reverse): 1,096 pairs, 200 epochs."""
    config.steps = 219_200


def edges2shoes(config: Any) -> None:
    """Edges to shoes: 49,825 pairs, 15 epochs of batches of 4, no crop, no flip."""
    config.steps = 186_844
    config.batch_size = 4
    config.data.update(load_size=256, flip=False)


def half32(config: Any) -> None:
    """The course report's completion of ImageNet's lower halves at 32 px.

    Its test names the weights of epoch 5, up to which the rate is constant. With 5
    levels the official dropout has no place: completions are all the same.
    """
    config.steps = 5 * 12_812  # of 1,281,149 images
    config.batch_size = 100
    config.opt.decay = 0.0
    config.data.update(name="folder", load_size=32, masks=("top",))


def half32_pixel(config: Any) -> None:
    """The report's other experiment; no patch sees more than a pixel."""
    half32(config)
    config.model.discriminator = "pixel"


def small(config: Any) -> None:
    """Photographs from the installed packages; minutes on a laptop."""
    config.steps = 4_000
    config.batch_size = 16
    config.log_every = 20
    config.save_every = 500
    config.sample_every = 500
    config.data.update(name="photos", load_size=0, masks=("half",))
    config.model.update(ngf=32, ndf=32, patch_layers=2)
    # Completions should differ, and batches are large enough for running statistics.
    config.model.update(dropout="paper", norm_at_test="running")
    config.model.update(mask_channel=True, bias=True)


def demo(config: Any) -> None:
    """`make demo`: some minutes of training on two cores."""
    small(config)
    config.steps = 4_000
    config.batch_size = 8
    config.log_every = 100
    config.save_every = 1_000
    config.sample_every = 1_000
    config.data.masks = ("center",)
    config.model.update(ngf=16, ndf=16)
    config.opt.lr = 1e-3


def tiny(config: Any) -> None:
    """Seconds: for tests."""
    small(config)
    config.batch_size = 4
    config.steps = 4
    config.log_every = 1
    config.save_every = 2
    config.sample_every = 4
    config.samples = 2
    config.data.masks = ("center",)
    config.model.update(ngf=4, ndf=4)


def scenes(config: Any) -> None:
    """Procedural scenes whose posterior is known; minutes on two cores."""
    small(config)
    config.steps = 4_000
    config.save_every = 1_000
    config.sample_every = 1_000
    config.data.update(name="scenes", flip=False, masks=("center",))
    config.model.update(ngf=16, ndf=16)
    config.opt.lr = 1e-3
