"""PICMM: pluralistic image completion with Gaussian mixture models (NeurIPS 2022).

    python -m picjax.train --config=configs/picmm.py            # photographs, 64 px
    python -m picjax.train --config=configs/picmm.py:scenes     # known posterior
    python -m picjax.train --config=configs/picmm.py:celeba_hq --config.data.path=DIR

A variant is one of VARIANTS, optionally followed by `-PRESET`: `scenes-official` is
scenes trained as the official code does. A preset says how the mixture is trained.
"""

from ml_collections import ConfigDict

# How component j is chosen, what pulls it to the posterior of z_c, and what the
# official code's slips add (docs/picmm.md compares them).
PRESETS = {
    # q(z_c) to the component: learns means, weights and spread.
    "default": dict(),
    # The paper's direction with its sign mended: cannot learn the spread.
    "paper": dict(loss="component_to_posterior"),
    # One bound gives choice, distance and weights.
    "elbo": dict(select="elbo", gate="cross_entropy"),
    # The official code to the bit: the mixture's gradient is lost on the way.
    "official": dict(
        select="official", loss="published", trained=False, clamp=(), extra_calls=True
    ),
    # The official losses, had their gradient arrived.
    "published": dict(select="official", loss="published", clamp=()),
}

VARIANTS = {
    "photos": dict(image_size=64),
    "tiny": dict(image_size=32),
    "scenes": dict(image_size=32),
    "celeba_hq": dict(image_size=256),
    "ffhq": dict(image_size=256),
    "places2": dict(image_size=256),
    "paris": dict(image_size=256),
    "imagenet": dict(image_size=256),
}


def get_config(variant: str = "photos") -> ConfigDict:
    """The config of a variant, `VARIANT[-PRESET]`."""
    name, _, preset = (variant or "photos").partition("-")
    if name not in VARIANTS:
        raise ValueError(f"variant '{name}' is none of {', '.join(VARIANTS)}")
    if preset and preset not in PRESETS:
        raise ValueError(f"preset '{preset}' is none of {', '.join(PRESETS)}")
    config = published()
    config.image_size = VARIANTS[name]["image_size"]
    if name in ("photos", "tiny", "scenes"):
        small(config)
    if name == "tiny":
        tiny(config)
    if name == "scenes":
        scenes(config)
    config.model.mixture.update(PRESETS[preset or "default"])
    return config


def published() -> ConfigDict:
    """The settings of the official code at 256 px, on a folder of images."""
    config = ConfigDict()
    config.system = "picmm"
    config.seed = 0
    config.image_size = 256
    config.batch_size = 8  # over all devices
    config.steps = 1_000_000
    config.log_every = 100
    config.save_every = 10_000
    config.sample_every = 1_000
    config.samples = 6  # completions a row in the grids
    config.keep = 3  # newest checkpoints kept
    config.best = ""  # a logged metric: the checkpoint where it was lowest is kept too
    config.mesh = ConfigDict(dict(data=-1, fsdp=1))  # devices; -1: all that are left

    data = config.data = ConfigDict()
    data.name = "folder"  # photos, folder, tfds, arrayrecord or scenes
    data.path = ""  # training images
    data.eval_path = ""  # held-out images; empty: a share of the training images
    data.load_size = 266  # resized to this, then cropped
    data.crop = "random"  # random or center
    data.flip = True
    data.rotation = 3.0  # degrees, either way
    data.masks = ("center",)  # drawn from these, one an image
    data.hole_ratio = (0.2, 0.6)  # for free-form masks
    data.mask_path = ""  # for masks from files
    data.threads = 16

    model = config.model = ConfigDict()
    model.ngf = 32  # width of the first block of encoder and generator
    model.img_f = 128  # width that they grow to
    model.z_nc = 128  # channels of the latent map
    model.ndf = 32  # width of the first block of the discriminator
    model.output_scale = 4  # image sizes that the generator puts out
    model.dtype = "float32"  # computation; bfloat16 for speed
    model.remat = False  # recompute blocks in the backward pass to save memory
    mixture = model.mixture = ConfigDict()
    mixture.k = 4  # components
    mixture.norm = "batch"  # batch or layer
    # How component j is chosen, pulled to the posterior of z_c, and weighted: see
    # SELECTION, BM and GATE of picjax/losses/gaussian.py.
    mixture.select = "sampled"
    mixture.loss = "posterior_to_component"
    mixture.gate = "frequency"
    mixture.clamp = (-5.0, 2.0)  # of log std in the mixture's loss; (): free
    mixture.given = "sample"  # of z_m, or its mean
    mixture.trained = True
    mixture.extra_calls = False  # the official code's surplus batch-norm updates

    loss = config.loss = ConfigDict()
    loss.gan_mode = "lsgan"  # lsgan, hinge or wgangp
    loss.rec = 20.0  # multi-scale L1
    loss.adversarial = 1.0
    loss.kl = 0.0  # to N(0, 1), on z_m and z_c
    loss.prior = 0.0  # of the mixture's loss in the encoder's: an evidence bound's KL

    opt = config.opt = ConfigDict()
    opt.lr = 1e-4
    opt.b1 = 0.0
    opt.b2 = 0.999
    opt.accumulate = 1  # steps whose gradients are averaged for one update
    return config


def small(config: ConfigDict) -> None:
    """Photographs from the installed packages; minutes on a laptop."""
    config.steps = 4_000
    config.batch_size = 16
    config.log_every = 20
    config.save_every = 500
    config.sample_every = 500
    config.data.name = "photos"
    config.data.rotation = 0.0


def tiny(config: ConfigDict) -> None:
    """Seconds: for tests."""
    config.batch_size = 4
    config.steps = 4
    config.log_every = 1
    config.save_every = 2
    config.sample_every = 4
    config.samples = 2
    config.model.update(ngf=4, img_f=8, z_nc=8, ndf=4)
    config.model.mixture.k = 2


def scenes(config: ConfigDict) -> None:
    """Procedural scenes whose posterior is known; five minutes on two cores."""
    config.data.update(name="scenes", flip=False)
    config.model.mixture.k = 8
