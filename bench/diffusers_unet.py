"""diffusers' network and RePaint scheduler: the peer of `bench.unet --peer diffusers`.

This is what a user of PyTorch would use today. With residual blocks that change the size
and a time embedding that scales and shifts, `UNet2DModel` is guided-diffusion's network
under other names: our exported weights load, and outputs can be compared.
"""

# pyright: reportMissingImports=false

import torch
from diffusers import RePaintScheduler, UNet2DModel
from torch import nn


class UNet(nn.Module):
    """Images [b 3 h w] and steps t [b] -> noise and variance [b 6 h w]."""

    def __init__(self, size, width, mult, blocks, attention, head_width):
        super().__init__()
        attends = [2**level in attention for level in range(len(mult))]
        down = ["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends]
        up = ["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in attends]
        self.net = UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=6,
            block_out_channels=tuple(int(m * width) for m in mult),
            layers_per_block=blocks,
            down_block_types=tuple(down),
            up_block_types=tuple(reversed(up)),
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=head_width,
            norm_num_groups=32,
            attn_norm_num_groups=32,  # otherwise the middle's attention has no norm
        )

    def forward(self, x, t):
        return self.net(x, t).sample


# Parts of a residual block and of attention: official name -> diffusers' name.
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
WHOLE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}


def places(mult, blocks, attention):
    """Official name of every block -> diffusers' name."""
    found = dict(WHOLE)
    levels = range(len(mult))
    i = 1
    for level in levels:
        here = f"down_blocks.{level}"
        for j in range(blocks):
            found[f"input_blocks.{i}.0"] = f"{here}.resnets.{j}"
            found[f"input_blocks.{i}.1"] = f"{here}.attentions.{j}"
            i += 1
        found[f"input_blocks.{i}.0"] = f"{here}.downsamplers.0"
        i += 1
    for up, level in enumerate(reversed(levels)):
        here, attends = f"up_blocks.{up}", 2**level in attention
        for j in range(blocks + 1):
            block = f"output_blocks.{up * (blocks + 1) + j}"
            found[f"{block}.0"] = f"{here}.resnets.{j}"
            found[f"{block}.{1 + attends}"] = f"{here}.upsamplers.0"
            if attends:
                found[f"{block}.1"] = f"{here}.attentions.{j}"
    return found


def renamed(tensors, mult, blocks, attention, head_width):
    """Tensors by official name -> by diffusers' name; rows of qkv are head-major."""
    parts = RESIDUAL | ATTENTION
    found = {}
    for block, to in places(mult, blocks, attention).items():
        inside = [name for name in tensors if name.startswith(f"{block}.")]
        for name in inside:
            tensor = tensors[name]
            part, _, kind = name.removeprefix(f"{block}.").rpartition(".")
            if ".attentions." in to and kind == "weight":
                tensor = tensor.reshape(tensor.shape[:2]) if part != "norm" else tensor
            place = ".".join(filter(None, ("net", to, parts.get(part, part))))
            if part != "qkv":
                found[f"{place}.{kind}"] = tensor
                continue
            heads = tensor.reshape(-1, 3, head_width, *tensor.shape[1:])
            for i, q in enumerate("qkv"):
                own = heads[:, i].reshape(-1, *tensor.shape[1:])
                found[f"net.{to}.to_{q}.{kind}"] = own
    return found


def complete(net, image, mask, steps, jump_length, jump_times):
    """Completions as in RePaintPipeline, from the noise half of the output.

    Returns:
      The images, and the number of evaluations of the network.
    """
    scheduler = RePaintScheduler(eta=1.0)
    scheduler.set_timesteps(steps, jump_length, jump_times, image.device)
    times = scheduler.timesteps.tolist()
    x = torch.randn_like(image)
    calls, last = 0, times[0] + 1
    for t in times:
        if t < last:
            at = torch.full((len(x),), t, device=x.device)
            epsilon = net(x, at)[:, :3].float()
            x = scheduler.step(epsilon, t, x, image, mask).prev_sample
            calls += 1
        else:
            x = scheduler.undo_step(x, last)
        last = t
    return x, calls
