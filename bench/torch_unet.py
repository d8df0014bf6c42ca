"""guided-diffusion's UNet and training step in eager PyTorch: a peer of bench.unet.

Modules have the official names, so that our exported weights load and outputs can be
compared. Residual blocks change the size; the time embedding scales and shifts.
"""

# pyright: reportMissingImports=false
import math

import torch
import torch.nn.functional as F
from torch import nn


def norm(channels):
    return nn.GroupNorm(32, channels)


class ResBlock(nn.Module):
    """Halves or doubles the size where `scale` is 0.5 or 2."""

    def __init__(self, channels, emb, out=None, scale=1.0):
        super().__init__()
        out = out or channels
        self.scale = scale
        conv = nn.Conv2d(channels, out, 3, padding=1)
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), conv)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        conv = nn.Conv2d(out, out, 3, padding=1)
        self.out_layers = nn.Sequential(norm(out), nn.SiLU(), nn.Identity(), conv)
        self.skip_connection = nn.Identity()
        if out != channels:
            self.skip_connection = nn.Conv2d(channels, out, 1)

    def resize(self, x):
        if self.scale == 1:
            return x
        if self.scale < 1:
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def forward(self, x, emb):
        h = self.in_layers[:2](x)
        h, x = self.resize(h), self.resize(x)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(emb)[..., None, None].chunk(2, 1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class Attention(nn.Module):
    """PyTorch's fused attention, with rows in the legacy order."""

    def __init__(self, channels, head_width):
        super().__init__()
        self.heads = channels // head_width
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        b, c, *size = x.shape
        qkv = self.qkv(self.norm(x).reshape(b, c, -1))
        qkv = qkv.reshape(b, self.heads, 3, c // self.heads, -1).transpose(-1, -2)
        y = F.scaled_dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        y = y.transpose(-1, -2).reshape(b, c, -1)
        return x + self.proj_out(y).reshape(b, c, *size)


def run(modules, x, emb):
    for module in modules:
        x = module(x, emb) if isinstance(module, ResBlock) else module(x)
    return x


class UNet(nn.Module):
    """Images [b 3 h w] and steps t [b] -> noise and variance [b 6 h w]."""

    def __init__(self, width, mult, blocks, attention, head_width):
        super().__init__()
        self.width, e = width, 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, e), nn.SiLU(), nn.Linear(e, e))
        channels = [int(m * width) for m in mult]
        c = channels[0]
        self.input_blocks = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(3, c, 3, padding=1)])]
        )
        self.output_blocks = nn.ModuleList()
        skips = [c]
        for level, out in enumerate(channels):
            for _ in range(blocks):
                block = nn.ModuleList([ResBlock(c, e, out)])
                if 2**level in attention:
                    block.append(Attention(out, head_width))
                self.input_blocks.append(block)
                c = out
                skips.append(c)
            if level < len(mult) - 1:
                self.input_blocks.append(nn.ModuleList([ResBlock(c, e, scale=0.5)]))
                skips.append(c)
        middle = ResBlock(c, e), Attention(c, head_width), ResBlock(c, e)
        self.middle_block = nn.ModuleList(middle)
        for level, out in reversed(list(enumerate(channels))):
            for i in range(blocks + 1):
                block = nn.ModuleList([ResBlock(c + skips.pop(), e, out)])
                if 2**level in attention:
                    block.append(Attention(out, head_width))
                c = out
                if level and i == blocks:
                    block.append(ResBlock(c, e, scale=2.0))
                self.output_blocks.append(block)
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(c, 6, 3, padding=1))

    def forward(self, x, t):
        half = self.width // 2
        steps = torch.arange(half, dtype=torch.float32, device=x.device)
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * steps / half)[None]
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], -1))
        skips = []
        for block in self.input_blocks:
            x = run(block, x, emb)
            skips.append(x)
        x = run(self.middle_block, x, emb)
        for block in self.output_blocks:
            x = run(block, torch.cat([x, skips.pop()], 1), emb)
        return self.out(x)


class Trainer:
    """AdamW and averaged weights, on the squared error of the noise.

    Our step also trains the variance; beside the network its cost is negligible.
    """

    def __init__(self, net):
        self.nets = {"net": net}
        self.opt = torch.optim.AdamW(net.parameters(), 1e-4, weight_decay=0.0)
        self.average = [p.detach().clone() for p in net.parameters()]
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        self.alphas_cumprod = (1 - beta).cumprod(0).float().to(self.average[0].device)

    def step(self, x):
        net = self.nets["net"]
        t = torch.randint(0, 1000, (len(x),), device=x.device)
        noise = torch.randn_like(x)
        alphas = self.alphas_cumprod[t][:, None, None, None]
        y = net(alphas.sqrt() * x + (1 - alphas).sqrt() * noise, t)
        loss = F.mse_loss(y[:, :3].float(), noise)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        with torch.no_grad():
            for mean, new in zip(self.average, net.parameters(), strict=True):
                mean.lerp_(new, 1e-4)
        return loss.detach()
