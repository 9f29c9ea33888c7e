"""ImageNet-2012 (Russakovsky et al., 2015): 1.28 million photographs in 1,000 classes, by default at 224 x 224.

A folder `imagenet` contains `train` and `val` with one folder per class, as usually unpacked. The official validation
part serves as test data, and some images of each class are held out of the training part for validation. Decode the
photographs once with `python -m atoll.platform.workloads.imagenet FOLDER`: their shorter side is scaled to 256 pixels
and the central square kept, in arrays (262 GB in all) that ranks map into memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.methods.common.validation import require
from atoll.platform.workloads import packing
from atoll.platform.workloads.augmentation import rand_augment, random_erasing
from atoll.platform.workloads.cifar10 import Logits, center_crop, regularized_vit
from atoll.platform.workloads.regularization import ImageHyperparameters, VitHyperparameters, make_orthogonal
from atoll.platform.workloads.workload import (
    Classification,
    Data,
    DataMissing,
    Samples,
    find_file,
    require_library,
    require_models,
)

NAMES = ("imagenet", "ILSVRC2012", "imagenet-2012")
PARTS = ("train", "val")
SUFFIXES = (".jpeg", ".jpg", ".png")
SIDE, CROP = 256, 224
PATCH = 16  # ViT-B/16's
HELD_OUT = 20  # images per class for validation; at most a fifth of the class
MAX_AHEAD = 4096  # the most images that are decoded before they are written
# Channel statistics of the training images, as implementations of He et al. (2016) use them.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Random crops: their share of the image's area, and their aspect ratio (Szegedy et al., 2015).
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
HOW_TO_GET = (
    "Put ImageNet-2012 (image-net.org), unpacked into train and val with a folder for each class, in a folder named "
    "imagenet, and name the folder around it with the study's `data` or with ATOLL_DATA."
)


# Reading.


def read_image(file: Path) -> NDArray[np.uint8]:
    """The central square (3, 256, 256) of a photograph whose shorter side is scaled to 256 pixels."""
    from PIL import Image

    with Image.open(file) as image:
        scale = SIDE / min(image.size)
        size = [max(SIDE, round(side * scale)) for side in image.size]
        pixels = np.asarray(image.convert("RGB").resize((size[0], size[1]), Image.Resampling.BILINEAR))
    top, left = (pixels.shape[0] - SIDE) // 2, (pixels.shape[1] - SIDE) // 2
    return pixels[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1)


@dataclass(frozen=True)
class Listing:
    """The photographs of a part and their classes; those held out for validation come last."""

    files: list[Path]
    classes: NDArray[np.int64]
    num_held_out: int


def _folders(root: Path, part: str) -> list[Path]:
    folders = sorted(folder for folder in (root / part).glob("*") if folder.is_dir())
    if not folders:
        raise DataMissing(f"{root / part} contains no folders of classes. {HOW_TO_GET}")
    return folders


def listing(root: Path, part: str) -> Listing:
    """The contents of a part, sorted by class and name. Raises DataMissing."""
    folders = _folders(root, part)
    known = {folder.name: number for number, folder in enumerate(_folders(root, "train"))}
    if others := [folder.name for folder in folders if folder.name not in known]:
        raise DataMissing(f"{root / part} has classes that train does not have: {', '.join(others[:5])}. {HOW_TO_GET}")
    kept: list[tuple[Path, int]] = []
    held_out: list[tuple[Path, int]] = []
    for folder in folders:
        number = known[folder.name]
        files = [(file, number) for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES]
        cut = len(files) - (min(HELD_OUT, len(files) // 5) if part == "train" else 0)
        kept += files[:cut]
        held_out += files[cut:]
    everything = kept + held_out
    return Listing([file for file, _ in everything], np.array([c for _, c in everything]), len(held_out))


def packed(root: Path, part: str) -> Path:
    """The file of a part's decoded images."""
    return root / f"{part}.images.npy"


def pack(root: Path) -> None:
    """Decode each part on all cores into `PART.images.npy` and `PART.classes.npz`, atomically."""
    for part in PARTS:
        contents = listing(root, part)
        np.savez(root / f"{part}.classes.npz", classes=contents.classes, num_held_out=contents.num_held_out)
        packing.write(packed(root, part), _decoded(contents.files), (len(contents.files), 3, SIDE, SIDE), np.uint8)


def _decoded(files: list[Path]) -> Iterator[NDArray[np.uint8]]:
    """Images in order, decoded on all cores, ahead of their use by as many as fit into memory."""
    with ProcessPoolExecutor() as pool:
        for start in range(0, len(files), MAX_AHEAD):
            yield from pool.map(read_image, files[start : start + MAX_AHEAD], chunksize=64)


def read_part(root: Path, part: str) -> tuple[Samples, int]:
    """Images uint8 (n, 3, 256, 256), memory-mapped if packed, classes (n,), and the number held out.

    Raises:
        DataMissing: if there are too many to read without packing.
    """
    if packed(root, part).exists():
        images = packing.read(packed(root, part))
        with np.load(root / f"{part}.classes.npz", allow_pickle=False) as known:
            return Samples(torch.from_numpy(images), torch.from_numpy(known["classes"])), int(known["num_held_out"])
    contents = listing(root, part)
    packing.check_few(len(contents.files), f"images for {part}", root, "atoll.platform.workloads.imagenet")
    images = np.stack([read_image(file) for file in contents.files])
    return Samples(torch.from_numpy(images), torch.from_numpy(contents.classes)), contents.num_held_out


@cache
def load(root: Path) -> Data[Samples]:
    """The three parts."""
    (images, num_held_out), (test, _) = read_part(root, "train"), read_part(root, "val")
    cut = len(images) - num_held_out
    train, validation = (Samples(images.inputs[part], images.targets[part]) for part in (slice(cut), slice(cut, None)))
    return Data(train, validation, test)


# Augmentation.


def resized_crops(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Random rectangles of images (b, c, h, w) in [0, 1], half of them mirrored, resized to (b, c, side, side).

    The area is uniform in `AREA`, the aspect ratio log-uniform in `RATIO`, the position uniform (Szegedy et al., 2015);
    crops larger than the image are clipped to it. Interpolation is bilinear.
    """
    num, device = len(images), images.device

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, generator=generator, device=device)

    area, ratio = draw(*AREA), torch.exp(draw(float(np.log(RATIO[0])), float(np.log(RATIO[1]))))
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    # In the sampler's coordinates the image extends from -1 to 1 in both directions.
    x, y = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    mirrored = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros(num, device=device)
    maps = torch.stack([mirrored * width, zero, x, zero, height, y], dim=1).view(num, 2, 3)
    grid = nn.functional.affine_grid(maps, [num, images.shape[1], side, side], align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class ImageNetHyperparameters(ImageHyperparameters):
    """Regularization, and the size of the images.

    Attributes:
        image_size: pixels of each side of what the network gets, in training and evaluation (Coquelin 2024, table A.1:
            160).
    """

    image_size: int = CROP

    def __post_init__(self) -> None:
        super().__post_init__()
        require(32 <= self.image_size <= SIDE, f"image_size must be in 32..{SIDE}; got {self.image_size}")


@dataclass(frozen=True, kw_only=True)
class ImageNetResNetHyperparameters(ImageNetHyperparameters):
    """Of ResNet-50.

    Attributes:
        dropout: before the linear layer (Coquelin 2024, section A.2: 0.1).
    """

    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1); got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class ImageNetVitHyperparameters(VitHyperparameters, ImageNetHyperparameters):
    """Coquelin 2024, tables A.1 and A.6: labels smoothed by 0.1. A.1 adds RandAugment at 15 and erasing at 0.25."""

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image_size % PATCH == 0, f"image_size must be divisible by {PATCH}; got {self.image_size}")


def _center(images: Tensor, side: int) -> Tensor:
    """What is evaluated of images (b, c, 256, 256): their centers (b, c, side, side)."""
    center = center_crop(images, CROP)
    if side == CROP:
        return center
    return nn.functional.interpolate(center, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


class _ImageNet(Classification):
    Hyperparameters: ClassVar[type] = ImageNetHyperparameters
    epochs: ClassVar[int] = 90
    network: ClassVar[str]
    _num_classes = 1000

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing or LibraryMissing if the folder, a part, or a library it needs is absent."""
        root = find_file(NAMES, folder, HOW_TO_GET)
        require_models(self.network)
        for part in PARTS:
            if not packed(root, part).exists():
                require_library("PIL", "earth", "imagenet reads its photographs with pillow's")
                listing(root, part)

    def load(self, folder: Path | None) -> Data[Samples]:
        """Images uint8 (n, 3, 256, 256): training part, its held-out images, and the validation part."""
        data = load(find_file(NAMES, folder, HOW_TO_GET))
        self._num_classes = 1 + int(data.train.targets.max())
        return data

    def transform(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Random mirrored crops in training, otherwise the center; channels centered and scaled (b, 3, side, side).

        The center has 224 of the 256 pixels, and is resized to another `image_size`.
        """
        scaled, side = inputs.to(torch.float32) / 255, self.hyperparameters.image_size
        crops = _center(scaled, side) if generator is None else resized_crops(scaled, side, generator)
        mean, deviation = (torch.tensor(v, device=inputs.device).view(-1, 1, 1) for v in (MEAN, DEVIATION))
        return (crops - mean) / deviation if generator is None else self._augmented(crops, mean, deviation, generator)

    def _augmented(self, crops: Tensor, mean: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
        h = self.hyperparameters
        if h.rand_augment:
            crops = rand_augment(crops, h.rand_augment, generator)
        normalized = (crops - mean) / deviation
        return random_erasing(normalized, h.random_erasing, generator) if h.random_erasing else normalized


class ImageNetResNet50(_ImageNet):
    """ResNet-50 (He et al., 2016) on ImageNet-2012 (Coquelin 2024, tables 3.1 and 5.1)."""

    Hyperparameters: ClassVar[type] = ImageNetResNetHyperparameters
    summary: ClassVar[str] = "ImageNet-2012, ResNet-50 at 224 x 224"
    target: float | None = 0.75
    network: ClassVar[str] = "imagenet_resnet50"

    def model(self) -> nn.Module:
        """transformers' ResNet-50: 25,557,032 parameters for 1,000 classes."""
        from transformers import ResNetConfig, ResNetForImageClassification

        configuration = ResNetConfig()
        configuration.num_labels = self._num_classes
        network = ResNetForImageClassification(configuration)
        if self.hyperparameters.dropout:
            network.classifier.insert(1, nn.Dropout(self.hyperparameters.dropout))
        if self.hyperparameters.orthogonal:
            make_orthogonal(network)
        return Logits(network)


class ImageNetViTB16(_ImageNet):
    """ViT-B/16 (Dosovitskiy et al., 2021) on ImageNet-2012 (Coquelin 2024, tables 4.1 and 5.1)."""

    summary: ClassVar[str] = "ImageNet-2012, ViT-B/16 at 224 x 224, labels smoothed by 0.1"
    target: float | None = 0.70
    epochs: ClassVar[int] = 125
    Hyperparameters: ClassVar[type] = ImageNetVitHyperparameters
    network: ClassVar[str] = "imagenet_vit_b16"

    def model(self) -> nn.Module:
        """transformers' ViT-B/16, dropout 0.1 (Coquelin 2024, table A.1): 86,567,656 parameters for 1,000 classes."""
        from transformers import ViTConfig, ViTForImageClassification

        configuration = ViTConfig(hidden_dropout_prob=0.1, image_size=self.hyperparameters.image_size)
        configuration.num_labels = self._num_classes
        return regularized_vit(ViTForImageClassification(configuration), self.hyperparameters)


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
