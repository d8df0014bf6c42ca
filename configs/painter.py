"""Intelligent Painter and RePaint: completion by a diffusion model (arXiv 2210.17106).

    python -m picjax.train --config=configs/painter.py            # photographs, 64 px
    python -m picjax.train --config=configs/painter.py:scenes     # known posterior
    python -m picjax.train --config=configs/painter.py:digits     # class-conditional
    python -m picjax.train --config=configs/painter.py:places2_256 --config.data.path=DIR

Training is that of guided-diffusion, on whole images; masks matter only for completion.
config.sampler sets how completions are drawn and may be changed at any time.
"""

from typing import Any

from ml_collections import ConfigDict

from picjax.configs import common

# Image size of each variant.
VARIANTS = {
    "photos": 64,
    "demo": 32,
    "tiny": 8,
    "scenes": 16,
    "digits": 8,
    "celeba_hq_256": 256,
    "places2_256": 256,
    "imagenet_256": 256,
}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant."""
    name = common.check_variant(variant, VARIANTS)
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
    config: Any = common.base("painter")
    config.batch_size = 16  # originally 4 on each of 4 GPUs
    config.steps = 300_000
    config.sample_every = 10_000
    config.samples = 2  # each takes many calls of the network
    # `classes`: the number of image classes (TFDS labels, one folder each, or the ten
    # digits); 0: labels are not used. Training ignores the masks.
    config.data.update(load_size=256, crop="center", classes=0)
    config.model = {
        "width": 256,  # channels, multiplied by `mult` on each level
        "mult": (1, 1, 2, 2, 4, 4),  # per level; between levels the size halves
        "blocks": 2,  # residual blocks per level
        "attention": (32, 16, 8),  # sizes of the feature maps with self-attention
        "head_width": 64,  # channels per attention head; 0: set by `heads`
        "heads": 4,
        "qkv_order": "legacy",  # or new: as in the 64 px release
        "scale_shift": True,  # the time embedding scales and shifts; otherwise is added
        "resblock_updown": True,  # residual blocks change the size
        "conv_resample": True,  # without resblock_updown: resampling is learnt
        "classes": 0,  # that the network is conditioned on; 0: unconditional
        # Ours: the network's input also holds the known pixels and the mask, so that it
        # learns the posterior itself (docs/painter.md).
        "sees_known": False,
        "learn_sigma": True,  # the variances of the steps are learnt
        "dropout": 0.0,
        # Classes of a noisy-image classifier that guides sampling and is trained
        # together with the network; 0: no classifier.
        "classifier_classes": 0,
        "classifier_width": 128,
        "classifier_mult": (1, 1, 2, 2, 4, 4),
        "classifier_blocks": 2,
        "classifier_attention": (32, 16, 8),
        "classifier_pool": "attention",  # adaptive, spatial or spatial_v2
        "dtype": "float32",  # of computation; bfloat16 for speed
        "remat": False,  # recompute blocks in the backward pass to save memory
    }
    config.diffusion = {
        "schedule": "linear",  # or cosine
        "steps": 1000,  # of training
        "predicts": "epsilon",  # or start_x, previous_x
        "fixed": "fixed_large",  # or fixed_small: the variance if it is not learnt
    }
    config.sampler = {
        # repaint, painter, fast, draft, plain; ddnm, ddnm-fast, ddnm-fine,
        # ddnm-travel, pigdm, dps, mcg, copaint, smcdiff, tds (docs/samplers.md); own:
        # as follows
        "preset": "painter",
        # Kept timesteps: "250", "10,20,30", "ddim25", "quad50" or "karras50".
        "spacing": "250",
        "jump_length": 10,  # kept timesteps that a jump goes back
        "jump_times": 10,  # passes over each stretch; 1: no jumps
        "start": 10**8,  # no jump leads above this kept timestep
        "stop": 100,  # no jump starts below this kept timestep; -1: everywhere
        "eta": -1.0,  # of DDIM; below 0: ancestral sampling
        "label": -1,  # class to draw, for class-conditional networks; -1: any
        "guidance": 1.0,  # scale of the classifier's gradient
    }
    # kind: mse, rescaled_mse, kl or rescaled_kl; steps: how training timesteps are
    # drawn, uniform or loss_second_moment.
    config.loss = {"kind": "mse", "steps": "uniform"}
    config.opt.update(
        weight_decay=0.0,
        ema=0.9999,  # decay of the parameter average per update
        classifier_lr=3e-4,  # 0: the classifier is not trained
        classifier_weight_decay=0.05,
    )
    return config


def celeba_hq(config: Any) -> None:
    """celeba256_250000.pt."""
    config.steps = 250_000


def imagenet(config: Any) -> None:
    """256x256_diffusion.pt with its classifier: RePaint's settings for ImageNet.

    To train it, set config.data.classes=1000 and use data with 1,000 classes.
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
    config.sampler.preset = "ddnm"  # nearest to the posterior (docs/samplers.md)
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
    """Seconds, for tests."""
    common.tiny(config)
    config.model.update(mult=(1,), attention=())
    config.sampler.update(preset="own", spacing="3", jump_length=1, jump_times=2)
    config.sampler.stop = 1


def scenes(config: Any) -> None:
    """Procedural scenes whose posterior is known; half an hour on two cores."""
    config.steps = 5_000
    config.data.update(name="scenes", flip=False)
    config.model.update(sees_known=True, mult=(1, 2, 2), attention=(16, 8))
    config.opt.update(decay=0.3, ema=0.999)
    # Steps that renew all noise: DDNM at eta 0.5 draws fewer valid completions.
    config.sampler.update(preset="own", spacing="ddim25", jump_times=1, eta=1.0)


def digits(config: Any) -> None:
    """Handwritten digits, 8 px: a class-conditional network and a classifier."""
    config.steps = 4_000
    config.batch_size = 32
    config.data.update(name="digits", classes=10, flip=False, masks=("top",))
    config.model.update(classes=10, mult=(1, 2), attention=(4,), classifier_classes=10)
    config.model.update(classifier_width=64, classifier_mult=(1, 2))
    config.model.update(classifier_blocks=1, classifier_attention=(4,))
    config.sampler.preset = "draft"  # DDNM does not follow a classifier
