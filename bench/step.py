"""One training step at full width, ours or the peer's: compilation and memory.

    python -m bench.step {jax,torch} [--dtype float32] [--batch 2] [--size 256]

Prints JSON. `bench.train` starts it as a separate process, so that its peak memory is the
step's.
"""

import argparse
import importlib
import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Setting(NamedTuple):
    """The timed case: the published networks of a method at this size.

    `narrow`: with a few channels instead, to rehearse in seconds.
    """

    dtype: str
    batch: int
    size: int
    system: str = "picmm"
    narrow: bool = False


def settings(args: argparse.Namespace) -> list[Setting]:
    """All combinations of a command's dtypes and batch sizes."""
    return [
        Setting(dtype, int(batch), args.size, args.system)
        for dtype in args.dtypes.split(",")
        for batch in args.batches.split(",")
    ]


VARIANTS = {
    "picmm": "celeba_hq",
    "picnet": "celeba_hq_center",
    "pix2pix": "facades",
    "inade": "celeba",
    "pixelcnn": "cifar10",
    "painter": "places2_256",
}
PAIRED = ("picmm", "picnet", "pix2pix", "inade")  # in bench.train and bench.complete
NARROW = {
    "picmm": {"ngf": 4, "img_f": 8, "ndf": 4},
    "picnet": {"ngf": 4, "img_f": 8, "ndf": 4, "z_nc": 4, "encoder_depth": 1},
    "pix2pix": {"ngf": 4, "ndf": 4},
    "inade": {"ngf": 2, "ndf": 2, "noise_nc": 4, "z_dim": 4},
    "pixelcnn": {"features": 4, "blocks": 1, "mixtures": 2},
    "painter": {
        "width": 32,
        "mult": (1, 2),
        "blocks": 1,
        "attention": (),
        "head_width": 32,
    },
}
CLASSES = 19  # of CelebAMask-HQ
REGIONS = 8  # in each of INADE's maps


def host_batch(setting: Setting) -> dict[str, np.ndarray]:
    """uint8 images of noise in the format of the input pipeline.

    With centre masks; for Pix2Pix with a condition of noise, for INADE with maps, and for
    both with no known pixels.
    """
    b, size = setting.batch, setting.size
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (b, size, size, 3), np.uint8)
    mask = np.zeros((b, size, size, 1), np.uint8)
    if setting.system == "pix2pix":
        condition = rng.integers(0, 256, image.shape, np.uint8)
        return {"image": image, "mask": mask, "condition": condition}
    if setting.system == "inade":
        return {"image": image, "mask": mask, **region_maps(rng, b, size)}
    mask += 1
    mask[:, size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = 0
    return {"image": image, "mask": mask}


def region_maps(rng: np.random.Generator, b: int, size: int) -> dict[str, np.ndarray]:
    """Label and instance maps of the regions nearest to random points.

    Each region is an instance of a class of its own, as in CelebAMask-HQ.
    """
    points = rng.uniform(0, size, (b, 1, 1, REGIONS, 2))
    pixels = np.indices((size, size)).transpose(1, 2, 0)[None, :, :, None]
    instance = np.square(pixels - points).sum(-1).argmin(-1)
    every = np.tile(np.arange(CLASSES), (b, 1))
    classes = np.sort(rng.permuted(every, axis=1)[:, :REGIONS], 1)
    label = np.take_along_axis(classes, instance.reshape(b, -1), 1)
    label = label.reshape(instance.shape)
    return {"label": label.astype(np.int32), "instance": instance.astype(np.int32)}


def jax_config(setting: Setting) -> Any:
    """The published config with this dtype, batch and size; INADE's without VGG19."""
    module = importlib.import_module(f"configs.{setting.system}")
    config: Any = module.get_config(VARIANTS[setting.system])
    config.image_size, config.batch_size = setting.size, setting.batch
    config.model.dtype = setting.dtype
    if setting.narrow:
        config.model.update(NARROW[setting.system])
    if setting.system == "inade":
        config.loss.perceptual = 0.0
    return config


class Compiled(NamedTuple):
    """Our step, compiled, and the cost of compilation."""

    step: Callable[..., Any]
    state: Any
    batch: Any
    cost: dict[str, float]


def compile_jax(setting: Setting) -> Compiled:
    """Compile our step as the training loop does: uint8 batch, donated state."""
    import jax

    from picjax import methods
    from picjax.images import to_float

    system = methods.make(jax_config(setting))
    batch = jax.device_put(host_batch(setting))
    key = jax.random.key(0)

    def step(state, batch):
        key_now = jax.random.fold_in(key, state.step)
        return system.step(state, to_float(batch), key_now)

    init = jax.jit(lambda batch: system.init(to_float(batch), key))
    state = init(batch)
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory: Any = compiled.memory_analysis()
    flops: Any = lowered.cost_analysis()
    cost = {
        "trace s": traced - start,
        "compile s": done - traced,
        "GFLOP": flops["flops"] / 1e9,
        "XLA temporary MiB": memory.temp_size_in_bytes / 2**20,
        "XLA arguments MiB": memory.argument_size_in_bytes / 2**20,
    }
    return Compiled(compiled, state, batch, cost)


def jax_run(compiled: Compiled) -> Callable[[], object]:
    """A call that runs one of our steps and waits for the result."""
    import jax

    state = compiled.state

    def run() -> object:
        nonlocal state
        state, metrics = compiled.step(state, compiled.batch)
        return jax.block_until_ready((state, metrics))

    return run


def torch_peer(setting: Setting, compiled: bool = False) -> tuple[Any, tuple[Any, ...]]:
    """The official method in PyTorch, and the inputs of its step, on its device.

    Inputs are images and masks; for Pix2Pix conditions and images; for INADE images,
    label and instance maps; for PixelCNN++ and the painter images.

    Args:
      setting: the timed case.
      compiled: whether `torch.compile` compiles its networks.
    """
    import torch  # pyright: ignore[reportMissingImports]

    device, batch = torch_device(), host_batch(setting)
    maps = [torch.from_numpy(batch.pop(k)) for k in ("label", "instance") if k in batch]
    arrays = {
        name: torch.from_numpy(x).permute(0, 3, 1, 2).float().contiguous().to(device)
        for name, x in batch.items()
    }
    image, mask = arrays["image"] / 127.5 - 1, arrays["mask"]
    given: tuple[Any, ...] = (image,)
    if setting.system == "inade":
        given = image, *(x[:, None].long().to(device) for x in maps)
    elif setting.system == "pix2pix":
        given = arrays["condition"] / 127.5 - 1, image
    elif setting.system in ("picmm", "picnet"):
        given = image, mask.expand_as(image).contiguous()
    peer = torch_method(setting, device)
    if compiled:
        for net in peer.nets.values():
            net.compile()
    return peer, given


def torch_device() -> str:
    """The peers' device, with PyTorch's standard settings for speed there."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.backends.cudnn.benchmark = True
    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")  # TF32, as by default in JAX
    return "cuda"


def torch_method(setting: Setting, device: str) -> Any:
    """A method's networks and optimisers in PyTorch, at the widths of our config."""
    from bench import torch_inade, torch_picmm, torch_picnet, torch_pix2pix

    config = jax_config(setting)
    m = config.model
    match setting.system:
        case "picmm":
            k = m.mixture.k
            return torch_picmm.Picmm(m.ngf, m.img_f, setting.size, k, device=device)
        case "picnet":
            widths = m.ngf, m.img_f, m.z_nc, m.encoder_depth
            return torch_picnet.Picnet(*widths, device=device)
        case "pix2pix":
            halvings = (setting.size & -setting.size).bit_length() - 1
            return torch_pix2pix.Pix2pix(min(halvings, 8), m.ngf, m.ndf, device=device)
        case "inade":
            widths = m.ngf, m.ndf, m.label_nc, m.noise_nc, m.z_dim
            return torch_inade.Inade(setting.size, *widths, device=device)
        case "pixelcnn":
            from bench import torch_pixelcnn

            widths = m.features, m.blocks, m.mixtures, m.dropout
            net = torch_pixelcnn.PixelCNN(*widths).to(device)
            return torch_pixelcnn.Trainer(net)
        case _:
            from bench import torch_unet, unet

            return torch_unet.Trainer(unet.peer_network("guided", config).to(device))


def torch_run(
    setting: Setting, autocast: bool, compiled: bool = False
) -> Callable[[], object]:
    """A call that runs one of the peer's steps and waits for the result.

    bfloat16 in PyTorch is `torch.autocast`, its standard mixed precision.
    """
    import torch  # pyright: ignore[reportMissingImports]

    peer, given = torch_peer(setting, compiled)
    device = given[0].device.type

    def run() -> object:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            losses = peer.step(*given)
        if device == "cuda":
            torch.cuda.synchronize()
        return losses

    return run


def peak_memory_mib() -> float:
    """Peak resident memory of this process.

    Linux includes in ru_maxrss what the parent held when it started the process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("framework", choices=("jax", "torch"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--system", default="picmm", choices=VARIANTS)
    args = parser.parse_args()
    setting = Setting(args.dtype, args.batch, args.size, args.system)
    if args.framework == "jax":
        compiled = compile_jax(setting)
        run, cost = jax_run(compiled), compiled.cost
    else:
        run, cost = torch_run(setting, args.dtype == "bfloat16"), {}
    run()
    run()
    print(
        json.dumps(
            {**cost, "peak MiB": peak_memory_mib(), **device_peak(args.framework)}
        )
    )


def device_peak(framework: str) -> dict[str, float]:
    """Peak memory of an accelerator, if it reports it."""
    if framework == "torch":
        import torch  # pyright: ignore[reportMissingImports]

        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    else:
        import jax

        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {"device peak MiB": peak / 2**20} if peak else {}


if __name__ == "__main__":
    main()
