"""Residual networks (He et al., 2016) with any activation, in the five block orders of Coquelin 2024, figure 6.2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

EXPANSION = 4


class Exponential(nn.Module):
    """exp(x)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply exp elementwise."""
        return inputs.exp()


# Coquelin 2024, table 6.1; hard sigmoid and swish are torch's, softmax is over channels.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "exponential": Exponential,
    "hard_sigmoid": nn.Hardsigmoid,
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}
ORDERS = (
    "original",
    "bn_after_addition",
    "activation_before_addition",
    "activation_only_preactivation",
    "full_preactivation",
)
Convolution = tuple[int, int, int, int]  # channels in and out, kernel, stride


class Block(nn.Module):
    """y = after(branch(x) + shortcut(x)); `order` places activation and batch normalization (figure 6.2).

    Args:
        convolutions: the branch's convolutions: channels in and out, kernel, stride.
        order: one of ORDERS.
        activation: a name in ACTIVATIONS.
    """

    def __init__(self, convolutions: Sequence[Convolution], order: str, activation: str) -> None:
        super().__init__()
        num_in, num_out = convolutions[0][0], convolutions[-1][1]
        stride = max(convolution[3] for convolution in convolutions)
        make = ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        for number, convolution in enumerate(convolutions, 1):
            before, after = nn.BatchNorm2d(convolution[0]), nn.BatchNorm2d(convolution[1])
            convolve, is_last = _convolution(convolution), number == len(convolutions)
            if order == "full_preactivation":
                layers += [before, make(), convolve]
            elif order == "activation_only_preactivation":
                layers += [make(), convolve, after]
            elif order == "bn_after_addition" and is_last:
                layers += [convolve]
            elif order == "original" and is_last:
                layers += [convolve, after]
            else:
                layers += [convolve, after, make()]
        self.branch = nn.Sequential(*layers)
        afterwards = {"original": [make()], "bn_after_addition": [nn.BatchNorm2d(num_out), make()]}
        self.after = nn.Sequential(*afterwards.get(order, []))
        self.shortcut: nn.Module = nn.Identity()
        if num_in != num_out or stride != 1:
            self.shortcut = nn.Sequential(_convolution((num_in, num_out, 1, stride)), nn.BatchNorm2d(num_out))

    def forward(self, inputs: Tensor) -> Tensor:
        """(b, channels in, h, w) -> (b, channels out, h / stride, w / stride)."""
        summed: Tensor = self.branch(inputs) + self.shortcut(inputs)
        result: Tensor = self.after(summed)
        return result


def resnet(
    *,
    num_in: int,
    num_out: int,
    filters: int,
    depths: Sequence[int],
    order: str,
    activation: str,
    bottleneck: bool,
    large: bool,
) -> nn.Sequential:
    """Make a residual network for images.

    Args:
        num_in, num_out: the numbers of image channels and of outputs.
        filters: channels of the first stage; each later stage has twice as many as the one before.
        depths: blocks per stage.
        order, activation: see Block.
        bottleneck: three convolutions per block, as in ResNet-50, in place of two.
        large: ImageNet's stem, 7x7 with stride 2 and pooling, in place of 3x3.
    """
    make = ACTIVATIONS[activation]
    kernel, stride = (7, 2) if large else (3, 1)
    layers: list[nn.Module] = [_convolution((num_in, filters, kernel, stride))]
    if order not in ORDERS[3:]:
        layers += [nn.BatchNorm2d(filters), make()]
    layers += [nn.MaxPool2d(3, 2, 1)] if large else []
    width = filters
    for stage, depth in enumerate(depths):
        inner = filters * 2**stage
        for number in range(depth):
            step = 2 if stage and not number else 1
            outer = inner * EXPANSION if bottleneck else inner
            convolutions = [(width, inner, 3, step), (inner, inner, 3, 1)]
            if bottleneck:
                convolutions = [(width, inner, 1, 1), (inner, inner, 3, step), (inner, outer, 1, 1)]
            layers.append(Block(convolutions, order, activation))
            width = outer
    if order in ORDERS[3:]:
        layers += [nn.BatchNorm2d(width), make()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_out))


def _convolution(convolution: Convolution) -> nn.Conv2d:
    num_in, num_out, kernel, stride = convolution
    return nn.Conv2d(num_in, num_out, kernel, stride, padding=kernel // 2, bias=False)


# The losses of Coquelin 2024, table 6.1, as in Keras, of logits against targets (b, classes) of zeros and ones.


def binary_crossentropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the sigmoid, mean over classes and samples."""
    return nn.functional.binary_cross_entropy_with_logits(logits, targets)


def categorical_crossentropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum_c t_c log softmax(z)_c."""
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def categorical_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 + max_c (1 - t_c) z_c - sum_c t_c z_c)."""
    negative = ((1 - targets) * logits).amax(dim=1)
    return (1 + negative - (targets * logits).sum(dim=1)).clamp(min=0).mean()


def hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 - (2t - 1) z), mean over classes and samples."""
    return (1 - (2 * targets - 1) * logits).clamp(min=0).mean()


def squared_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 - (2t - 1) z)^2, mean over classes and samples."""
    return (1 - (2 * targets - 1) * logits).clamp(min=0).square().mean()


def kl_divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """KL(t / |t| || softmax(z)): the targets as a distribution, as they are with one class per sample."""
    shares = targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
    entropy: Tensor = torch.special.entr(shares).sum(dim=1).mean()
    return (categorical_crossentropy(logits, shares) - entropy).clamp(min=0)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary_crossentropy": binary_crossentropy,
    "categorical_crossentropy": categorical_crossentropy,
    "categorical_hinge": categorical_hinge,
    "hinge": hinge,
    "kl_divergence": kl_divergence,
    "squared_hinge": squared_hinge,
}
