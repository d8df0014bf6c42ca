"""The painter's network beside PyTorch: forward pass, training step and completion.

    python -m bench.unet [--width 64] [--size 64] [--batches 1,4] [--json FILE]
    python -m bench.unet --dtypes float32,bfloat16 --remat
    python -m bench.unet --published            # 256 px, 553 million parameters: a GPU
    python -m bench.unet --peer diffusers       # and whole completions
    JAX_NUM_CPU_DEVICES=2 python -m bench.unet  # picjax on two virtual devices

Images/s, alternating with guided-diffusion's network in eager PyTorch
(bench/torch_unet.py) or with diffusers' and its RePaint scheduler
(bench/diffusers_unet.py). The peer has the same widths and weights, and its outputs are
compared with ours first. Also FLOP/s as XLA counts them, memory of a step, and what a
completion takes beyond the evaluations of the network. picjax uses all devices over
which the batch can be split, as picjax.train does. bfloat16 in PyTorch is
`torch.autocast`.
"""

import argparse
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

from bench import table
from bench.step import torch_device
from bench.train import matmul_rate, percent_of_peak
from picjax.cli import UserError, run

STEPS, JUMP, TIMES = 10, 5, 2  # of a completion: one jump from step 0 back to 5
PEERS = {"guided": "torch", "diffusers": "diffusers"}  # peer -> required package


class Setting(NamedTuple):
    """One configuration that is timed."""

    dtype: str
    batch: int
    remat: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}, batch {self.batch}{', remat' if self.remat else ''}"


def settings(args: argparse.Namespace) -> list[Setting]:
    """Every dtype with every batch, with and without remat if requested."""
    return [
        Setting(dtype, int(batch), remat)
        for dtype in args.dtypes.split(",")
        for batch in args.batches.split(",")
        for remat in ((False, True) if args.remat else (False,))
    ]


def make_config(args: argparse.Namespace, setting: Setting) -> Any:
    """The published config, with a narrower network and smaller images on request."""
    from configs import painter

    config: Any = painter.get_config("places2_256")
    if not args.published:
        sizes = tuple(args.size // f for f in (4, 8))
        config.image_size = args.size
        config.model.update(width=args.width, mult=(1, 2, 3, 4), blocks=2)
        config.model.update(attention=sizes, head_width=32)
    config.batch_size = setting.batch
    config.model.update(dtype=setting.dtype, remat=setting.remat)
    shorten_walk(config)
    return config


def shorten_walk(config: Any) -> None:
    """A sampler of few calls, which costs per call what a long one does."""
    config.sampler.update(preset="own", spacing=str(STEPS), stop=-1)
    config.sampler.update(jump_length=JUMP, jump_times=TIMES)


class Compiled(NamedTuple):
    """A blocking call, its FLOPs and XLA's temporary memory."""

    run: Callable[[], object]
    flops: float
    temporary: float  # bytes


def compile_call(function: Any, *arguments: Any, **options: Any) -> Compiled:
    """A pure function, compiled and applied to its arguments."""
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
    """picjax in one setting.

    Attributes:
      forward: pass of the network.
      step: of training.
      walk: a completion.
      exported: the weights under their official names.
      output: of the network for `host_inputs`.
      devices: number of devices used.
    """

    forward: Compiled
    step: Compiled
    walk: Compiled
    exported: dict[str, Any]
    output: Any
    devices: int


def host_inputs(config: Any) -> tuple[Any, Any]:
    """Random images and time steps."""
    import numpy as np

    size, b = config.image_size, config.batch_size
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (b, size, size, 3)).astype(np.float32)
    return x, rng.integers(0, 1000, b).astype(np.int32)


class Prepared(NamedTuple):
    """The method with random weights, and inputs, on the devices that are used."""

    system: Any
    net: Any
    params: Any
    x: Any
    t: Any
    batch: Any
    key: Any
    devices: int


def prepare(config: Any) -> Prepared:
    """Random weights, since initial ones give an output of zeros."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from picjax import methods, sharding
    from picjax.methods.painter.settings import make_unet

    net: Any = make_unet(config)
    x, t = map(jnp.asarray, host_inputs(config))
    batch = {"image": x, "mask": jnp.asarray(centre_mask(config))}
    key = jax.random.key(0)
    rng = np.random.default_rng(1)

    def draw(s: Any) -> Any:
        fan_in = s.size // s.shape[-1]
        return jnp.asarray(rng.standard_normal(s.shape, np.float32) * fan_in**-0.5)

    params = jax.tree.map(draw, jax.eval_shape(net.init, key, x, t)["params"])
    mesh = sharding.make_mesh()
    devices = 1 if len(x) % mesh.size else mesh.size
    if devices > 1:
        x, t, batch = jax.device_put((x, t, batch), sharding.batch_sharding(mesh))
        params, key = jax.device_put((params, key), sharding.replicated(mesh))
    return Prepared(methods.make(config), net, params, x, t, batch, key, devices)


def compile_forward(made: Prepared) -> Compiled:
    """A pass of the network."""
    return compile_call(made.net.apply, {"params": made.params}, made.x, made.t)


def compile_walk(made: Prepared) -> Compiled:
    """A completion of each image."""
    return compile_call(
        lambda variables, batch: made.system.complete(variables, batch, made.key, 1),
        {"params": {"unet": made.params}, "stats": {}},
        made.batch,  # an argument, since a constant would be replicated
    )


def ours(config: Any) -> Ours:
    """Compile all calls."""
    import jax

    from picjax import sharding
    from picjax.methods.painter.official import UNET
    from picjax.official.mapping import to_official

    made = prepare(config)
    nets = {"unet": made.params}
    state = jax.jit(made.system.init)(made.batch, made.key)
    state = state.replace(params=nets, ema=nets)
    if made.devices > 1:
        state = jax.device_put(state, sharding.replicated(sharding.make_mesh()))
    forward = compile_forward(made)
    step = compile_call(made.system.step, state, made.batch, made.key)
    exported = to_official({"params": made.params}, UNET)
    walk = compile_walk(made)
    return Ours(forward, step, walk, exported, forward.run(), made.devices)


def centre_mask(config: Any) -> Any:
    """The same central hole for every image; 1 = known."""
    import numpy as np

    from picjax import masks

    size = config.image_size
    mask = masks.make("center", (size, size), np.random.default_rng(0))
    return np.repeat(mask[None, ..., None], config.batch_size, 0).astype(np.float32)


class Peer(NamedTuple):
    """The peer in PyTorch.

    Attributes:
      forward: pass of the network.
      step: of training.
      complete: a completion with as many evaluations as ours; None if the peer has no
        sampler.
      flops: of a forward pass, as PyTorch counts them.
    """

    forward: Callable[[], object]
    step: Callable[[], object]
    complete: Callable[[], object] | None
    flops: float


def peer_options(config: Any) -> tuple[Any, ...]:
    """Width, multiples, blocks, attention and head width, as the peers take them."""
    model = config.model
    factors = [config.image_size // size for size in model.attention]
    return model.width, model.mult, model.blocks, factors, model.head_width


def peer_network(name: str, config: Any) -> Any:
    """The network in PyTorch with weights of its own; `name` is one of PEERS."""
    from bench import torch_unet

    if name == "diffusers":
        from bench import diffusers_unet

        return diffusers_unet.UNet(config.image_size, *peer_options(config))
    return torch_unet.UNet(*peer_options(config))


class TorchCalls(NamedTuple):
    """Calls of a network in PyTorch that return when their result is ready."""

    forward: Callable[[], Any]
    step: Callable[[], object]
    complete: Callable[[], object]  # by diffusers, with as many calls as ours


def torch_calls(net: Any, config: Any) -> TorchCalls:
    """The calls, on the device that is there."""
    import torch  # pyright: ignore[reportMissingImports]

    from bench import torch_unet

    device = torch_device()
    net.to(device)
    images, times = host_inputs(config)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    t = torch.from_numpy(times).to(device)
    mask = torch.from_numpy(centre_mask(config)).permute(0, 3, 1, 2).to(device)
    bf16 = config.model.dtype == "bfloat16"
    cast = torch.autocast(device, torch.bfloat16, enabled=bf16)

    @cache  # made when needed: it holds several copies of the weights
    def trainer() -> Any:
        return torch_unet.Trainer(net)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.no_grad(), cast:
            y = net(x, t)
        wait()
        return y

    def step() -> None:
        with cast:
            trainer().step(x)
        wait()

    def complete() -> None:
        from bench import diffusers_unet

        with torch.no_grad(), cast:
            _, calls = diffusers_unet.complete(net, x, mask, STEPS, JUMP, TIMES)
        wait()
        assert calls == evaluations(config), "the peer takes other steps"

    return TorchCalls(forward, step, complete)


def peer(name: str, config: Any, tensors: dict[str, Any], expected: Any) -> Peer:
    """The same network in PyTorch; `name` is one of PEERS.

    Raises:
      AssertionError: if its output differs from `expected`.
    """
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils.flop_counter import (  # pyright: ignore[reportMissingImports]
        FlopCounterMode,
    )

    net = peer_network(name, config)
    if name == "diffusers":
        from bench import diffusers_unet

        tensors = diffusers_unet.renamed(tensors, *peer_options(config)[1:])
    net.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()})
    calls = torch_calls(net, config)
    y = calls.forward().float().permute(0, 2, 3, 1).cpu().numpy()
    rounded = config.model.dtype == "bfloat16" or torch.cuda.is_available()
    most = np.abs(expected).max() * (5e-2 if rounded else 1e-4)
    np.testing.assert_allclose(y, expected, atol=most, rtol=0)
    with FlopCounterMode(display=False) as counter:
        calls.forward()
    sampler = calls.complete if name == "diffusers" else None
    return Peer(calls.forward, calls.step, sampler, counter.get_total_flops())


def evaluations(config: Any) -> int:
    """Evaluations of the network in a completion."""
    from picjax.methods.painter.settings import make_sampler

    return make_sampler(config).plan.evaluations


def measure(
    name: str, config: Any, setting: Setting, rounds: int
) -> dict[str, table.Row]:
    """A row for each of forward pass, training step, completion and network."""
    compiled = ours(config)
    theirs = peer(name, config, compiled.exported, compiled.output)
    runs = {
        "forward": compiled.forward.run,
        "peer forward": theirs.forward,
        "walk": compiled.walk.run,
        "step": compiled.step.run,
        "peer step": theirs.step,
    }
    if theirs.complete:
        runs["peer walk"] = theirs.complete
    seconds = table.interleave(runs, rounds, warmup=1)
    each = setting, PEERS[name], seconds
    calls = evaluations(config)
    walk: table.Row = {"completion": f"{setting}, {calls} calls"}
    walk |= speeds("walk", *each)
    walk["walk / calls"] = median(
        w / (calls * f)
        for w, f in zip(seconds["walk"], seconds["forward"], strict=True)
    )
    parameters = sum(x.size for x in compiled.exported.values())
    return {
        "Forward pass": row("forward", *each, compiled.forward, compiled.devices),
        "Training step": row("step", *each, compiled.step, compiled.devices),
        "Completion": walk,
        "Network": {
            "network": str(setting),
            "parameters of both": parameters,
            "GFLOP, picjax": compiled.forward.flops / 1e9,
            f"GFLOP, {PEERS[name]}": theirs.flops / 1e9,
        },
    }


def speeds(
    what: str, setting: Setting, other: str, seconds: dict[str, list[float]]
) -> table.Row:
    """Images/s, beside the peer's if it was timed."""
    ours, theirs = seconds[what], seconds.get(f"peer {what}")
    entry: table.Row = {"picjax images/s": setting.batch / median(ours)}
    if theirs:
        entry[f"{other} images/s"] = setting.batch / median(theirs)
        entry[f"x {other}"] = table.ratio(ours, theirs)
    return entry


def row(
    what: str,
    setting: Setting,
    other: str,
    seconds: dict[str, list[float]],
    compiled: Compiled,
    devices: int,
) -> table.Row:
    """Speed beside the peer's, and as a share of what the devices can do."""
    rate = compiled.flops / median(seconds[what])
    matmul = devices * matmul_rate(setting.dtype)
    return {
        what: str(setting),
        "devices": devices,
        **speeds(what, setting, other, seconds),
        "GFLOP": compiled.flops / 1e9,
        "GFLOP/s": rate / 1e9,
        "% of a matmul's": 100 * rate / matmul,
        "% of peak": percent_of_peak(rate / devices, setting.dtype),
        "XLA temporary MiB": compiled.temporary / 2**20,
    }


def main() -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: if the peer is not installed.
    """
    parser = table.parser(__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--remat", action="store_true", help="with and without")
    parser.add_argument("--published", action="store_true", help="the 256 px network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default="guided", choices=PEERS)
    args = parser.parse_args()
    if missing := [n for n in ("torch", PEERS[args.peer]) if not find_spec(n)]:
        raise UserError(
            f"--peer {args.peer} needs {missing[0]}; pip install -e '.[bench]'"
        )
    about = table.machine()
    title = "256 px, as published"
    if not args.published:
        title = f"width {args.width}, {args.size} px"
    tables: dict[str, list[table.Row]] = {}
    for setting in settings(args):
        config = make_config(args, setting)
        for what, entry in measure(args.peer, config, setting, args.rounds).items():
            tables.setdefault(f"{what}, {title}", []).append(entry)
    table.report(tables, about, args.json)


if __name__ == "__main__":
    run(main)
