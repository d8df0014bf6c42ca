"""PICNet's official training step and test in eager PyTorch, the peer of `bench.train`.

Two paths, lsgan; discriminator calls are not batched, as in the official code.

`python -m bench.torch_picnet FIXTURE.npz` checks the step against the official one.
"""

# pyright: reportMissingImports=false
import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F

from bench import torch_nets


def divergence(p, q):
    """KL of two Gaussians (mean, standard deviation), elementwise."""
    (a, s), (b, t) = p, q
    return (t / s).log() + (s**2 + (a - b) ** 2) / (2 * t**2) - 0.5


def draw(gaussian, eps=None):
    mu, std = gaussian
    return mu + std * (torch.randn_like(std) if eps is None else eps)


class Picnet:
    """Networks and optimisers at the published widths."""

    def __init__(self, ngf=32, img_f=128, z_nc=128, depth=6, lr=1e-4, device="cpu"):
        self.layers, self.scales = 5, 4
        self.E = torch_nets.ResEncoder(ngf, img_f, self.layers, z_nc, depth)
        self.G = torch_nets.ResGenerator(z_nc, ngf, img_f, self.layers, self.scales)
        self.D = torch_nets.Discriminator(ngf, img_f, self.layers)
        self.D_rec = torch_nets.Discriminator(ngf, img_f, self.layers)
        self.nets = {"E": self.E, "G": self.G, "D": self.D, "D_rec": self.D_rec}
        torch_nets.initialise(*self.nets.values())
        for net in self.nets.values():
            net.to(device)
        self.opt_g = torch_nets.adam(lr, self.E, self.G)
        self.opt_d = torch_nets.adam(lr, self.D, self.D_rec)

    def step(self, t, mask, eps_p=None, eps_q=None):
        """One official step on images t in [-1, 1] and masks, both [b 3 h w]."""
        n = len(t)
        q, p, features = self.E(mask * t, (1 - mask) * t)
        shared = [
            torch.cat([x, x]) for x in torch_nets.decoder_inputs(features, mask, n)
        ]
        images = self.G(torch.cat([draw(p, eps_p), draw(q, eps_q)]), *shared)
        rec, gen = zip(*(x.chunk(2) for x in images), strict=True)
        self.opt_d.zero_grad()
        judged = torch.zeros(())
        for net, fake in ((self.D, gen[-1]), (self.D_rec, rec[-1])):
            real = ((net(t) - 1) ** 2).mean()
            loss = 0.5 * (real + (net(fake.detach()) ** 2).mean())
            loss.backward()
            judged = judged + loss.detach().cpu()
        self.opt_d.step()
        self.opt_g.zero_grad()
        losses = self.losses(t, mask, p, q, rec, gen)
        torch.stack(list(losses.values())).sum().backward()
        self.opt_g.step()
        return {"ad_d": judged, **{k: v.detach() for k, v in losses.items()}}

    def losses(self, t, mask, p, q, rec, gen):
        """The losses of encoder and generator."""
        s = mask.mean((1, 2, 3)) - 1e-5
        std = (1 / (1 + (8 * (s - 0.8)).exp()))[:, None, None, None].expand_as(p[1])
        prior = torch.zeros_like(std), std
        learnt = p[0].detach(), p[1].detach()
        truths = torch_nets.pyramid(t, self.scales)
        masks = torch_nets.pyramid(mask, self.scales)
        levels = list(zip(rec, gen, truths, masks, strict=True))
        match = F.mse_loss(self.D_rec(rec[-1]), self.D_rec(t))
        return {
            "kl_rec": 80 * divergence(prior, p).mean(),
            "kl_g": 80 * divergence(learnt, q).mean(),
            "app_rec": 20 * sum(F.l1_loss(r, x) for r, _, x, _ in levels),
            "app_g": 20 * sum(F.l1_loss(g * m, x * m) for _, g, x, m in levels),
            "ad_g": ((self.D(gen[-1]) - 1) ** 2).mean(),
            "ad_rec": match,
        }

    @torch.no_grad()
    def complete(self, t, mask, n):
        """The official test: one encoder call, then n draws, each decoded by itself."""
        visible = mask * t
        q, _, features = self.E(visible)
        shared = torch_nets.decoder_inputs(features, mask, len(t))
        outputs = [self.G(draw(q), *shared)[-1] for _ in range(n)]
        return torch.stack([(1 - mask) * x + visible for x in outputs], 1)


def check(path: str, tolerance: float = 1e-4) -> dict[str, dict[str, float]]:
    """Compare the losses with the official step's.

    Raises:
      AssertionError: if the relative error of a loss exceeds `tolerance`.
    """
    arrays = dict(np.load(path))
    hyper = json.loads(str(arrays.pop("meta")))["hyper"]
    sizes = (hyper[name] for name in ("ngf", "img_f", "z_nc", "L", "lr"))
    peer = Picnet(*sizes)
    torch_nets.load(peer.nets, arrays)
    given = ("img", "mask", "eps_p", "eps_q")
    image, mask, *eps = (torch.from_numpy(arrays[f"in/{name}"]) for name in given)
    expected = {k: float(v) for k, v in torch_nets.below(arrays, "out/loss_").items()}
    expected["ad_d"] = expected["img_d"] + expected["img_d_rec"]
    result = {}
    for name, loss in peer.step(2 * image - 1, mask, *eps).items():
        result[name] = {"here": float(loss), "official": expected[name]}
        gap = abs(float(loss) - expected[name])
        assert gap <= tolerance * abs(expected[name]), (name, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fixture", help="train_step_two_lsgan.npz")
    for name, row in check(parser.parse_args().fixture).items():
        print(name, *(f"{k} {v:.7g}" for k, v in row.items()))


if __name__ == "__main__":
    main()
