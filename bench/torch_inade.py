"""INADE's official training step and test in eager PyTorch, the peer of `bench.train`.

As in the official code, maps are one-hot tensors, instance-aware convolutions unfold
their input, each instance is averaged by itself, and the generator's step computes
gradients of the discriminator, too, which are discarded. There is no VGG19.

`python -m bench.torch_inade FIXTURE.npz` checks the step against the official one.
"""

# pyright: reportMissingImports=false
import argparse
import itertools
import json
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

from bench import torch_nets

# ---- maps ----


class Maps(NamedTuple):
    """A layout, [b _ h w]: one-hot labels and instances, edges, and the instance ids."""

    labels: torch.Tensor
    instances: torch.Tensor
    edges: torch.Tensor
    ids: torch.Tensor


def one_hot(ids, n):
    b, _, h, w = ids.shape
    return torch.zeros(b, n, h, w, device=ids.device).scatter_(1, ids, 1.0)


def edge_map(ids):
    """1 where the instance differs from one of the four neighbours'."""
    edges = torch.zeros_like(ids, dtype=torch.bool)
    for axis in (2, 3):
        n = ids.shape[axis] - 1
        differs = ids.narrow(axis, 1, n) != ids.narrow(axis, 0, n)
        for start in (0, 1):
            edges.narrow(axis, start, n).logical_or_(differs)
    return edges.float()


def prepare(label, instance, classes):
    """The maps of a batch, with as many instances as its largest id asks for."""
    instances = one_hot(instance, int(instance.max()) + 1)
    return Maps(
        one_hot(label, classes), instances, edge_map(instance), instance.float()
    )


# ---- generator ----


def look_up(table, maps):
    """The column of `table`, [c k] or [b c k], that each pixel of one-hot maps names."""
    y = torch.bmm(table.expand(len(maps), -1, -1), maps.flatten(2))
    return y.unflatten(2, maps.shape[2:])


class Norm(nn.Module):
    """INADE's normalisation: tables per class, applied to the noise of each instance."""

    def __init__(self, channels, classes, noise_nc):
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.weight = nn.Parameter(torch.rand(classes, channels, 2))
        self.bias = nn.Parameter(torch.zeros(classes, channels, 2))
        self.fc_noise = nn.Linear(noise_nc, channels)

    def forward(self, x, maps, noise):
        x = self.param_free_norm(x)
        labels = F.interpolate(maps.labels, x.shape[2:])
        instances = F.interpolate(maps.instances, x.shape[2:])
        style = self.fc_noise(noise)
        scale, shift = (
            look_up(self.weight[..., i].mT, labels)
            * look_up(style[:, :, i].mT, instances)
            + look_up(self.bias[..., i].mT, labels)
            for i in range(2)
        )
        return scale * x + shift


class Block(nn.Module):
    def __init__(self, inputs, outputs, *norm):
        super().__init__()
        hidden = min(inputs, outputs)
        self.norm_0, self.norm_1 = Norm(inputs, *norm), Norm(hidden, *norm)
        self.conv_0 = spectral_norm(nn.Conv2d(inputs, hidden, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(hidden, outputs, 3, padding=1))
        self.projects = inputs != outputs
        if self.projects:
            self.norm_s = Norm(inputs, *norm)
            self.conv_s = spectral_norm(nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x, maps, noise):
        y = self.conv_0(F.leaky_relu(self.norm_0(x, maps, noise), 0.2))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, maps, noise), 0.2))
        if self.projects:
            x = self.conv_s(self.norm_s(x, maps, noise))
        return x + y


FACTORS = {"head_0": 16, "G_middle_0": 16, "G_middle_1": 16}
FACTORS |= {"up_0": 8, "up_1": 4, "up_2": 2, "up_3": 1}


class Generator(nn.Module):
    """SPADE's trunk with five doublings, from a latent and the noise of each instance."""

    def __init__(self, size, width, classes, noise_nc, z_dim):
        super().__init__()
        self.shape = (-1, 16 * width, size // 32, size // 32)
        self.fc = nn.Linear(z_dim, 16 * width * (size // 32) ** 2)
        a = 16
        for name, b in FACTORS.items():
            block = Block(a * width, b * width, classes, noise_nc)
            self.add_module(name, block)
            a = b
        self.conv_img = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latent, maps, noise):
        x = self.fc(latent).view(self.shape)
        for name in FACTORS:
            x = self.get_submodule(name)(x, maps, noise)
            if name not in ("G_middle_0", "up_3"):
                x = F.interpolate(x, scale_factor=2)
        return torch.tanh(self.conv_img(F.leaky_relu(x, 0.2)))


# ---- instance encoder ----


class InstanceConv(nn.Conv2d):
    """A 3 x 3 convolution whose taps count only inside the centre's instance."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, 3, stride, 1)

    def forward(self, x, ids):
        (b, c, h, w), stride = x.shape, self.stride[0]
        unfold: Any = nn.Unfold(3, padding=1, stride=stride)
        ids = unfold(F.interpolate(ids, (h, w)))
        inside = (ids == ids[:, 4:5]).to(x.dtype)
        taps = unfold(x).view(b, c, 9, -1) * inside[:, None]
        kernel = self.weight.flatten(1).expand(b, -1, -1)
        assert self.bias is not None
        y = torch.bmm(kernel, taps.flatten(1, 2)) + self.bias[:, None]
        return y.view(b, -1, h // stride, w // stride)


def instance_mean(x, instances):
    """Mean over each instance's pixels, one instance after the other: [b i c]."""
    rows = []
    for mask in instances.split(1, 1):
        count = mask.sum((2, 3)).clamp(min=1)
        rows.append((x * mask).sum((2, 3)) / count)
    return torch.stack(rows, 1)


class InstanceEncoder(nn.Module):
    """Mean and log-variance of the scale's and of the shift's noise, per instance."""

    heads = ("scale_conv_mu", "scale_conv_var", "bias_conv_mu", "bias_conv_var")

    def __init__(self, width, channels):
        super().__init__()
        factors = (1, 2, 4, 8)
        self.layer1 = InstanceConv(3, width, 2)
        for i, (a, b) in enumerate(itertools.pairwise(factors), 2):
            self.add_module(f"layer{i}", InstanceConv(a * width, b * width, 2))
        self.middle = InstanceConv(8 * width, 4 * width)
        for i, (a, b) in enumerate([(8, 2), (4, 1), (2, 1)], 1):
            self.add_module(f"up{i}", InstanceConv(a * width, b * width))
        for name in self.heads:
            self.add_module(name, InstanceConv(width, channels))

    def forward(self, image, maps):
        def layer(name, x):
            x = F.instance_norm(self.get_submodule(name)(x, maps.ids))
            return F.leaky_relu(x, 0.2)

        def double(x):
            return F.interpolate(x, scale_factor=2, mode="bilinear")

        x, skips = image, []
        for i in range(1, 5):
            x = layer(f"layer{i}", x)
            skips.append(x)
        x = double(layer("middle", skips.pop()))
        for i in range(1, 4):
            x = double(layer(f"up{i}", torch.cat([x, skips.pop()], 1)))
        found = (self.get_submodule(name)(x, maps.ids) for name in self.heads)
        return [instance_mean(x, maps.instances) for x in found]


# ---- discriminator ----


class Patch(nn.Module):
    """A PatchGAN that returns the output of every layer, the logits last."""

    def __init__(self, inputs, width):
        super().__init__()
        first = nn.Conv2d(inputs, width, 4, 2, 2)
        self.model0 = nn.Sequential(first, nn.LeakyReLU(0.2))
        for i in range(1, 4):
            a, b = width * 2 ** (i - 1), width * 2**i
            conv = nn.Conv2d(a, b, 4, 1 if i == 3 else 2, 2, bias=False)
            inner = nn.Sequential(spectral_norm(conv), nn.InstanceNorm2d(b))
            self.add_module(f"model{i}", nn.Sequential(inner, nn.LeakyReLU(0.2)))
        self.model4 = nn.Sequential(nn.Conv2d(8 * width, 1, 4, 1, 2))

    def forward(self, x):
        found = []
        for name in (f"model{i}" for i in range(5)):
            x = self.get_submodule(name)(x)
            found.append(x)
        return found


class Discriminator(nn.Module):
    """Two PatchGANs, the second at half the size."""

    def __init__(self, inputs, width):
        super().__init__()
        self.discriminator_0 = Patch(inputs, width)
        self.discriminator_1 = Patch(inputs, width)

    def forward(self, x):
        half = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return [self.discriminator_0(x), self.discriminator_1(half)]


# ---- the method ----


def initialise(*nets):
    """Xavier of gain 0.02 where there is no spectral norm, and no bias."""
    for module in (m for net in nets for m in net.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            if isinstance(module.weight, nn.Parameter):
                nn.init.xavier_normal_(module.weight, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def divergence(mu, log_var):
    """KL from N(0, 1), summed over everything."""
    return -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()


def over_scales(loss, outputs):
    """A loss of logits, averaged over the scales."""
    return torch.stack([loss(found[-1]) for found in outputs]).mean()


class Inade:
    """Networks and optimisers, as published for 256 px and CelebAMask-HQ."""

    def __init__(
        self,
        size=256,
        ngf=64,
        ndf=64,
        classes=19,
        noise_nc=64,
        z_dim=256,
        lr=2e-4,
        device="cpu",
    ):
        self.classes, self.noise_nc, self.z_dim = classes, noise_nc, z_dim
        self.G = Generator(size, ngf, classes, noise_nc, z_dim)
        self.E = InstanceEncoder(ngf, noise_nc)
        self.D = Discriminator(classes + 1 + 3, ndf)
        self.nets = {"G": self.G, "IE": self.E, "D": self.D}
        initialise(*self.nets.values())
        for net in self.nets.values():
            net.to(device)
        owned = [*self.G.parameters(), *self.E.parameters()]
        self.opt_g = torch.optim.Adam(owned, lr / 2, (0.0, 0.9))
        self.opt_d = torch.optim.Adam(self.D.parameters(), 2 * lr, (0.0, 0.9))

    def draw(self, maps):
        """Standard normal noise: of the first layer, and of each instance."""
        (b, n), device = maps.instances.shape[:2], maps.instances.device
        latent = torch.randn(b, self.z_dim, device=device)
        return latent, torch.randn(b, n, 2, self.noise_nc, device=device)

    def generate(self, image, maps, draw):
        """Images in the styles of `image`, and the divergence of the styles."""
        latent, noise = draw
        statistics = self.E(image, maps)
        mu = torch.stack(statistics[::2], 2)
        log_var = torch.stack(statistics[1::2], 2)
        noise = noise * (0.5 * log_var).exp() + mu
        return self.G(latent, maps, noise), divergence(mu, log_var) / 2

    def judge(self, maps, fake, real):
        """All layers' outputs at each scale, of fake and of real images."""
        semantics = torch.cat([maps.labels, maps.edges], 1)
        pairs = [torch.cat([semantics, image], 1) for image in (fake, real)]
        outputs = self.D(torch.cat(pairs))
        halves = [[x.chunk(2) for x in found] for found in outputs]
        return [[[x[i] for x in found] for found in halves] for i in range(2)]

    def step(self, image, label, instance, draws=None, perceptual=None):
        """One official step.

        Images are in [-1, 1], [b 3 h w], maps integers, [b 1 h w].
        """
        maps = prepare(label, instance, self.classes)
        draws = draws or [self.draw(maps) for _ in range(2)]
        fake, kl = self.generate(image, maps, draws[0])
        on_fake, on_real = self.judge(maps, fake, image)
        matched = zip(on_fake, on_real, strict=True)
        g_losses = {
            "KLD": 0.05 * kl,
            "GAN": over_scales(lambda x: -x.mean(), on_fake),
            "GAN_Feat": 5 * sum(F.l1_loss(a[3], b[3].detach()) for a, b in matched),
        }
        if perceptual:
            g_losses["VGG"] = perceptual(fake, image)
        self.update(self.opt_g, g_losses)
        with torch.no_grad():
            fake, _ = self.generate(image, maps, draws[1])
        on_fake, on_real = self.judge(maps, fake, image)
        d_losses = {
            "D_Fake": over_scales(lambda x: F.relu(1 + x).mean(), on_fake),
            "D_real": over_scales(lambda x: F.relu(1 - x).mean(), on_real),
        }
        self.update(self.opt_d, d_losses)
        return {name: x.detach() for name, x in {**g_losses, **d_losses}.items()}

    def update(self, optimiser, losses):
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()

    @torch.no_grad()
    def complete(self, image, label, instance, n):
        """The official test with styles of the prior: one generator pass per draw."""
        del image
        maps = prepare(label, instance, self.classes)
        self.G.eval()
        images = []
        for latent, noise in (self.draw(maps) for _ in range(n)):
            images.append(self.G(latent, maps, noise))
        self.G.train()
        return torch.stack(images, 1)


# ---- check ----


def narrow_perceptual(tensors):
    """The perceptual loss of a fixture, by a narrow network with VGG19's layers."""
    layers: dict[int, Any] = {}
    for name, x in tensors.items():
        _, index, kind = name.split(".")
        layers.setdefault(int(index), {})[kind] = torch.from_numpy(x)

    def features(x):
        for i in range(30):
            if i in layers:
                x = F.conv2d(x, **layers[i], padding=1)
            elif i in (4, 9, 18, 27):
                x = F.max_pool2d(x, 2)
            else:
                x = F.relu(x)
            if i in (20, 29):
                yield x

    def loss(fake, real):
        pairs = zip((0.25, 1.0), features(fake), features(real), strict=True)
        return 10 * sum(weight * F.l1_loss(a, b) for weight, a, b in pairs)

    return loss


def check(path: str, tolerance: float = 1e-4) -> dict[str, dict[str, float]]:
    """Compare the losses with the official step's.

    The discriminator's are those on images of the updated generator.

    Raises:
      AssertionError: if the relative error of a loss exceeds `tolerance`.
    """
    arrays = dict(np.load(path))
    hyper = json.loads(str(arrays.pop("meta")))["hyper"]
    names = ("noise_nc", "z_dim", "lr")
    peer = Inade(
        hyper["crop_size"],
        hyper["ngf"],
        hyper["ndf"],
        hyper["label_nc"] + hyper["contain_dontcare_label"],
        *(hyper[name] for name in names),
    )
    torch_nets.load(peer.nets, arrays)
    given = {k: torch.from_numpy(x) for k, x in torch_nets.below(arrays, "in/").items()}
    draws = [(given[f"{p}_noise_ins"], given[f"{p}_noise"]) for p in "gd"]
    maps = given["label"].long(), given["instance"].long()
    perceptual = narrow_perceptual(torch_nets.below(arrays, "param/vgg/"))
    expected = torch_nets.below(arrays, "out/g_loss/")
    expected |= torch_nets.below(arrays, "out/d_loss/")
    result = {}
    for name, loss in peer.step(given["image"], *maps, draws, perceptual).items():
        official = float(expected[name].reshape(()))
        result[name] = {"here": float(loss), "official": official}
        assert abs(float(loss) - official) <= tolerance * abs(official), result
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fixture", help="train_step.npz")
    for name, row in check(parser.parse_args().fixture).items():
        print(name, *(f"{k} {v:.7g}" for k, v in row.items()))


if __name__ == "__main__":
    main()
