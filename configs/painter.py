"""Intelligent Painter and RePaint: completion by a diffusion model (arXiv 2210.17106).

    python -m picjax.train --config=configs/painter.py            # photographs, 64 px
    python -m picjax.train --config=configs/painter.py:scenes     # known posterior
    python -m picjax.train --config=configs/painter.py:digits     # told their classes
    python -m picjax.train --config=configs/painter.py:places2_256 --config.data.path=DIR

Training is guided-diffusion's and sees whole images; masks come with completion.
config.sampler says how completions are made and may be changed at any time.
"""

from typing import Any

from ml_collections import ConfigDict

# Image size of each variant.
VARIANTS = {
    "photos": 64,
    "demo": 32,
    "tiny": 8,
    "scenes": 32,
    "digits": 8,
    "celeba_hq_256": 256,
    "places2_256": 256,
    "imagenet_256": 256,
}


def get_config(variant: str = "photos") -> ConfigDict:
    """The config of a variant."""
    name = variant or "photos"
    if name not in VARIANTS:
        raise ValueError(f"variant '{name}' is none of {', '.join(VARIANTS)}")
    config = published()
    config.image_size = VARIANTS[name]
    if VARIANTS[name] < 256:
        small(config)
    changes = {"demo": demo, "tiny": tiny, "scenes": scenes, "digits": digits}
    changes |= {"celeba_hq_256": celeba_hq, "imagenet_256": imagenet}
    if name in changes:
        changes[name](config)
    return config


def published() -> ConfigDict:
    """The settings behind places256_300000.pt, and the sampler of the paper."""
    data = {
        "name": "folder",  # photos, folder, tfds, arrayrecord, scenes or digits
        "path": "",  # training images
        "eval_path": "",  # held-out images; empty: a share of the training images
        "split": "train",  # of a TFDS data set
        "load_size": 256,  # resized to this, then cropped; 0: 266/256 of the image size
        "crop": "center",  # random or center
        "flip": True,
        "rotation": 0.0,  # degrees, either way
        "masks": ("center",),  # what is completed; training does not look at it
        "hole_ratio": (0.2, 0.6),  # of free-form masks
        "mask_path": "",  # of masks from files
        # Of the images (TFDS's label, a folder each, or the ten digits); 0: whatever.
        "classes": 0,
        "threads": 16,
    }
    model = {
        "width": 256,  # channels that `mult` counts in
        "mult": (1, 1, 2, 2, 4, 4),  # of each level; between levels the size halves
        "blocks": 2,  # residual blocks a level
        "attention": (32, 16, 8),  # feature-map sizes that have it
        "head_width": 64,  # channels of a head; 0: `heads` counts them
        "heads": 4,
        "qkv_order": "legacy",  # or new: of the 64 px release
        "scale_shift": True,  # the time scales and shifts; without, it is added
        "resblock_updown": True,  # residual blocks change the size
        "conv_resample": True,  # or else convolutions; without: nothing is learnt there
        "classes": 0,  # that the network is told; 0: none
        "learn_sigma": True,  # of the steps' variances
        "dropout": 0.0,
        # Of a classifier that guides and is trained beside; 0: there is none.
        "classifier_classes": 0,
        "classifier_width": 128,
        "classifier_mult": (1, 1, 2, 2, 4, 4),
        "classifier_blocks": 2,
        "classifier_attention": (32, 16, 8),
        "classifier_pool": "attention",  # adaptive, spatial or spatial_v2
        "dtype": "float32",  # of computation; bfloat16 for speed
        "remat": False,  # recompute blocks in the backward pass to save memory
    }
    diffusion = {
        "schedule": "linear",  # or cosine
        "steps": 1000,  # of training
        "predicts": "epsilon",  # or start_x, previous_x
        "fixed": "fixed_large",  # or fixed_small: the variance where none is learnt
    }
    sampler = {
        # repaint, painter, fast, draft, plain; ddnm, ddnm-fast, ddnm-fine, pigdm,
        # smcdiff, tds (docs/samplers.md); own: these:
        "preset": "painter",
        "spacing": "250",  # steps kept: "250", "ddim25" or "10,20,30"
        "jump_length": 10,  # steps that a jump goes back
        "jump_times": 10,  # how often each stretch is walked; 1: no jumps
        "start": 10**8,  # kept step above which no jump leads
        "stop": 100,  # kept step below which no jump begins; -1: everywhere
        "eta": -1.0,  # of DDIM; below 0: ancestral steps
        "label": -1,  # class to be made, of those that the networks know; -1: any
        "guidance": 1.0,  # scale of the classifier's gradient
    }
    opt = {
        "lr": 1e-4,
        "decay": 0.0,  # share of the steps, at the end, in which lr falls to 0
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.0,
        "ema": 0.9999,  # of the averaged parameters, an update
        "accumulate": 1,  # steps whose gradients are averaged for one update
        "classifier_lr": 3e-4,  # 0: the classifier stays as it is
        "classifier_weight_decay": 0.05,
    }
    watch = {  # evaluation during training, as picjax.eval, with averaged weights
        "every": 0,  # steps; 0: off
        "metrics": "l1,psnr,ssim,diversity",
        "images": 64,  # held-out ones
        "num": 4,  # completions of each
    }
    return ConfigDict(
        {
            "system": "painter",
            "seed": 0,
            "image_size": 256,
            "batch_size": 16,  # over all devices: 4 on each of 4 cards
            "steps": 300_000,
            "log_every": 100,
            "save_every": 10_000,
            "sample_every": 10_000,  # 0: no grids
            "samples": 2,  # completions a row in the grids: each takes many calls
            "keep": 3,  # newest checkpoints kept
            "best": "",  # a logged metric: the step where it was best is kept too
            "eval": watch,
            "mesh": {"data": -1, "fsdp": 1},  # devices; -1: all that are left
            "data": data,
            "model": model,
            "diffusion": diffusion,
            "sampler": sampler,
            # kind: mse, rescaled_mse, kl or rescaled_kl; steps: which ones are trained,
            # uniform or loss_second_moment.
            "loss": {"kind": "mse", "steps": "uniform"},
            "opt": opt,
        }
    )


def celeba_hq(config: Any) -> None:
    """celeba256_250000.pt."""
    config.steps = 250_000


def imagenet(config: Any) -> None:
    """256x256_diffusion.pt with its classifier: RePaint's settings for ImageNet.

    To train it, set config.data.classes=1000 and give data that have them.
    """
    config.steps = 1_980_000
    config.batch_size = 256
    config.model.update(classes=1000, classifier_classes=1000, dtype="bfloat16")
    config.sampler.preset = "repaint"


def small(config: Any) -> None:
    """Photographs from the installed packages; minutes on a laptop."""
    config.steps = 6_000
    config.batch_size = 16
    config.log_every = 20
    config.save_every = 1_000
    config.sample_every = 2_000
    config.data.update(name="photos", load_size=0, crop="random")
    config.model.update(
        width=32,
        mult=(1, 2, 2, 2),
        blocks=1,
        attention=(8,),
        head_width=32,
        resblock_updown=False,
        conv_resample=False,
    )
    config.sampler.preset = "draft"
    config.opt.update(lr=1e-3, decay=0.5, ema=0.995)


def demo(config: Any) -> None:
    """`make demo`: some minutes of training on two cores."""
    config.steps = 3_000
    config.batch_size = 8
    config.save_every = 500
    config.sample_every = 1_500
    config.samples = 6
    config.model.mult = (1, 2, 2)


def tiny(config: Any) -> None:
    """Seconds: for tests."""
    config.batch_size = 4
    config.steps = 4
    config.log_every = 1
    config.save_every = 2
    config.sample_every = 4
    config.model.update(mult=(1,), attention=())
    config.sampler.update(preset="own", spacing="3", jump_length=1, jump_times=2)
    config.sampler.stop = 1


def scenes(config: Any) -> None:
    """Procedural scenes whose posterior is known; half an hour on one core."""
    config.steps = 7_000
    config.batch_size = 8
    config.data.update(name="scenes", flip=False)
    config.model.mult = (1, 2, 2)
    config.opt.update(decay=0.3, ema=0.999)


def digits(config: Any) -> None:
    """Handwritten digits, 8 px: a network that is told the class, and a classifier."""
    config.steps = 4_000
    config.batch_size = 32
    config.data.update(name="digits", classes=10, flip=False, masks=("top",))
    config.model.update(classes=10, mult=(1, 2), attention=(4,), classifier_classes=10)
    config.model.update(classifier_width=64, classifier_mult=(1, 2))
    config.model.update(classifier_blocks=1, classifier_attention=(4,))
