"""The painter's network: a forward pass, a training step, a walk, beside PyTorch.

    python -m bench.unet [--width 64] [--size 64] [--batches 1,4] [--json FILE]
    python -m bench.unet --dtypes float32,bfloat16 --remat
    python -m bench.unet --published            # 256 px, 553 million parameters: a GPU

Images/s in turn with guided-diffusion's network in eager PyTorch (bench/torch_unet.py:
the same widths, its outputs compared with ours first), FLOP/s as XLA counts them, memory
of a step, and what a walk takes beyond the network's calls. bfloat16 in PyTorch is
`torch.autocast`.
"""

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from bench import table
from bench.train import PEAKS, matmul_rate

CALLS = 5  # of a walk


class Setting(NamedTuple):
    """What is timed."""

    dtype: str
    batch: int
    remat: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}, batch {self.batch}{', remat' if self.remat else ''}"


def make_config(args: argparse.Namespace, setting: Setting) -> Any:
    """The published config; its network narrower and its images smaller, if asked."""
    from configs import painter

    config: Any = painter.get_config("places2_256")
    if not args.published:
        sizes = tuple(args.size // f for f in (4, 8))
        config.image_size = args.size
        config.model.update(width=args.width, mult=(1, 2, 3, 4), blocks=2)
        config.model.update(attention=sizes, head_width=32)
    config.batch_size = setting.batch
    config.model.update(dtype=setting.dtype, remat=setting.remat)
    config.sampler.update(preset="own", spacing=str(CALLS), jump_times=1)
    return config


class Compiled(NamedTuple):
    """A call that returns when it is done, its FLOPs and XLA's temporary memory."""

    run: Callable[[], object]
    flops: float
    temporary: float  # bytes


def compile_call(function: Any, *arguments: Any, **options: Any) -> Compiled:
    """A pure function and its arguments as a call."""
    import jax

    lowered = jax.jit(function, **options).lower(*arguments)
    done = lowered.compile()
    cost: Any = lowered.cost_analysis()
    memory: Any = done.memory_analysis()
    return Compiled(
        lambda: jax.block_until_ready(done(*arguments)),
        cost["flops"],
        memory.temp_size_in_bytes,
    )


class Ours(NamedTuple):
    """Of one setting."""

    forward: Compiled
    step: Compiled
    walk: Compiled
    exported: dict[str, Any]  # the weights under their official names
    output: Any  # of `host_inputs`


def host_inputs(config: Any) -> tuple[Any, Any]:
    """Images of noise and times."""
    import numpy as np

    size, b = config.image_size, config.batch_size
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (b, size, size, 3)).astype(np.float32)
    return x, rng.integers(0, 1000, b).astype(np.int32)


def ours(config: Any) -> Ours:
    """Compiles what is timed, with weights at random: fresh ones would give zeros."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from picjax import systems
    from picjax.official.mapping import to_official
    from picjax.official.painter import UNET
    from picjax.system import image_shape, inference_variables
    from picjax.systems.painter import networks

    system = systems.make(config)
    net: Any = networks(config.model, image_shape(config))["unet"]
    x, t = map(jnp.asarray, host_inputs(config))
    batch = {"image": x, "mask": jnp.zeros((*x.shape[:3], 1))}
    key = jax.random.key(0)
    rng = np.random.default_rng(1)

    def draw(s: Any) -> Any:
        fan_in = s.size // s.shape[-1]
        return jnp.asarray(rng.standard_normal(s.shape, np.float32) * fan_in**-0.5)

    params = jax.tree.map(draw, jax.eval_shape(net.init, key, x, t)["params"])
    state = jax.jit(system.init)(key, batch)
    state = state.replace(params={"unet": params}, ema={"unet": params})
    forward = compile_call(net.apply, {"params": params}, x, t)
    walk = compile_call(
        lambda variables: system.complete(variables, batch, key, 1),
        inference_variables(state),
    )
    exported = to_official({"params": params}, UNET)
    step = compile_call(system.step, state, batch, key)
    return Ours(forward, step, walk, exported, forward.run())


class Peer(NamedTuple):
    """PyTorch's calls."""

    forward: Callable[[], object]
    step: Callable[[], object]


def peer(config: Any, tensors: dict[str, Any], expected: Any) -> Peer:
    """The same network in PyTorch.

    Raises:
      AssertionError: when it gives other numbers than `expected`.
    """
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]

    from bench import torch_unet

    model, cuda = config.model, torch.cuda.is_available()
    torch.backends.cudnn.benchmark = True
    device = "cuda" if cuda else "cpu"
    factors = [config.image_size // size for size in model.attention]
    net = torch_unet.UNet(
        model.width, model.mult, model.blocks, factors, model.head_width
    )
    net.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
    net.to(device)
    images, times = host_inputs(config)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    t = torch.from_numpy(times).to(device)
    cast = torch.autocast(device, torch.bfloat16, enabled=model.dtype == "bfloat16")

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.no_grad(), cast:
            y = net(x, t)
        wait()
        return y

    y = forward().float().permute(0, 2, 3, 1).cpu().numpy()
    share = 5e-2 if model.dtype == "bfloat16" or cuda else 1e-4
    np.testing.assert_allclose(y, expected, atol=share * np.abs(expected).max(), rtol=0)
    trainer = torch_unet.Trainer(net)

    def step() -> None:
        with cast:
            trainer.step(x)
        wait()

    return Peer(forward, step)


def measure(config: Any, setting: Setting, rounds: int) -> tuple[table.Row, table.Row]:
    """The rows of forward pass and training step."""
    compiled = ours(config)
    theirs = peer(config, compiled.exported, compiled.output)
    runs = {
        "forward": compiled.forward.run,
        "peer forward": theirs.forward,
        "walk": compiled.walk.run,
        "step": compiled.step.run,
        "peer step": theirs.step,
    }
    seconds = table.interleave(runs, rounds, warmup=1)
    first = row("forward", setting, seconds, compiled.forward)
    first["walk / calls"] = median(
        w / (CALLS * f)
        for w, f in zip(seconds["walk"], seconds["forward"], strict=True)
    )
    return first, row("step", setting, seconds, compiled.step)


def row(
    what: str, setting: Setting, seconds: dict[str, list[float]], compiled: Compiled
) -> table.Row:
    """Speed beside the peer's, and how near the device's own."""
    import jax

    mine, other = seconds[what], seconds[f"peer {what}"]
    rate = compiled.flops / median(mine)
    peaks = PEAKS.get(jax.devices()[0].device_kind, {})
    return {
        what: str(setting),
        "picjax images/s": setting.batch / median(mine),
        "torch images/s": setting.batch / median(other),
        "x torch": table.ratio(mine, other),
        "GFLOP": compiled.flops / 1e9,
        "GFLOP/s": rate / 1e9,
        "% of a matmul's": 100 * rate / matmul_rate(setting.dtype),
        "% of peak": 100 * rate / peaks[setting.dtype] if peaks else None,
        "XLA temporary MiB": compiled.temporary / 2**20,
    }


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--remat", action="store_true", help="with and without")
    parser.add_argument("--published", action="store_true", help="the 256 px network")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    about = table.machine()
    settings = [
        Setting(dtype, int(batch), remat)
        for dtype in args.dtypes.split(",")
        for batch in args.batches.split(",")
        for remat in ((False, True) if args.remat else (False,))
    ]
    forward, step = [], []
    for setting in settings:
        first, second = measure(make_config(args, setting), setting, args.rounds)
        forward.append(first)
        step.append(second)
    title = "256 px, as published"
    if not args.published:
        title = f"width {args.width}, {args.size} px"
    tables = {f"Forward pass, {title}": forward, f"Training step, {title}": step}
    table.report(tables, about, args.json)


if __name__ == "__main__":
    main()
