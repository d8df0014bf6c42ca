"""INADE: many images from one label map, instance by instance (CVPR 2021).

    python -m picjax.train --config=configs/inade.py:scenes     # known styles, 32 px
    python -m picjax.train --config=configs/inade.py:celeba --config.data.path=DIR
    python -m picjax.train --config=configs/inade.py:ade20k-spade   # SPADE in its place

A variant is one of VARIANTS, with one of PRESETS behind a dash.
"""

from typing import Any

from ml_collections import ConfigDict

from picjax.configs import common

PRESETS = {
    "inade": {},
    # SPADE with a latent per image (Park et al., CVPR 2019).
    "spade": {"model.norm": "spade"},
    # CLADE (Tan et al., TPAMI 2021); deterministic.
    "clade": {"model.norm": "clade", "model.encoder": False, "model.latent": False},
    # CLADE whose first layer reads a latent.
    "clade-noise": {"model.norm": "clade", "model.encoder": False},
}

# Image size of each variant: a side, or height and width.
VARIANTS = {
    "photos": 64,
    "scenes": 32,
    "demo": 64,
    "ade20k": 256,
    "cityscapes": (256, 512),
    "celeba": 256,
    "deepfashion": 256,
    "tiny": 32,
}
# config.data.name of each variant; of the others folder.
DATA = {"photos": "photos", "demo": "photos", "scenes": "scenes", "tiny": "scenes"}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant, `VARIANT[-PRESET]`."""
    name, _, preset = variant.partition("-")
    name = common.check_variant(name, VARIANTS)
    preset = common.check_variant(preset, PRESETS, "preset")
    config: Any = published()
    with config.ignore_type():  # a side, or height and width
        config.image_size = VARIANTS[name]
    changes = {
        "photos": photos,
        "scenes": scenes,
        "demo": demo,
        "ade20k": ade20k,
        "cityscapes": cityscapes,
        "celeba": celeba,
        "deepfashion": deepfashion,
        "tiny": tiny,
    }
    changes[name](config)
    config.data.name = DATA.get(name, "folder")
    config.update_from_flattened_dict(PRESETS[preset])
    return config


def published() -> ConfigDict:
    """The settings of the official code."""
    config: Any = common.base("inade")
    config.batch_size = 16
    config.steps = 100_000
    config.save_every = 5_000
    config.data.load_size = 286
    config.model = {
        "norm": "inade",  # inade, spade or clade
        "label_nc": 150,  # classes
        "dontcare": True,  # one more class, of unlabelled pixels
        "instances": 151,  # size of the instance axis, at least the most in an image
        "noise_nc": 64,  # channels of an instance's style noise
        "z_dim": 256,  # size of an image's latent
        "latent": True,  # the first layer reads a latent; else a convolution of the labels
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
    config.data.masks = ()  # the whole image is generated
    config.data.maps = maps_of(config.model)
    config.loss = {
        "gan_mode": "hinge",  # hinge, ls, original or w
        "feature": 10.0,  # L1 of the discriminator's features
        "perceptual": 10.0,  # L1 of VGG19's features
        "pixel": 0.0,  # L1 of pixels, which the original has not
        "vgg_path": "",  # torchvision's vgg19-dcbb9e9d.pth; empty: found as for metrics
        "kl": 0.05,  # of the encoder's statistics to the prior
        "kl_reduction": "sum",  # over the batch, as the original; or mean
    }
    config.opt = {
        "lr": 2e-4,
        "ttur": True,  # generator at lr / 2, discriminator at 2 lr
        "epoch_steps": 0,  # steps per epoch of the schedule; 0: a constant rate
        "constant_epochs": 50,  # at the full rate
        "decay_epochs": 0,  # in which the rate then falls to 0
        "b1": 0.0,
        "b2": 0.9,
        "accumulate": 1,  # steps whose gradients are averaged for one update
    }
    return config


def maps_of(model: Any) -> dict[str, Any]:
    """Settings of the data's maps; the shared ones are references to `model`."""
    shared = ("label_nc", "dontcare", "instances")
    return {name: model.get_ref(name) for name in shared} | {
        # Of a folder: plain, ade20k, cityscapes, celeba or deepfashion (docs/inade.md).
        "layout": "plain",
        "mode": "resize_and_crop",  # or fixed, crop, ...: transform of pictures and maps
        "shift": False,  # label 0 is unlabelled and k is class k - 1, as ADE20K's paper
    }


def photos(config: Any) -> None:
    """Photographs from the installed packages, whose maps are made by clustering."""
    small(config)
    config.steps = 20_000
    config.model.update(label_nc=8, dontcare=False, instances=32, noise_nc=16, z_dim=64)
    config.model.update(ngf=16, ndf=16)


def demo(config: Any) -> None:
    """`make demo`: some minutes of training on two cores."""
    photos(config)
    config.steps = 1_500
    config.batch_size = 8
    config.save_every = 500
    config.sample_every = 500
    config.opt.lr = 1e-3
    config.model.update(ngf=8, noise_nc=8, z_dim=16)


def small(config: Any) -> None:
    """Embedded images; L1 of pixels ties them to their styles in the place of VGG19."""
    config.log_every = 20
    config.save_every = 1_000
    config.sample_every = 1_000
    config.data.load_size = 0
    config.loss.update(perceptual=0.0, pixel=10.0, kl_reduction="mean")


def scenes(config: Any) -> None:
    """Instances whose styles have a known distribution; minutes on a CPU."""
    small(config)
    config.steps = 4_000
    config.model.update(label_nc=4, dontcare=False, instances=8, noise_nc=8, z_dim=8)
    config.model.update(ngf=8, ndf=8)
    config.opt.update(lr=1e-3, ttur=False)


def ade20k(config: Any) -> None:
    """Labels as in the files, which released weights expect: 0 unlabelled, k class k."""
    config.data.maps.layout = "ade20k"
    config.model.update(label_nc=150, dontcare=True, instances=151)


def cityscapes(config: Any) -> None:
    """True instances; 512 x 256 pixels without resize and crop."""
    config.data.load_size = 512
    config.data.maps.update(layout="cityscapes", mode="fixed")
    config.model.update(label_nc=35, dontcare=False, instances=256, upsampling="more")


def celeba(config: Any) -> None:
    """CelebAMask-HQ: one instance per class."""
    config.data.maps.layout = "celeba"
    config.model.update(label_nc=19, dontcare=False, instances=19)


def deepfashion(config: Any) -> None:
    """One instance per class."""
    config.data.load_size = 256
    config.data.maps.layout = "deepfashion"
    config.model.update(label_nc=8, dontcare=False, instances=8)


def tiny(config: Any) -> None:
    """Set up a run of seconds, for tests."""
    common.tiny(config)
    config.data.load_size = 0
    config.loss.perceptual = 0.0
    config.samples = 2
    config.model.update(label_nc=4, dontcare=False, instances=6, noise_nc=4, z_dim=4)
    config.model.update(ngf=1, ndf=2)
