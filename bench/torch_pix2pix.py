"""Pix2Pix's official training step and test in eager PyTorch, the peer of `bench.train`.

U-Net, patch discriminator, batch norm, vanilla loss and 100 times L1. Modules have the
official names, so that official parameters load by `load_state_dict`.

`python -m bench.torch_pix2pix FIXTURE.npz` checks the steps against the official ones.
"""

# pyright: reportMissingImports=false
import argparse
import json
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bench import torch_nets


def down(inputs, outputs, stride=2, bias=False):
    return nn.Conv2d(inputs, outputs, 4, stride, 1, bias=bias)


def up(inputs, outputs, bias=False):
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)


class Level(nn.Module):
    """A level of the U-Net around the next one (`inner`); returns its input as well."""

    def __init__(self, inputs, outputs, inner=None, drop=False):
        super().__init__()
        layers = [nn.LeakyReLU(0.2, True), down(inputs, outputs)]
        if inner is None:
            layers += [nn.ReLU(True), up(outputs, inputs), nn.BatchNorm2d(inputs)]
        else:
            layers += [nn.BatchNorm2d(outputs), inner, nn.ReLU(True)]
            layers += [up(2 * outputs, inputs), nn.BatchNorm2d(inputs)]
            layers += [nn.Dropout(0.5)] * drop
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return torch.cat([x, self.model(x)], 1)


class Outermost(nn.Module):
    """The outermost level: condition in, image out."""

    def __init__(self, width, inner):
        super().__init__()
        last = up(2 * width, 3, bias=True)
        self.model = nn.Sequential(
            down(3, width), inner, nn.ReLU(True), last, nn.Tanh()
        )

    def forward(self, x):
        return self.model(x)


class Generator(nn.Module):
    def __init__(self, levels, width):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(levels)]
        inner = None
        for i in range(levels - 1, 0, -1):
            drop = inner is not None and i >= 4
            inner = Level(widths[i - 1], widths[i], inner, drop)
        self.model = Outermost(width, inner)

    def forward(self, x):
        return self.model(x)


class Discriminator(nn.Module):
    """Patches of 70 pixels with three halvings."""

    def __init__(self, width, halvings=3):
        super().__init__()
        layers = [down(6, width, bias=True), nn.LeakyReLU(0.2, True)]
        for i in range(halvings):
            outputs = width * min(2 ** (i + 1), 8)
            inputs, stride = width * min(2**i, 8), 2 if i + 1 < halvings else 1
            layers += [down(inputs, outputs, stride), nn.BatchNorm2d(outputs)]
            layers += [nn.LeakyReLU(0.2, True)]
        last = down(width * min(2**halvings, 8), 1, 1, bias=True)
        self.model = nn.Sequential(*layers, last)

    def forward(self, condition, image):
        return self.model(torch.cat([condition, image], 1))


def initialise(*nets):
    """N(0, 0.02), batch norm's scale N(1, 0.02), no bias."""
    for module in (m for net in nets for m in net.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            mean = float(isinstance(module, nn.BatchNorm2d))
            nn.init.normal_(module.weight, mean, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def cost(score, real):
    """Cross entropy of scores with the target real or fake."""
    target = torch.full_like(score, float(real))
    return F.binary_cross_entropy_with_logits(score, target)


class Pix2pix:
    """Networks and optimisers, as published for 256 px."""

    def __init__(self, levels=8, ngf=64, ndf=64, lr=2e-4, device="cpu"):
        self.G, self.D = Generator(levels, ngf), Discriminator(ndf)
        self.nets = {"G": self.G, "D": self.D}
        initialise(*self.nets.values())
        for net in self.nets.values():
            net.to(device)
        self.opt_g, self.opt_d = (
            torch.optim.Adam(net.parameters(), lr, (0.5, 0.999))
            for net in self.nets.values()
        )

    def step(self, condition, image):
        """One official step on pictures in [-1, 1], both [b 3 h w]."""
        fake = self.G(condition)
        self.D.requires_grad_(True)
        self.opt_d.zero_grad()
        d_fake = cost(self.D(condition, fake.detach()), False)
        d_real = cost(self.D(condition, image), True)
        (0.5 * (d_fake + d_real)).backward()
        self.opt_d.step()
        self.D.requires_grad_(False)
        self.opt_g.zero_grad()
        g_gan = cost(self.D(condition, fake), True)
        g_l1 = 100.0 * F.l1_loss(fake, image)
        (g_gan + g_l1).backward()
        self.opt_g.step()
        losses = {"D_fake": d_fake, "D_real": d_real, "G_GAN": g_gan, "G_L1": g_l1}
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def complete(self, condition, image, n):
        """The official test n times, in training mode so that dropout is active."""
        del image
        return torch.stack([self.G(condition) for _ in range(n)], 1)


def check(path: str, tolerance: float = 1e-4) -> dict[str, dict[str, float]]:
    """Compare the losses of each step with the official ones.

    Raises:
      AssertionError: if the relative error of one exceeds `tolerance`.
    """
    arrays = dict(np.load(path))
    hyper = json.loads(str(arrays.pop("meta")))["hyper"]
    sizes = dict(re.findall(r"(num_downs|ngf|ndf)=(\d+)", str(hyper)))
    levels, ngf, ndf = (int(sizes[name]) for name in ("num_downs", "ngf", "ndf"))
    peer = Pix2pix(levels, ngf, ndf, hyper["lr"])
    torch_nets.load(peer.nets, arrays, ".")
    result = {}
    for i in range(1, hyper["steps"] + 1):
        given = [torch.from_numpy(arrays[f"in/step{i}/real_{x}"]) for x in "AB"]
        for name, loss in peer.step(*given).items():
            official = float(arrays[f"out/step{i}/loss_{name}"])
            result[f"step {i} {name}"] = {"here": float(loss), "official": official}
            assert abs(float(loss) - official) <= tolerance * abs(official), result
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fixture", help="train_step_vanilla_patch.npz")
    for name, row in check(parser.parse_args().fixture).items():
        print(name, *(f"{k} {v:.7g}" for k, v in row.items()))


if __name__ == "__main__":
    main()
