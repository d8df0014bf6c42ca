"""PICMM's official training step in eager PyTorch, the peer of `bench.train`.

It includes the official code's redundant work: 7 discriminator calls, a discriminator that
is not frozen in the generator's step, a mixture that runs twice and is never trained.

`python -m bench.torch_picmm FIXTURE.npz` checks the step against the official one.
"""

# pyright: reportMissingImports=false
import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F

from bench import torch_nets


class Picmm:
    """Networks and optimisers; widths default to the published ones for 256 px."""

    def __init__(self, ngf=32, img_f=128, size=256, k=4, lr=1e-4, device="cpu"):
        self.layers, self.scales, self.device = 5, 4, device
        grid = size // 128
        self.d = img_f * grid * grid // 2
        self.E = torch_nets.Encoder(ngf, img_f, self.layers, grid)
        self.G = torch_nets.Generator(ngf, img_f, self.layers, self.scales, grid)
        self.D = torch_nets.Discriminator(ngf, img_f, self.layers)
        self.GMM = torch_nets.DynamicGMM(self.d, k)
        self.nets = {"E": self.E, "G": self.G, "D": self.D, "GMM": self.GMM}
        torch_nets.initialise(*self.nets.values())
        for net in self.nets.values():
            net.to(device)
        self.opt_g = torch_nets.adam(lr, self.E, self.G)
        self.opt_d = torch_nets.adam(lr, self.D)
        self.opt_gmm = torch_nets.adam(lr, self.GMM)

    def component(self, log_std, z_c):
        """The official rule: standard deviations are compared with z_c."""
        return ((log_std.exp() - z_c[:, None]) ** 2).sum(-1).argmin(1)

    def forward(self, t, mask, eps, eps_hat):
        n = len(t)
        z, mu, log_std, features = self.E(mask * t, (1 - mask) * t, eps)
        z_m, z_c = z.chunk(2)
        _, mu_hat, log_std_hat = self.GMM(z_m.detach(), z_c.detach())
        rows, j = torch.arange(n), self.component(log_std_hat, z_c)
        z_hat = mu_hat[rows, j] + eps_hat * log_std_hat[rows, j].exp()
        shared = torch_nets.decoder_inputs(features, mask, n)
        img = self.G(torch.cat([z_m, z_c], 1), *shared)
        img_hat = self.G(torch.cat([z_m, z_hat], 1), *shared)
        return z_m, z_c, mu[n:], log_std[n:], img, img_hat

    def step_d(self, t, img, img_hat):
        self.opt_d.zero_grad()
        total = torch.zeros((), device=self.device)
        for fake in (img[-1].detach(), img_hat[-1].detach()):
            real_loss = ((self.D(t) - 1) ** 2).mean()
            loss = 0.5 * (real_loss + (self.D(fake) ** 2).mean())
            loss.backward()
            total = total + loss.detach()
        self.opt_d.step()
        return total

    def step_g(self, t, mask, img, img_hat):
        self.opt_g.zero_grad()
        ad_g = ((self.D(img[-1]) - 1) ** 2).mean()
        ad_g = ad_g + F.mse_loss(self.D(img_hat[-1]), self.D(t))
        truths, masks = (
            torch_nets.pyramid(t, self.scales),
            torch_nets.pyramid(mask, self.scales),
        )
        levels = zip(img, img_hat, truths, masks, strict=True)
        rec = torch.zeros((), device=self.device)
        for full, hat, truth, known in levels:
            rec = rec + F.l1_loss(hat * known, truth * known) + F.l1_loss(full, truth)
        rec = 20.0 * rec
        (ad_g + rec).backward()
        self.opt_g.step()
        return ad_g.detach(), rec.detach()

    def step_gmm(self, z_m, z_c, mu, log_std):
        """Losses of the mixture, copied before the backward pass: no gradient arrives."""
        self.opt_gmm.zero_grad()
        alpha, mu_hat, log_std_hat = self.GMM(z_m, z_c)
        rows, j = torch.arange(len(z_m)), self.component(log_std_hat, z_c)
        chosen = F.one_hot(j, alpha.shape[1]).to(alpha.dtype)
        freq = ((alpha - chosen) ** 2).mean()
        s, s_hat = log_std.detach(), log_std_hat[rows, j]
        variance = s.exp()
        distance = (mu_hat[rows, j] - mu.detach()) ** 2 / variance
        bm = (-0.5 * ((s_hat - s) - s_hat.exp() / variance + distance)).sum(1).mean()
        (freq + bm).detach().clone().requires_grad_().backward()
        self.opt_gmm.step()
        return freq.detach(), bm.detach()

    def step(self, t, mask, eps=None, eps_hat=None):
        """One official step on images t in [-1, 1] and masks, both [b 3 h w]."""
        self.GMM.train()
        n = len(t)
        eps = torch.randn(2 * n, self.d, device=self.device) if eps is None else eps
        if eps_hat is None:
            eps_hat = torch.randn(n, self.d, device=self.device)
        z_m, z_c, mu, log_std, img, img_hat = self.forward(t, mask, eps, eps_hat)
        ad_d = self.step_d(t, img, img_hat)
        ad_g, rec = self.step_g(t, mask, img, img_hat)
        freq, bm = self.step_gmm(z_m, z_c, mu, log_std)
        return {"rec": rec, "ad_g": ad_g, "ad_d": ad_d, "freq": freq, "bm": bm}

    @torch.no_grad()
    def complete(self, t, mask, n):
        """The official test: one encoder call, then n draws, each decoded by itself."""
        self.GMM.eval()
        visible, complement = mask * t, (1 - mask) * t
        eps = torch.randn(2 * len(t), self.d, device=self.device)
        z, _, _, features = self.E(visible, complement, eps)
        z_m = z[: len(t)]
        shared = torch_nets.decoder_inputs(features, mask, len(t))
        outputs = []
        for _ in range(n):
            alpha, mu, log_std = self.GMM(z_m)
            j = torch.multinomial(alpha, 1)[:, 0]
            rows = torch.arange(len(t))
            std = log_std[rows, j].exp()
            z_c = mu[rows, j] + std * torch.randn_like(std)
            out = self.G(torch.cat([z_m, z_c], 1), *shared)[-1]
            outputs.append((1 - mask) * out + visible)
        return torch.stack(outputs, 1)


def check(path: str, tolerance: float = 1e-4) -> dict[str, dict[str, float]]:
    """Compare losses and updated parameters with the official step's.

    Raises:
      AssertionError: if the relative error of a loss exceeds `tolerance`.
    """
    arrays = dict(np.load(path))
    hyper = json.loads(str(arrays.pop("meta")))["hyper"]
    image, mask = (torch.from_numpy(arrays[f"in/{k}"]) for k in ("img", "mask"))
    peer = Picmm(hyper["ngf"], hyper["img_f"], image.shape[-1], hyper["k"], hyper["lr"])
    torch_nets.load(peer.nets, arrays)
    noise = [torch.from_numpy(arrays[f"in/{k}"]) for k in ("eps_encoder", "eps_hat")]
    losses = peer.step(2 * image - 1, mask, *noise)
    result = {}
    for name, loss in losses.items():
        official = float(arrays[f"out/loss_{name}"])
        result[name] = {"here": float(loss), "official": official}
        assert abs(float(loss) - official) <= tolerance * abs(official), (name, result)
    result["parameters after"] = {"largest difference": difference_after(peer, arrays)}
    return result


def difference_after(peer: Picmm, arrays) -> float:
    """Largest |difference| where the gradient is above rounding (1e-5)."""
    worst = 0.0
    for name, net in peer.nets.items():
        for key, value in net.state_dict().items():
            grad, after = (arrays.get(f"{a}/{name}/{key}") for a in ("grad", "after"))
            if after is not None and grad is not None:
                gap = np.abs(value.numpy() - after)[np.abs(grad) > 1e-5]
                worst = max(worst, float(gap.max(initial=0.0)))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fixture", help="train_step_official.npz")
    for name, row in check(parser.parse_args().fixture).items():
        print(name, *(f"{k} {v:.7g}" for k, v in row.items()))


if __name__ == "__main__":
    main()
