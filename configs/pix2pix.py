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

from picjax.configs import common

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


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant."""
    name = common.check_variant(variant, VARIANTS)
    config = published()
    config.image_size = VARIANTS[name]
    changes = {
        "photos": photos,
        "demo": demo,
        "tiny": tiny,
        "scenes": scenes,
        "half32_patch": half32,
        "half32_pixel": half32_pixel,
        "edges2shoes": edges2shoes,
        "facades": facades,
        "maps": maps,
    }
    changes[name](config)
    return config


def published() -> ConfigDict:
    """The defaults of the official PyTorch code, on pairs of pictures."""
    config: Any = common.base("pix2pix")
    config.batch_size = 1
    config.steps = 80_000
    config.save_every = 5_000
    # `direction` of pairs: AtoB generates the right half from the left one; BtoA the
    # reverse. Of a pair no pixel is known, hence no masks.
    config.data.update(name="aligned", direction="AtoB", load_size=286, masks=())
    config.model = {
        "generator": "unet",  # unet or resnet
        "levels": 0,  # downsamplings of the U-Net; 0: as many as fit, at most 8
        "blocks": 9,  # of the ResNet: 9 or 6
        "padding": "reflect",  # of these blocks: reflect, replicate or zero
        "ngf": 64,  # channels of the generator's first layer
        "discriminator": "patch",  # patch or pixel
        "patch_layers": 3,  # receptive field 70 pixels; 1: 16, 2: 34
        "ndf": 64,  # channels of the discriminator's first layer
        "norm": "batch",  # batch, instance or none
        "bias": False,  # add biases that the original omits although no norm follows
        # Where the generator applies dropout: none, official (the PyTorch code; nowhere
        # in a U-Net of 5 levels), or paper (the three innermost decoder levels).
        "dropout": "official",
        "dropout_at_test": True,  # otherwise all completions of an image are the same
        "norm_at_test": "image",  # batch norm by each image's statistics, or running
        "mask_channel": False,  # the mask as an input; otherwise a hole is grey
        "fill": False,  # ours: the output is added to a smooth fill of the hole
        "init": "normal",  # normal, xavier, kaiming or orthogonal
        "init_gain": 0.02,
        "dtype": "float32",  # of computation; bfloat16 for speed
    }
    config.loss = {
        "gan_mode": "vanilla",  # vanilla, lsgan, wgangp (with its penalty) or hinge
        "l1": 100.0,
        "adversarial": 1.0,
        "pool": 0,  # size of the buffer of earlier fakes shown to the discriminator
    }
    config.opt.update(lr=2e-4, decay=0.5, b1=0.5)
    return config


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
    """Completion of the lower half of ImageNet images at 32 px, as in a course report.

    The report tests the weights of epoch 5; the learning rate is constant up to there.
    A U-Net of 5 levels has no official dropout, so all completions are the same.
    """
    config.steps = 5 * 12_812  # of 1,281,149 images
    config.batch_size = 100
    config.opt.decay = 0.0
    config.data.update(name="folder", load_size=32, masks=("top",))


def half32_pixel(config: Any) -> None:
    """The report's other experiment, with a discriminator of single pixels."""
    half32(config)
    config.model.discriminator = "pixel"


def small(config: Any) -> None:
    """Completion of embedded images on a CPU."""
    config.steps = 4_000
    config.batch_size = 16
    config.log_every = 20
    config.save_every = 500
    config.sample_every = 500
    config.data.update(name="photos", load_size=0, masks=("half",))
    config.model.update(ngf=32, ndf=32, patch_layers=2)
    # Completions should differ; batches are large enough for running statistics.
    config.model.update(dropout="paper", norm_at_test="running")
    config.model.update(mask_channel=True, bias=True)


def photos(config: Any) -> None:
    """Photographs from the installed packages; minutes on a laptop."""
    small(config)
    config.model.fill = True


def demo(config: Any) -> None:
    """`make demo`: some minutes of training on two cores."""
    photos(config)
    config.steps = 1_600
    config.batch_size = 8
    config.log_every = 100
    config.save_every = 800
    config.sample_every = 800
    config.data.masks = ("center",)
    config.model.update(ngf=16, ndf=16)


def tiny(config: Any) -> None:
    """Seconds, for tests."""
    small(config)
    common.tiny(config)
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
