"""PICNet's and PICMM's networks in eager PyTorch, which the benchmarks compare with.

Written from the description of the published networks, with the official names, so that
official parameters load by `load_state_dict`. NCHW, images in [-1, 1], mask 1 = known.
"""

# pyright: reportMissingImports=false
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class SpectralNorm(nn.Module):
    """A convolution divided by its largest singular value, one power step per call.

    Each call differentiates with its own u and v; they are rebound, not overwritten.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d):
        super().__init__()
        weight = conv.weight
        del conv.weight
        self.module = conv
        rows, columns = weight.shape[0], weight[0].numel()
        conv.weight_bar = weight
        conv.register_buffer("weight_u", F.normalize(torch.randn(rows), dim=0))
        conv.register_buffer("weight_v", F.normalize(torch.randn(columns), dim=0))

    def weight(self, device: str) -> torch.Tensor:
        conv: Any = self.module
        with torch.autocast(device, enabled=False):
            matrix = conv.weight_bar.flatten(1)
            with torch.no_grad():
                v = F.normalize(matrix.mT @ conv.weight_u, dim=0, eps=1e-12)
                u = F.normalize(matrix @ v, dim=0, eps=1e-12)
            conv.weight_u, conv.weight_v = u, v
            return conv.weight_bar / (u @ (matrix @ v))

    def forward(self, x):
        conv: Any = self.module
        weight = self.weight(x.device.type)
        if isinstance(conv, nn.ConvTranspose2d):
            return F.conv_transpose2d(x, weight, conv.bias, 2, 1, 1)
        return F.conv2d(x, weight, conv.bias, 1, conv.padding)


def conv(inputs, outputs, kernel=3, padding=None):
    padding = kernel // 2 if padding is None else padding
    return SpectralNorm(nn.Conv2d(inputs, outputs, kernel, 1, padding))


def double(inputs, outputs):
    return SpectralNorm(nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1))


class FirstBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs), conv(outputs, outputs)
        self.bypass = conv(inputs, outputs, 1)

    def forward(self, x):
        y = self.conv2(F.leaky_relu(self.conv1(x), 0.1))
        return F.avg_pool2d(y, 2) + self.bypass(F.avg_pool2d(x, 2))


class Block(nn.Module):
    def __init__(self, inputs, outputs, hidden, down=False, slope=0.1):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, hidden), conv(hidden, outputs)
        self.bypass = conv(inputs, outputs, 1)
        self.down, self.slope = down, slope

    def forward(self, x):
        y = self.conv1(F.leaky_relu(x, self.slope))
        y = self.conv2(F.leaky_relu(y, self.slope))
        x = self.bypass(x)
        return F.avg_pool2d(y, 2) + F.avg_pool2d(x, 2) if self.down else y + x


class DecoderBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        norms = {"0": inputs, "3": outputs}
        self.model = nn.ModuleDict(
            {k: nn.InstanceNorm2d(n, affine=True) for k, n in norms.items()}
        )
        self.conv1 = conv(inputs, outputs)
        self.conv2, self.bypass = double(outputs, outputs), double(inputs, outputs)

    def forward(self, x):
        y = self.conv1(F.leaky_relu(self.model["0"](x), 0.1))
        y = self.conv2(F.leaky_relu(self.model["3"](y), 0.1))
        return y + self.bypass(x)


class Output(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.conv1 = conv(inputs, 3, padding=0)

    def forward(self, x):
        x = F.pad(F.leaky_relu(x, 0.1), (1, 1, 1, 1), "reflect")
        return torch.tanh(self.conv1(x))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query_conv = nn.Conv2d(width, width // 4, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.alpha = nn.Parameter(torch.zeros(1))
        self.model = Block(2 * width, width, width, slope=0.01)

    def forward(self, x, features=None, mask=1.0):
        query = self.query_conv(x).flatten(2)
        attention = torch.softmax(query.mT @ query, -1).mT
        own = self.gamma * (x.flatten(2) @ attention).view_as(x) + x
        if features is None:
            return own
        far = (features.flatten(2) @ attention).view_as(features)
        context = self.alpha * (1 - mask) * far + mask * features
        return self.model(torch.cat([own, context], 1))


class Trunk(nn.Module):
    """block0 and the halving blocks that encoder and discriminator share."""

    def __init__(self, ngf, img_f, layers):
        super().__init__()
        self.block0 = FirstBlock(3, ngf)
        widths = [min(ngf * 2**i, img_f) for i in range(layers)]
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"encoder{i}", Block(a, b, a, down=True))
        self.blocks = [f"encoder{i}" for i in range(layers - 1)]

    def features(self, x):
        found = [self.block0(x)]
        for name in self.blocks:
            found.append(self.get_submodule(name)(found[-1]))
        return found


class Encoder(Trunk):
    def __init__(self, ngf, img_f, layers, grid):
        super().__init__(ngf, img_f, layers)
        flat = img_f * grid * grid
        self.down_fc = nn.Sequential(nn.Linear(flat, flat), nn.LeakyReLU(0.2))

    def forward(self, visible, complement, eps):
        features = self.features(torch.cat([visible, complement]))
        pooled = F.avg_pool2d(F.avg_pool2d(features[-1], 2), 2)
        mu, log_std = self.down_fc(pooled.flatten(1)).chunk(2, 1)
        return mu + eps * log_std.exp(), mu, log_std, features


class ResEncoder(Trunk):
    """PICNet's encoder: prior of the visible part, posterior of the complement."""

    def __init__(self, ngf, img_f, layers, z_nc, depth):
        super().__init__(ngf, img_f, layers)
        self.depth = depth
        for i in range(depth):
            setattr(self, f"infer_prior{i}", Block(img_f, img_f, img_f))
        self.posterior = Block(img_f, 2 * z_nc, img_f)
        self.prior = Block(img_f, 2 * z_nc, img_f)

    def forward(self, visible, complement=None):
        x = visible if complement is None else torch.cat([visible, complement])
        features = self.features(x)
        seen = features[-1][: len(visible)]
        for i in range(self.depth):
            seen = self.get_submodule(f"infer_prior{i}")(seen)
        q = gaussian(self.prior(seen))
        if complement is None:
            return q, None, features
        return q, gaussian(self.posterior(features[-1][len(visible) :])), features


def gaussian(x):
    mu, raw = x.chunk(2, 1)
    return mu, F.softplus(raw)


class ResGenerator(nn.Module):
    def __init__(self, z_nc, ngf, img_f, layers, scales):
        super().__init__()
        self.layers, self.scales = layers, scales
        self.generator = Block(z_nc, img_f, img_f)
        width = img_f
        for i in range(layers):
            out = min(ngf * 2 ** (layers - 1 - i), img_f)
            setattr(self, f"decoder{i}", DecoderBlock(width, out))
            if i == 1:
                self.attn1 = Attention(out)
            width = out
            if i >= layers - scales:
                setattr(self, f"out{i}", Output(out))
                width += 3

    def forward(self, z, f_m, f_e, mask):
        x = f_m + self.generator(z)
        images = []
        for i in range(self.layers):
            x = getattr(self, f"decoder{i}")(x)
            if i == 1:
                x = self.attn1(x, f_e, mask)
            if i >= self.layers - self.scales:
                images.append(getattr(self, f"out{i}")(x))
                x = torch.cat([x, images[-1]], 1)
        return images


class Generator(ResGenerator):
    """PICMM's generator, which starts from a flat latent."""

    def __init__(self, ngf, img_f, layers, scales, grid):
        super().__init__(img_f, ngf, img_f, layers, scales)
        self.grid = grid
        self.up_convfc = nn.Sequential(nn.Conv2d(img_f, img_f, 3, 1, 1))

    def forward(self, z, f_m, f_e, mask):
        z = z.view(len(z), -1, self.grid, self.grid)
        for _ in range(2):
            z = F.leaky_relu(self.up_convfc(F.interpolate(z, scale_factor=2)), 0.2)
        return super().forward(z, f_m, f_e, mask)


class Discriminator(Trunk):
    def __init__(self, ndf, img_f, layers):
        super().__init__(ndf, img_f, layers)
        self.attn2 = Attention(min(ndf * 4, img_f))
        self.block1 = Block(img_f, img_f, img_f)
        self.conv = conv(img_f, 1, padding=0)

    def forward(self, x):
        x = self.block0(x)
        for i, name in enumerate(self.blocks):
            x = self.get_submodule(name)(self.attn2(x) if i == 2 else x)
        return self.conv(F.leaky_relu(self.block1(x), 0.1))


class DynamicGMM(nn.Module):
    def __init__(self, d, k):
        super().__init__()
        self.shape = (-1, k, d)
        self.alpha = self.head(d, d // 2, k)
        self.mu, self.sigma = (self.head(d, 2 * d, k * d) for _ in range(2))

    @staticmethod
    def head(inputs, hidden, outputs):
        layers = nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU()
        return nn.Sequential(*layers, nn.Linear(hidden, outputs))

    def forward(self, z_m, z_c=None):
        """With z_c, the official training call, whose outputs for z_c are discarded."""
        alpha = self.alpha(z_m).softmax(-1)
        mu, log_std = self.mu(z_m).view(self.shape), self.sigma(z_m).view(self.shape)
        if z_c is not None:
            self.mu(z_c)
            self.sigma(z_c)
        return alpha, mu, log_std


def resize(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def pyramid(x, scales):
    """x at 1/2**(scales-1) .. 1 of its size, bilinear with aligned corners."""
    h, w = x.shape[2:]
    sizes = [(h // 2**i, w // 2**i) for i in range(scales - 1, 0, -1)]
    return [resize(x, size) for size in sizes] + [x]


def decoder_inputs(features, mask, n):
    """f_m, f_e and the attention mask of the first n encoder inputs."""
    f_m, f_e = features[-1][:n], features[2][:n]
    return f_m, f_e, resize(mask[:, :1], f_e.shape[2:])


def adam(lr, *nets):
    """The official optimiser of these networks."""
    parameters = [p for net in nets for p in net.parameters()]
    return torch.optim.Adam(parameters, lr, (0.0, 0.999))


def below(arrays, prefix: str) -> dict[str, Any]:
    """The arrays whose names start with the prefix, under names without it."""
    n = len(prefix)
    return {name[n:]: x for name, x in arrays.items() if name.startswith(prefix)}


def load(nets: dict[str, nn.Module], arrays, separator: str = "/") -> None:
    """Load official parameters, `param/<net>/<name>`, strictly by name."""
    for name, net in nets.items():
        found = below(arrays, f"param/{name}{separator}")
        net.load_state_dict({k: torch.from_numpy(v) for k, v in found.items()})


def initialise(*nets: nn.Module) -> None:
    """Orthogonal weights of gain 0.02, wherever the official initialiser sets them."""
    modules: list[Any] = [m for net in nets for m in net.modules()]
    for module in modules:
        if isinstance(module, nn.Linear | nn.Conv2d) and hasattr(module, "weight"):
            nn.init.orthogonal_(module.weight, 0.02)
            nn.init.zeros_(module.get_parameter("bias"))
