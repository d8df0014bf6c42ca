"""PixelCNN++: a forward pass and a training step beside plain PyTorch.

    python -m bench.pixelcnn_step [--features 64] [--blocks 2] [--batches 1,8]
    python -m bench.pixelcnn_step --features 160 --blocks 5 --batches 12   # as published

Images/s of 32 x 32 pixels, measured alternately with the same network in eager PyTorch
(bench/torch_pixelcnn.py). Both have the same weights; logits and likelihood are compared
first. A step is loss, gradients, Adam and the average, with dropout; FLOP/s as counted by
XLA. bfloat16 in PyTorch is `torch.autocast`.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from bench import table
from bench.unet import Compiled, Setting, compile_call, row, settings


class Peer(NamedTuple):
    """PyTorch's network and its results for `host_images`."""

    tensors: dict[str, Any]  # under the port's names
    logits: Any
    nats: float
    forward: Callable[[], object]
    step: Callable[[], object]


def make_config(args: argparse.Namespace, setting: Setting) -> Any:
    """The published config, optionally narrower."""
    from configs import pixelcnn

    config: Any = pixelcnn.get_config("cifar10")
    config.model.update(features=args.features, blocks=args.blocks)
    config.model.update(dtype=setting.dtype, remat=setting.remat)
    config.batch_size = setting.batch
    return config


def host_images(config: Any) -> Any:
    """Images of noise on the grid of 256 values."""
    import numpy as np

    size = config.batch_size, config.image_size, config.image_size, 3
    values = np.random.default_rng(0).integers(0, 256, size)
    return ((values - 127.5) / 127.5).astype(np.float32)


def peer(config: Any) -> Peer:
    """The network in PyTorch, with random gains and biases."""
    import torch  # pyright: ignore[reportMissingImports]

    from bench import torch_pixelcnn

    model = config.model
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    net = torch_pixelcnn.PixelCNN(
        model.features, model.blocks, model.mixtures, model.dropout
    ).to(device)
    tensors = {
        name: x.cpu().numpy().copy()
        for name, x in torch_pixelcnn.port_names(net).items()
    }
    x = torch.from_numpy(host_images(config)).permute(0, 3, 1, 2).contiguous()
    x = x.to(device)
    cast = torch.autocast(device, torch.bfloat16, enabled=model.dtype == "bfloat16")

    def forward() -> Any:
        net.eval()
        with torch.no_grad(), cast:
            y = net(x).float()
        if cuda:
            torch.cuda.synchronize()
        return y

    logits = forward()
    nats = float(torch_pixelcnn.nll(x, logits))
    trainer = torch_pixelcnn.Trainer(net)

    def step() -> float:
        net.train()
        with cast:
            return float(trainer.step(x))

    out = logits.permute(0, 2, 3, 1).cpu().numpy()
    return Peer(tensors, out, nats, forward, step)


class Ours(NamedTuple):
    """Our calls and results for one setting."""

    forward: Compiled
    step: Compiled
    logits: Any
    nats: float


def ours(config: Any, tensors: dict[str, Any]) -> Ours:
    """Compile the timed calls, with the peer's weights."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from picjax.methods.pixelcnn import logistic, official
    from picjax.methods.pixelcnn.system import PixelCNNPlusPlus
    from picjax.official.mapping import from_official

    system = PixelCNNPlusPlus.from_config(config)
    net: Any = system.net
    x, key = jnp.asarray(host_images(config)), jax.random.key(0)
    batch = {"image": x, "mask": jnp.zeros_like(x[..., :1])}
    state = jax.eval_shape(system.init, batch, key)
    target = {"params": state.params["net"], "stats": {}}
    named = official.from_port(tensors, config.model.blocks)
    arrays = {name: np.asarray(value) for name, value in named.items()}
    made = from_official(arrays, target, official.tables(config)["net"])
    params = jax.tree.map(jnp.asarray, made["params"])

    def forward(params: Any) -> Any:
        return net.apply({"params": params}, x, False)

    first = compile_call(forward, params)
    logits: Any = first.run()
    nats = float(logistic.nll(x, logits, "official").sum())
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)
    copies = [{"net": jax.tree.map(jnp.copy, params)} for _ in range(2)]
    state = zeros.replace(params=copies[0], ema=copies[1])
    return Ours(first, compile_step(system, state, batch, key), logits, nats)


def compile_step(system: Any, state: Any, batch: Any, key: Any) -> Compiled:
    """A call that runs one step with a donated state, as in training."""
    import jax

    def step(state: Any, batch: Any) -> Any:
        return system.step(state, batch, jax.random.fold_in(key, state.step))

    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    done: Any = lowered.compile()
    cost: Any = lowered.cost_analysis()

    def run() -> object:
        nonlocal state
        state, metrics = done(state, batch)
        return jax.block_until_ready((state, metrics))

    return Compiled(run, cost["flops"], done.memory_analysis().temp_size_in_bytes)


def measure(config: Any, setting: Setting, rounds: int) -> tuple[table.Row, table.Row]:
    """The rows of forward pass and training step.

    Raises:
      AssertionError: if the two networks do not agree.
    """
    import jax
    import numpy as np

    theirs = peer(config)
    mine = ours(config, theirs.tensors)
    exact = setting.dtype == "float32" and jax.default_backend() == "cpu"
    most = np.abs(theirs.logits).max()
    off = np.abs(np.asarray(mine.logits) - theirs.logits).max() / most
    assert off < (1e-5 if exact else 5e-2), off
    assert abs(mine.nats / theirs.nats - 1) < (1e-5 if exact else 1e-2)
    runs = {
        "forward": mine.forward.run,
        "peer forward": theirs.forward,
        "step": mine.step.run,
        "peer step": theirs.step,
    }
    seconds = table.interleave(runs, rounds)
    first = row("forward", setting, "torch", seconds, mine.forward, 1)
    first["logits off by"] = float(off)
    return first, row("step", setting, "torch", seconds, mine.step, 1)


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument(
        "--remat", action="store_true", help="both with and without rematerialisation"
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    about = table.machine()
    forward, step = [], []
    for setting in settings(args):
        first, second = measure(make_config(args, setting), setting, args.rounds)
        forward.append(first)
        step.append(second)
    title = f"PixelCNN++, {args.features} filters, {args.blocks} blocks, 32 px"
    tables = {f"Forward pass of {title}": forward, f"Training step of {title}": step}
    table.report(tables, about, args.json)


if __name__ == "__main__":
    main()
