"""The settings that every config shares; configs/METHOD.py holds the method's own.

A config file starts from `base`, changes what its method needs and adds `model`, `loss`
and the like. Any setting can be changed on the command line: `--config.KEY=VALUE`.
"""

from collections.abc import Collection

from ml_collections import ConfigDict


def base(system: str) -> ConfigDict:
    """The shared settings with their most common values.

    Args:
      system: the method, a folder of picjax/methods/.
    """
    data = {
        # photos, digits, folder, aligned, tfds, arrayrecord or scenes
        "name": "folder",
        "path": "",  # training images
        "eval_path": "",  # held-out images; empty: a share of the training images
        "split": "train",  # of a TFDS data set
        # Size that images are resized to before they are cropped; 0: 266/256 of
        # image_size.
        "load_size": 0,
        "crop": "random",  # random, center or aspect (keeps the aspect ratio)
        "flip": True,  # horizontally, half of the time
        "rotation": 0.0,  # largest angle in degrees, in both directions
        "masks": ("center",),  # names of picjax/masks; one is drawn per image
        "hole_ratio": (0.2, 0.6),  # of free-form masks
        "mask_path": "",  # mask files, for the mask named "files"
        "threads": 16,
    }
    opt = {
        "lr": 1e-4,
        "decay": 0.0,  # share of the steps, at the end, in which lr falls to 0
        "b1": 0.9,
        "b2": 0.999,
        "accumulate": 1,  # steps whose gradients are averaged for one update
    }
    evaluation = {  # during training, with averaged weights; metrics of picjax.eval
        "every": 0,  # steps; 0: off
        "metrics": "l1,psnr,ssim,diversity",
        "images": 64,  # held-out images
        "num": 4,  # completions per image
    }
    return ConfigDict(
        {
            "system": system,
            "seed": 0,
            "image_size": 256,  # one number, or (height, width)
            "batch_size": 8,  # over all devices
            "steps": 1_000_000,
            "log_every": 100,
            "save_every": 10_000,
            "sample_every": 1_000,  # grids of completions; 0: none
            "samples": 6,  # completions per row of a grid
            "keep": 3,  # newest checkpoints kept
            "best": "",  # a logged metric whose best checkpoint is kept as well
            "eval": evaluation,
            # The project of Weights & Biases that also gets metrics and grids; "": none.
            "log": {"wandb": ""},
            "mesh": {"data": -1, "fsdp": 1},  # devices per axis; -1: the remaining ones
            "data": data,
            "opt": opt,
        }
    )


def check_variant(
    variant: str, variants: Collection[str], kind: str = "variant"
) -> str:
    """Return the variant, or the first one for an empty string.

    Raises:
      ValueError: if the variant is unknown.
    """
    if not variant:
        return next(iter(variants))
    if variant not in variants:
        raise ValueError(f"{kind} '{variant}' is none of {', '.join(variants)}")
    return variant


def tiny(config: ConfigDict) -> None:
    """Set up a run of seconds, for tests; the method adds small networks."""
    config.batch_size = 4
    config.steps = 4
    config.log_every = 1
    config.save_every = 2
    config.sample_every = 4
