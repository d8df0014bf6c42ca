"""The objects that a config of the painter describes, and which configs are valid."""

from typing import Any, NamedTuple, get_args

import jax.numpy as jnp
import optax

from picjax import optim
from picjax.cli import UserError
from picjax.methods.painter import losses, process, resampling, timesteps
from picjax.methods.painter.classifier import Classifier, Pool
from picjax.methods.painter.net import (
    UNet,
    attention_factors,
    check_size,
    check_widths,
)
from picjax.methods.painter.process import Parameterization, Schedule
from picjax.methods.painter.resampling import PRESETS, Plan, Preset, Resampling
from picjax.methods.painter.samplers.presets import (
    POSTERIOR_PRESETS,
    Cost,
    PosteriorPreset,
)
from picjax.system import Config, Opt, check_choices, image_shape

CLASSIFIER_HEAD_WIDTH = 64  # of every published classifier


class Sampler(NamedTuple):
    """How completions are drawn.

    Attributes:
      schedule: of the respaced process.
      plan: the network's evaluations.
      eta: DDIM's; None: ancestral steps.
      label: the class to draw; -1: the image's if known, else random.
      guidance_scale: of the classifier's gradient; 0: no guidance.
      posterior: a sampler other than RePaint's resampling.
    """

    schedule: Schedule
    plan: Plan
    eta: float | None
    label: int
    guidance_scale: float
    posterior: PosteriorPreset | None = None

    @property
    def cost(self) -> Cost:
        """Of one completion."""
        if self.posterior is not None:
            return self.posterior.cost(self.schedule)
        return Cost(self.plan.evaluations)


# ---- validity ----


def check(config: Config) -> None:
    """Check a config before anything is compiled.

    Raises:
      UserError: naming the key of an invalid value.
    """
    check_choices(
        config,
        {
            "diffusion.schedule": process.SCHEDULES,
            "diffusion.predicts": process.MEANS,
            "diffusion.fixed": ("fixed_large", "fixed_small"),
            "loss.kind": losses.LOSSES,
            "loss.steps": timesteps.TIMESTEP_SAMPLERS,
            "model.qkv_order": ("legacy", "new"),
            "model.classifier_pool": get_args(Pool),
            "sampler.preset": (*PRESETS, *POSTERIOR_PRESETS, "own"),
        },
    )
    _check_networks(config)
    _check_classes(config)
    _check_guidance(config)
    eta = config.sampler.eta
    if eta > 1:
        raise UserError(
            f"config.sampler.eta {eta} is above 1; give 0 to 1, or -1 for ancestral "
            "steps"
        )


def _check_guidance(config: Config) -> None:
    preset, scale = config.sampler.preset, config.sampler.guidance
    if config.model.classifier_classes and scale and preset in POSTERIOR_PRESETS:
        raise UserError(
            f"config.sampler.preset '{preset}' does not follow a classifier; set "
            f"config.sampler.guidance=0, or take one of {', '.join(PRESETS)}"
        )


def _check_networks(config: Config) -> None:
    model, size = config.model, image_shape(config)
    check_size(*size, len(model.mult))
    check_widths(model.width, model.mult, model.head_width, model.heads)
    if not model.classifier_classes:
        return
    width, mult = model.classifier_width, model.classifier_mult
    if any(width * m % CLASSIFIER_HEAD_WIDTH for m in mult):
        raise UserError(
            f"config.model.classifier_width {width} gives levels whose channels are not "
            f"a multiple of {CLASSIFIER_HEAD_WIDTH}, the width of a head; change it"
        )
    check_size(*size, len(mult), "classifier_mult")


def _check_classes(config: Config) -> None:
    model, label = config.model, config.sampler.label
    counts = {
        "config.data.classes": config.data.get("classes", 0),
        "config.model.classes": model.classes,
        "config.model.classifier_classes": model.classifier_classes,
    }
    counts = {key: count for key, count in counts.items() if count}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{key} is {count}" for key, count in counts.items())
        raise UserError(f"{listed}; make them equal, or 0 where no classes are wanted")
    most = max(model.classes, model.classifier_classes)
    if not -1 <= label < most:
        raise UserError(
            f"config.sampler.label {label} is none of the {most} classes; give -1 for "
            "any"
        )


# ---- networks and optimisers ----


def make_unet(config: Config) -> UNet:
    """The network of a config.

    Raises:
      UserError: if attention is asked for at a size that no level has.
    """
    model = config.model
    factors = attention_factors(
        image_shape(config)[0], model.attention, len(model.mult), "attention"
    )
    return UNet(
        width=model.width,
        mult=tuple(model.mult),
        blocks=model.blocks,
        attention=factors,
        head_width=model.head_width,
        heads=model.heads,
        qkv_order=model.qkv_order,
        scale_shift=model.scale_shift,
        resblock_updown=model.resblock_updown,
        conv_resample=model.conv_resample,
        dropout=model.dropout,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        classes=model.classes or None,
        out_channels=6 if model.learn_sigma else 3,
        name="unet",
    )


def make_classifier(config: Config) -> Classifier | None:
    """The classifier of a config, if it has one.

    Raises:
      UserError: if attention is asked for at a size that no level has.
    """
    model = config.model
    if not model.classifier_classes:
        return None
    mult = tuple(model.classifier_mult)
    factors = attention_factors(
        image_shape(config)[0],
        model.classifier_attention,
        len(mult),
        "classifier_attention",
    )
    return Classifier(
        width=model.classifier_width,
        mult=mult,
        blocks=model.classifier_blocks,
        attention=factors,
        head_width=CLASSIFIER_HEAD_WIDTH,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        classes=model.classifier_classes,
        pool=model.classifier_pool,
        name="classifier",
    )


def parameterization(config: Config) -> Parameterization:
    """What the network's output means."""
    learned = config.model.learn_sigma
    fixed = config.diffusion.fixed
    return Parameterization(
        config.diffusion.predicts, "learned_range" if learned else fixed
    )


def adamw(
    config: Config, lr: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW; as in guided-diffusion, its rate decays one update late."""
    opt = config.opt
    decay = optim.linear_decay(lr, config.steps // opt.accumulate, opt.decay)

    def rate(count: Any) -> Any:
        return decay(jnp.maximum(count - 1, 0))

    tx = optax.adamw(rate, b1=opt.b1, b2=opt.b2, weight_decay=weight_decay)
    return optim.accumulate(tx, opt.accumulate)


def make_optimizers(config: Config) -> dict[str, Opt]:
    """One for each network; a classifier with learning rate 0 has none."""
    opt = config.opt
    opts = {"adamw": Opt(adamw(config, opt.lr, opt.weight_decay), ("unet",))}
    if config.model.classifier_classes and opt.classifier_lr:
        tx = adamw(config, opt.classifier_lr, opt.classifier_weight_decay)
        opts["classifier"] = Opt(tx, ("classifier",))
    return opts


# ---- the sampler ----


def make_sampler(
    config: Config, preset: Preset | PosteriorPreset | None = None
) -> Sampler:
    """The sampler of `config.sampler`: a preset, or the config's own numbers.

    Args:
      config: the run's config.
      preset: replaces the one that `config.sampler` names.

    Raises:
      UserError: if the process is too short for it.
    """
    settings, diffusion = config.sampler, config.diffusion
    preset = preset or _named_preset(settings)
    try:
        schedule = process.make_schedule(
            diffusion.schedule, diffusion.steps, preset.spacing
        )
    except UserError as error:
        raise UserError(
            f"config.sampler, preset '{settings.preset}': {error}"
        ) from error
    if diffusion.predicts == "previous_x" and schedule.steps < diffusion.steps:
        raise UserError(
            "config.diffusion.predicts=previous_x needs every step of the process; set "
            "config.sampler.preset=own and leave config.sampler.spacing empty"
        )
    plan = resampling.make_plan(schedule.steps, preset.resampling)
    if preset.resampling.jump_n_sample > 1 and not plan.forward_steps:
        raise UserError(
            f"config.sampler.jump_length {preset.resampling.jump_length}, .start and "
            f".stop leave no jump on {schedule.steps} steps, the scale on which they "
            "count; make them smaller, or set config.sampler.jump_times=1"
        )
    of_class = settings.label, settings.guidance
    if isinstance(preset, PosteriorPreset):
        return Sampler(schedule, plan, None, *of_class, preset)
    return Sampler(schedule, plan, preset.eta, *of_class)


def _named_preset(settings: Config) -> Preset | PosteriorPreset:
    if settings.preset == "own":
        return own_preset(settings)
    return (PRESETS | POSTERIOR_PRESETS)[settings.preset]


def own_preset(settings: Config) -> Preset:
    """The numbers of `config.sampler`.

    Raises:
      UserError: if stretches are passed less than once.
    """
    if settings.jump_times < 1:
        raise UserError(
            f"config.sampler.jump_times is {settings.jump_times}; give 1 for no jumps, "
            "or more"
        )
    own = Resampling(
        jump_length=settings.jump_length,
        jump_n_sample=settings.jump_times,
        start_resampling=settings.start,
        stop_resampling=settings.stop,
    )
    return Preset(settings.spacing, own, None if settings.eta < 0 else settings.eta)
