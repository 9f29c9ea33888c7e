"""Augmentation of batches of images: RandAugment (Cubuk et al. 2020) and random erasing (Zhong et al. 2020).

Everything is drawn from an explicit generator, image by image, so a batch is augmented as its seed says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

GRAY = 128.0  # what lies outside an image
LUMA = (0.299, 0.587, 0.114)
# Of the image's area, and the aspect ratio, of a rectangle that is erased (timm's defaults, as in Coquelin 2024, A.2).
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)


def rand_augment(images: Tensor, magnitude: float, generator: torch.Generator, num_operations: int = 2) -> Tensor:
    """Apply operations, drawn uniformly for each image, to a batch (b, 3, h, w); uint8, or floating in [0, 1].

    Cubuk et al. 2020, algorithm 1, with their 14 operations. Strengths increase with the magnitude, in both directions:
    rotation to 30 degrees, shear to 0.3, translation to 0.45 of the side, brightness, contrast, color and sharpness by
    factors of 1 +- 0.9; posterization to 4 bits, solarization above a threshold that falls to 0 (`inc1` of timm). What
    a geometric operation brings in from outside is gray.

    Args:
        images: the batch.
        magnitude: 0 to 10; 9 in Coquelin 2024, table A.2.
        generator: on the images' device.
        num_operations: per image, one after the other.
    """
    is_floating = images.is_floating_point()
    x = images.float() * 255 if is_floating else images.float()
    for _ in range(num_operations):
        which = torch.randint(1 + len(_OPERATIONS), (len(x),), generator=generator, device=x.device)
        sign = 1 - 2 * torch.randint(2, (len(x),), generator=generator, device=x.device)
        strength = sign * (magnitude / 10)
        for number, operation in enumerate(_OPERATIONS, 1):  # 0 is the identity
            chosen = torch.nonzero(which == number).flatten()
            if len(chosen):
                x[chosen] = operation(x[chosen], strength[chosen].view(-1, 1, 1, 1))
    return (x / 255).to(images.dtype) if is_floating else x.round().clamp(0, 255).to(images.dtype)


def random_erasing(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Replace a random rectangle of each image with the given probability by normal noise, pixel by pixel.

    Zhong et al. 2020, algorithm 1, on images (b, c, h, w) that are centered and scaled. Rectangles that do not fit are
    drawn once more, by clipping them to the image.
    """
    num, _, height, width = images.shape

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, generator=generator, device=images.device)

    low, high = (torch.tensor(end).log().item() for end in ERASED_RATIO)
    area, ratio = draw(*ERASED_AREA) * height * width, draw(low, high).exp()
    h = (area * ratio).sqrt().round().clamp(1, height)
    w = (area / ratio).sqrt().round().clamp(1, width)
    top, left = (draw(0, 1) * (height - h + 1)).floor(), (draw(0, 1) * (width - w + 1)).floor()
    is_erased = draw(0, 1) < probability
    rows, columns = (torch.arange(side, device=images.device)[None] for side in (height, width))
    inside_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + w)[:, None])
    mask = (inside_rows[:, :, None] & inside_columns[:, None, :] & is_erased[:, None, None])[:, None]
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return torch.where(mask, noise, images)


# The operations: images (n, 3, h, w) in 0..255 and strengths (n, 1, 1, 1) in -1..1 -> images in 0..255.


def gray(x: Tensor) -> Tensor:
    """Luminance (n, 1, h, w)."""
    weights = torch.tensor(LUMA, device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def _blend(x: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """`other` at -1/0.9, the image at 0, and as far beyond it."""
    return (other + (1 + 0.9 * strength) * (x - other)).clamp(0, 255)


def brightness(x: Tensor, strength: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(x, torch.zeros_like(x), strength)


def contrast(x: Tensor, strength: Tensor) -> Tensor:
    """Blend with the mean luminance."""
    return _blend(x, gray(x).mean((2, 3), keepdim=True), strength)


def color(x: Tensor, strength: Tensor) -> Tensor:
    """Blend with the luminance."""
    return _blend(x, gray(x), strength)


def sharpness(x: Tensor, strength: Tensor) -> Tensor:
    """Blend with the image smoothed by 3x3 pixels; the border stays."""
    kernel = torch.ones(3, 1, 3, 3, device=x.device, dtype=x.dtype)
    kernel[:, :, 1, 1] = 5
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = nn.functional.conv2d(x, kernel / 13, groups=3)
    return _blend(x, smooth, strength)


def autocontrast(x: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0..255."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * 255 / (high - low).clamp(min=1e-6), x)


def equalize(x: Tensor, _: Tensor) -> Tensor:
    """Flatten each channel's histogram, by the rule of PIL's ImageOps.equalize."""
    values = x.round().clamp(0, 255).long().flatten(2)
    counts = torch.zeros(*values.shape[:2], 256, device=x.device, dtype=torch.long)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = (counts.sum(2, keepdim=True) - last) // 255
    before = counts.cumsum(2) - counts
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=x.device))
    return table.gather(2, values).view(x.shape).to(x.dtype)


def posterize(x: Tensor, strength: Tensor) -> Tensor:
    """Keep the 8 to 4 leading bits."""
    step = 2.0 ** (4 * strength.abs()).round()
    return (x.round() / step).floor() * step


def solarize(x: Tensor, strength: Tensor) -> Tensor:
    """Invert from a threshold on."""
    return torch.where(x >= 256 * (1 - strength.abs()), 255 - x, x)


def _warped(x: Tensor, maps: Tensor) -> Tensor:
    """The images through maps (n, 2, 3) from the output's coordinates, in -1..1, to the input's."""
    grid = nn.functional.affine_grid(maps, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x - GRAY, grid, align_corners=False) + GRAY


def _maps(strength: Tensor, *rows: tuple[Tensor | float, ...]) -> Tensor:
    flat = strength.flatten()
    entries = [torch.zeros_like(flat) + entry for row in rows for entry in row]
    return torch.stack(entries, 1).view(-1, 2, 3)


def rotate(x: Tensor, strength: Tensor) -> Tensor:
    """By up to 30 degrees."""
    angle, ratio = torch.deg2rad(30 * strength.flatten()), x.shape[2] / x.shape[3]
    cos, sin = angle.cos(), angle.sin()
    return _warped(x, _maps(strength, (cos, -sin * ratio, 0.0), (sin / ratio, cos, 0.0)))


def shear_x(x: Tensor, strength: Tensor) -> Tensor:
    """Horizontally, by up to 0.3."""
    return _warped(x, _maps(strength, (1.0, 0.3 * strength.flatten(), 0.0), (0.0, 1.0, 0.0)))


def shear_y(x: Tensor, strength: Tensor) -> Tensor:
    """Vertically, by up to 0.3."""
    return _warped(x, _maps(strength, (1.0, 0.0, 0.0), (0.3 * strength.flatten(), 1.0, 0.0)))


def translate_x(x: Tensor, strength: Tensor) -> Tensor:
    """Horizontally, by up to 0.45 of the width."""
    return _warped(x, _maps(strength, (1.0, 0.0, 0.9 * strength.flatten()), (0.0, 1.0, 0.0)))


def translate_y(x: Tensor, strength: Tensor) -> Tensor:
    """Vertically, by up to 0.45 of the height."""
    return _warped(x, _maps(strength, (1.0, 0.0, 0.0), (0.0, 1.0, 0.9 * strength.flatten())))


_OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    autocontrast,
    equalize,
    rotate,
    solarize,
    color,
    posterize,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
