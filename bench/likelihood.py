"""PixelCNN++ trained with the stable form of the likelihood and with the published one.

    python -m bench.likelihood [--variants digits,scenes] [--steps 300] [--json FILE]
    python -m bench.likelihood --workdir=runs/pixelcnn-scenes --steps 200

Two runs per variant of configs/pixelcnn.py in one process, with the same start, batches
and keys, step by step in turn. The columns: images/s; bits/dim of the last tenth of
training, each in its own form; then, of the averaged weights on held-out images,
bits/dim in both forms, of the pixels that are trained (all, or with
`config.loss.pixels=missing` those of the holes). `scales` is the share of the mixture
weights whose log scale is below -4, where the forms differ by 0.008 nats and more. With a
workdir, both continue from its newest checkpoint, at the full rate: there, scales have
had time to shrink.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench import table

FORMS = "official", "stable"
BATCH = 16  # held-out images per batch


def step_of(config: Any, form: str) -> Any:
    """A training step in one form, compiled: (state, batch) -> (state, metrics)."""
    import jax

    from picjax import methods
    from picjax.images import to_float

    config = config.copy_and_resolve_references()
    config.loss.form = form
    system = methods.make(config)
    root = jax.random.key(config.seed)

    def step(state: Any, batch: Any) -> Any:
        key = jax.random.fold_in(root, state.step)
        return system.step(state, to_float(batch), key)

    return jax.jit(step, donate_argnums=0)


def begin(config: Any, workdir: str) -> tuple[Any, Iterator[Any]]:
    """A state and the batches that follow: fresh ones, or those of a run."""
    import jax

    from picjax import checkpoints, methods, saving, train
    from picjax.data import pipeline
    from picjax.images import to_float

    def batches(step: int) -> Any:
        size, count = config.image_size, config.batch_size
        rest = slice(step, None)
        return pipeline.train_batches(config.data, size, count, config.seed, rest)

    if workdir:
        with saving.Checkpoints(workdir, config.keep, "") as saved:
            state: Any = saved.restore(checkpoints.abstract_state(config))
        return state, batches(int(state.step))
    system = methods.make(config)

    def init(batch: Any) -> Any:
        return system.init(to_float(batch), train.init_key(config.seed))

    return jax.jit(init, **train.fast_compile())(next(batches(0))), batches(0)


def measure(config: Any, states: dict[str, Any], images: int) -> dict[str, table.Row]:
    """Bits/dim of each form's averaged weights on held-out images, in both forms."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from picjax.data import pipeline
    from picjax.images import to_float
    from picjax.methods.pixelcnn import logistic
    from picjax.methods.pixelcnn.system import PixelCNNPlusPlus
    from picjax.system import inference_variables

    system = PixelCNNPlusPlus.from_config(config)
    channels = system.net.channels

    @jax.jit
    def numbers(params: Any, batch: Any) -> dict[str, Any]:
        x = system.in_channels(batch["image"])
        logits = system.logits({"net": params}, x, None)
        trained = (batch["mask"][..., 0] < 0.5) | (system.pixels == "all")

        def mean(values: Any) -> Any:
            total = jnp.where(trained, values, 0).sum((1, 2))
            return total / jnp.maximum(trained.sum((1, 2)), 1)

        def bits(form: str) -> Any:
            nats = -logistic.log_likelihood(x, logits, form)
            return mean(logistic.bits(nats) / channels)

        mixture = logistic.unpack(logits, channels)
        small = (mixture.log_scale < -4).mean(-2)
        weight = jax.nn.softmax(mixture.logits)
        return {
            "held-out, stable": bits("stable"),
            "held-out, official": bits("official"),
            "scales %": 100 * mean((small * weight).sum(-1)),
        }

    size, seed = config.image_size, config.seed
    found: dict[str, list[Any]] = {form: [] for form in states}
    for raw in pipeline.eval_batches(config.data, size, BATCH, images, seed):
        valid = raw.pop("valid")
        raw.pop("name")
        batch = to_float(raw)
        for form, state in states.items():
            params = inference_variables(state)["params"]["net"]
            made = jax.device_get(numbers(params, batch))
            found[form].append({name: x[valid] for name, x in made.items()})
    return {
        form: {
            name: float(np.concatenate([b[name] for b in batches]).mean())
            for name in batches[0]
        }
        for form, batches in found.items()
    }


def compare(config: Any, workdir: str, images: int) -> list[table.Row]:
    """Train both forms for `config.steps` steps: one row each.

    Args:
      config: of PixelCNN++, with one orientation and no classes.
      workdir: from whose newest checkpoint both continue; empty: a fresh start.
      images: number of held-out images.
    """
    import jax

    start, data = begin(config, workdir)
    states = {form: jax.tree.map(lambda x: x.copy(), start) for form in FORMS}
    steps = {form: step_of(config, form) for form in FORMS}
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    bits: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(config.steps):
        batch = next(data)
        for form in FORMS:
            began = time.perf_counter()
            states[form], metrics = steps[form](states[form], batch)
            bits[form].append(float(metrics["bits_per_dim"]))
            seconds[form].append(time.perf_counter() - began)
    numbers = measure(config, states, images)
    tail = max(config.steps // 10, 1)
    return [
        {
            "trained with": form,
            "from step": int(start.step),
            "steps": config.steps,
            "images/s": config.batch_size / median(seconds[form]),
            "training": fmean(bits[form][-tail:]),
            **numbers[form],
        }
        for form in FORMS
    ]


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--variants", default="digits,scenes")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--images", type=int, default=64, help="number of held-out images"
    )
    parser.add_argument("--workdir", default="", help="a run of configs/pixelcnn.py")
    args = parser.parse_args()
    from configs import pixelcnn
    from picjax import checkpoints

    about = table.machine()
    configs: dict[str, Any] = {}
    if args.workdir:
        configs[args.workdir] = checkpoints.read_config(Path(args.workdir))
        configs[
            args.workdir
        ].opt.decay = 0.0  # the run's own number of steps would differ
    else:
        for name in args.variants.split(","):
            configs[name] = pixelcnn.get_config(name)
            configs[name].seed = args.seed
    tables = {}
    for name, config in configs.items():
        config.steps = args.steps
        title = f"Bits/dim of {name}, batch {config.batch_size}"
        tables[title] = compare(config, args.workdir, args.images)
    table.report(tables, about, args.json)


if __name__ == "__main__":
    main()
