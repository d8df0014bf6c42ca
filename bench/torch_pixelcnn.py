"""PixelCNN++ and its training step in eager PyTorch, the peer of bench.pixelcnn_step.

Written from the paper and the formulas of the published code, under the module names of
the PyTorch port, so that its weights can be converted. Dropout is element-wise, and the
optimiser's rate and moments are the published ones.
"""

# pyright: reportMissingImports=false
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

LEVELS = 3


def concat_elu(x):
    return F.elu(torch.cat([x, -x], 1))


def down(x):
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))


def right(x):
    return F.pad(x[..., :-1], (1, 0))


class Conv(nn.Module):
    """Reads its own row and those above; `right`: and no column to the right."""

    def __init__(self, cin, cout, kernel, stride=1, right=False):
        super().__init__()
        rows, columns = kernel
        side = (columns - 1) // 2
        self.pad = (*((columns - 1, 0) if right else (side, side)), rows - 1, 0)
        self.conv = weight_norm(nn.Conv2d(cin, cout, kernel, stride))

    def forward(self, x):
        return self.conv(F.pad(x, self.pad))


class Grow(nn.Module):
    """Doubles the size and crops the rest."""

    def __init__(self, features, columns):
        super().__init__()
        self.deconv = weight_norm(
            nn.ConvTranspose2d(features, features, (2, columns), 2)
        )

    def forward(self, x):
        y, (h, w) = self.deconv(x), x.shape[2:]
        left = y.shape[3] - 2 * w
        return y[:, :, : 2 * h, left : left + 2 * w]


class Nin(nn.Module):
    """A 1 x 1 convolution."""

    def __init__(self, cin, cout):
        super().__init__()
        self.lin_a = weight_norm(nn.Linear(cin, cout))

    def forward(self, x):
        return self.lin_a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Gated(nn.Module):
    """`aside`: channels of the further input, in multiples of `features`."""

    def __init__(self, features, right, aside, dropout):
        super().__init__()
        kernel = (2, 2) if right else (2, 3)
        self.conv_input = Conv(2 * features, features, kernel, right=right)
        if aside:
            self.nin_skip = Nin(2 * aside * features, features)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = Conv(2 * features, 2 * features, kernel, right=right)

    def forward(self, x, a=None):
        c = self.conv_input(concat_elu(x))
        if a is not None:
            c = c + self.nin_skip(concat_elu(a))
        value, gate = self.conv_out(self.dropout(concat_elu(c))).chunk(2, 1)
        return x + value * torch.sigmoid(gate)


class Level(nn.Module):
    """The gated blocks of one level of one pass, of both streams."""

    def __init__(self, features, count, aside, dropout):
        super().__init__()

        def stream(right, aside):
            made = [Gated(features, right, aside, dropout) for _ in range(count)]
            return nn.ModuleList(made)

        self.u_stream, self.ul_stream = stream(False, aside), stream(True, aside + 1)


class PixelCNN(nn.Module):
    """Logits [b m h w] of images [b 3 h w]."""

    def __init__(self, features, blocks, mixtures, dropout):
        super().__init__()
        f = features
        self.u_init = Conv(4, f, (2, 3))
        self.ul_init = nn.ModuleList(
            [Conv(4, f, (1, 3)), Conv(4, f, (2, 1), right=True)]
        )
        counts = [blocks] + [blocks + 1] * (LEVELS - 1)
        self.up_layers = nn.ModuleList(
            Level(f, blocks, 0, dropout) for _ in range(LEVELS)
        )
        self.down_layers = nn.ModuleList(Level(f, n, 1, dropout) for n in counts)
        between = range(LEVELS - 1)
        self.downsize_u_stream = nn.ModuleList(Conv(f, f, (2, 3), 2) for _ in between)
        self.downsize_ul_stream = nn.ModuleList(
            Conv(f, f, (2, 2), 2, right=True) for _ in between
        )
        self.upsize_u_stream = nn.ModuleList(Grow(f, 3) for _ in between)
        self.upsize_ul_stream = nn.ModuleList(Grow(f, 2) for _ in between)
        self.nin_out = Nin(f, 10 * mixtures)

    def forward(self, x):
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        us = [down(self.u_init(x))]
        uls = [down(self.ul_init[0](x)) + right(self.ul_init[1](x))]
        for i, level in enumerate(self.up_layers):
            for block_u, block_ul in zip(*level.children(), strict=True):
                us.append(block_u(us[-1]))
                uls.append(block_ul(uls[-1], us[-1]))
            if i < LEVELS - 1:
                us.append(self.downsize_u_stream[i](us[-1]))
                uls.append(self.downsize_ul_stream[i](uls[-1]))
        u, ul = us.pop(), uls.pop()
        for i, level in enumerate(self.down_layers):
            for block_u, block_ul in zip(*level.children(), strict=True):
                u = block_u(u, us.pop())
                ul = block_ul(ul, torch.cat([u, uls.pop()], 1))
            if i < LEVELS - 1:
                u, ul = self.upsize_u_stream[i](u), self.upsize_ul_stream[i](ul)
        return self.nin_out(F.elu(ul))


def port_names(net):
    """A network's tensors under the names of the older PyTorch that the port uses."""
    ends = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    named = {}
    for name, tensor in net.state_dict().items():
        for end, old in ends.items():
            name = name.replace(end, old)
        named[name] = tensor
    return named


def nll(x, logits):
    """Published likelihood of a batch [b 3 h w] in nats."""
    logits, x = logits.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
    k = logits.shape[-1] // 10
    rest = logits[..., k:].reshape(*x.shape, 3 * k)
    mean, log_scale, raw = rest.split(k, -1)
    log_scale = log_scale.clamp(min=-7.0)
    r_g, r_b, g_b = torch.tanh(raw).unbind(-2)
    red, green = x[..., 0:1], x[..., 1:2]
    moved = [torch.zeros_like(r_g), r_g * red, r_b * red + g_b * green]
    z = x[..., None] - (mean + torch.stack(moved, -2))
    inverse = torch.exp(-log_scale)
    upper, lower, middle = (inverse * (z + d / 255) for d in (1, -1, 0))
    difference = torch.sigmoid(upper) - torch.sigmoid(lower)
    density = middle - log_scale - 2 * F.softplus(middle) - math.log(127.5)
    inner = torch.where(
        difference > 1e-5, torch.log(difference.clamp(min=1e-12)), density
    )
    first, last = upper - F.softplus(upper), -F.softplus(lower)
    value = x[..., None]
    each = torch.where(
        value < -0.999, first, torch.where(value > 0.999, last, inner)
    ).sum(-2)
    weights = F.log_softmax(logits[..., :k], -1)
    return -torch.logsumexp(each + weights, -1).sum()


class Trainer:
    """Adam on the summed likelihood, with a decaying rate and averaged weights."""

    def __init__(self, net):
        self.nets = {"net": net}
        self.opt = torch.optim.Adam(net.parameters(), 1e-3, (0.95, 0.9995))
        self.rate = torch.optim.lr_scheduler.ExponentialLR(self.opt, 0.999995)
        self.average = [p.detach().clone() for p in net.parameters()]

    def step(self, x):
        net = self.nets["net"]
        loss = nll(x, net(x).float())
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        self.rate.step()
        with torch.no_grad():
            for average, p in zip(self.average, net.parameters(), strict=True):
                average.lerp_(p, 5e-4)
        return loss.detach()
