"""CIFAR-10 (Krizhevsky, 2009): 32x32 color images in ten classes, from the official binary archive or from a subset.

Images stay bytes until a batch needs them, so the full set takes 184 MB per rank in place of 737.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.platform.workloads.augmentation import rand_augment, random_erasing
from atoll.platform.workloads.regularization import (
    ImageHyperparameters,
    VitHyperparameters,
    add_drop_path,
    make_orthogonal,
)
from atoll.platform.workloads.split import stratified_split
from atoll.platform.workloads.workload import Classification, Data, Samples, find_file, require_models

NAMES = (
    "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz",
    "cifar10_subset.npz",
)
HOW_TO_GET = (
    "Put the official archive of CIFAR-10 (cs.toronto.edu/~kriz/cifar.html), binary version, packed or unpacked, in a "
    "folder, or cifar10_subset.npz with x_train uint8 (n, 32, 32, 3), y_train, x_test and y_test, and name that folder "
    "with the study's `data` or with ATOLL_DATA. The Python version is not read, as it consists of pickles, which can "
    "run code."
)
NUM_CLASSES, SIDE, CROP, PADDING = 10, 32, 28, 4
TRAIN_BATCHES, TEST_BATCH = [f"data_batch_{i}" for i in range(1, 6)], "test_batch"
VALIDATION_SHARE, SPLIT_SEED = 0.1, 0

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Images:
    """The data, and each channel's mean and deviation (3,) over the training pixels, scaled to [0, 1]."""

    data: Data[Samples]
    mean: Tensor
    deviation: Tensor


def read_binary(file: IO[bytes]) -> Part:
    """A batch of the binary version: rows of a one-byte label and a 3,072-byte image, channels first."""
    rows = np.frombuffer(file.read(), dtype=np.uint8).reshape(-1, 1 + 3 * SIDE * SIDE)
    return rows[:, 1:].reshape(-1, 3, SIDE, SIDE), rows[:, 0].astype(np.int64)


def _files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The name and the content of each batch in a folder or an archive."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            with file.open("rb") as opened:
                yield file.name, opened
        return
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                yield Path(member.name).name, content


def _read(path: Path) -> tuple[Part, Part]:
    """The training and test part, from whichever form `path` has."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as subset:
            return tuple(  # type: ignore[return-value]
                (subset[f"x_{part}"].transpose(0, 3, 1, 2), subset[f"y_{part}"].astype(np.int64))
                for part in ("train", "test")
            )
    wanted = {*TRAIN_BATCHES, TEST_BATCH}
    batches = {
        Path(name).stem: read_binary(content)
        for name, content in _files(path)
        if Path(name).suffix == ".bin" and Path(name).stem in wanted
    }
    if missing := sorted(wanted - set(batches)):
        raise ValueError(f"{path} must hold {', '.join([*TRAIN_BATCHES, TEST_BATCH])}; it lacks {', '.join(missing)}")
    train = [batches[name] for name in TRAIN_BATCHES]
    return (np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train])), batches[TEST_BATCH]


@cache
def load(path: Path) -> Images:
    """Read the data, and hold out a tenth of the training part for validation, stratified by class."""
    (images, labels), test = _read(path)
    train, validation = stratified_split(labels, VALIDATION_SHARE, SPLIT_SEED)
    train_images = images[train]
    parts = ((train_images, labels[train]), (images[validation], labels[validation]), test)
    mean, deviation = channel_statistics(train_images)
    return Images(
        Data(*(Samples(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y)) for x, y in parts)),
        mean=torch.from_numpy(mean).float(),
        deviation=torch.from_numpy(deviation).float(),
    )


def channel_statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation (3,) of the pixels of images (n, 3, h, w), scaled to [0, 1].

    Computed from a histogram, block by block, as the full set's pixels would take a gigabyte as floats.
    """
    histogram = np.zeros((3, 256))
    for block in np.array_split(images, 1 + len(images) // 1000):
        histogram += [np.bincount(block[:, channel].ravel(), minlength=256) for channel in range(3)]
    shares, values = histogram / histogram.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    return mean, np.sqrt(shares @ values**2 - mean**2)


def random_crops(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Crop a random square of `side` pixels from each image (b, c, h, w), and mirror half of them."""
    num, _, height, width = images.shape

    def draw(high: int) -> Tensor:
        return torch.randint(high, (num, 1), generator=generator, device=images.device)

    steps = torch.arange(side, device=images.device)
    rows, columns = draw(height - side + 1) + steps, draw(width - side + 1) + steps
    columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    which = torch.arange(num, device=images.device)[:, None, None]
    # Advanced indices on both sides of a slice come first: (b, side, side, c).
    return images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def center_crop(images: Tensor, side: int) -> Tensor:
    """The central square of `side` pixels of images (b, c, h, w)."""
    top, left = (images.shape[2] - side) // 2, (images.shape[3] - side) // 2
    return images[:, :, top : top + side, left : left + side]


class _Cifar10(Classification):
    epochs: ClassVar[int] = 30

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing if neither an archive nor the subset is present."""
        find_file(NAMES, folder, HOW_TO_GET)

    def load(self, folder: Path | None) -> Data[Samples]:
        """Images uint8 (n, 3, 32, 32): 90 % of the training part, 10 % for validation, and the test part."""
        self._images = load(find_file(NAMES, folder, HOW_TO_GET))
        return self._images.data

    def _normalized(self, images: Tensor) -> Tensor:
        mean, deviation = (v.to(images.device).view(3, 1, 1) for v in (self._images.mean, self._images.deviation))
        return (images.to(torch.float32) / 255 - mean) / deviation


class Cifar10Cnn7(_Cifar10):
    """The 7-layer convolutional network of Zhang 2016, section 4.1, on random crops and mirror images."""

    summary: ClassVar[str] = "CIFAR-10, 28x28 crops, the 7-layer convolutional network of EASGD's experiments"
    target: float | None = 0.79

    def transform(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Pixels in [0, 1]; random crops of 28x28 and mirror images in training, the center otherwise."""
        cut = center_crop(inputs, CROP) if generator is None else random_crops(inputs, CROP, generator)
        return cut.contiguous().to(torch.float32) / 255

    def model(self) -> nn.Module:
        """64 and 128 channels of 5x5, 64 of 3x3, two poolings, 256 units, dropout 0.5: 351,946 parameters."""
        return cnn7(64, 128, 64, 256)


def cnn7(first: int, second: int, third: int, hidden: int) -> nn.Module:
    """The network of Zhang 2016, section 4.1, for 28x28 images, with any numbers of channels and units; zero biases."""
    model = nn.Sequential(
        nn.Conv2d(3, first, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(second, third, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(third * 2 * 2, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, NUM_CLASSES),
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model


class Cifar10LowRank(_Cifar10):
    """The convolutional network with low-rank filters of Zhang 2016, section 6.1.2 (Tai et al., 2016), on whole images.

    The printed list repeats (128, 8, 8) before its third pair of filters; the surrounding shapes need no layer there.
    """

    summary: ClassVar[str] = "CIFAR-10, low-rank (5x1 then 1x5) convolutions, EASGD tree's experiments"
    target: float | None = 0.82

    def transform(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Pixels centered and scaled by each channel's mean and deviation over the training images."""
        return self._normalized(inputs)

    def model(self) -> nn.Module:
        """Ranks 10, 51, 51 for 96, 128, 256 channels, a 1x1 convolution to 64, 256 units, dropout 0.5."""
        return nn.Sequential(
            *_separable(3, 10, 96),
            *_separable(96, 51, 128),
            *_separable(128, 51, 256),
            nn.Conv2d(256, 64, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(64 * 4 * 4, 256),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(256, NUM_CLASSES),
        )


def _separable(num_in: int, rank: int, num_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(num_in, rank, (5, 1), padding=(2, 0)),
        nn.Conv2d(rank, num_out, (1, 5), padding=(0, 2)),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]


class _Padded(_Cifar10):
    """Whole images, shifted by up to 4 pixels and mirrored in training, centered and scaled by channel."""

    Hyperparameters: ClassVar[type] = ImageHyperparameters

    def transform(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """As the class describes; pixels from outside an image are black. Then RandAugment, and erasing in the end."""
        if generator is None:
            return self._normalized(inputs)
        h = self.hyperparameters
        inputs = random_crops(nn.functional.pad(inputs, (PADDING,) * 4), SIDE, generator)
        if h.rand_augment:
            inputs = rand_augment(inputs, h.rand_augment, generator)
        normalized = self._normalized(inputs)
        return random_erasing(normalized, h.random_erasing, generator) if h.random_erasing else normalized


class Cifar10Vgg16(_Padded):
    """VGG16 (Simonyan and Zisserman, 2015), batch-normalized, one linear layer (Coquelin 2024, section 5.3.2)."""

    summary: ClassVar[str] = "CIFAR-10, VGG16 with batch normalization, AB training's experiments"
    target: float | None = 0.9
    epochs: ClassVar[int] = 150

    def model(self) -> nn.Module:
        """13 convolutions of 64 to 512 channels: 14,724,042 parameters."""
        model = vgg16(64)
        if self.hyperparameters.orthogonal:
            make_orthogonal(model)
        return model


def vgg16(first: int) -> nn.Module:
    """VGG16 for 32x32 images, with `first` channels in its first block and eight times as many in its last."""
    layers: list[nn.Module] = []
    num_in = 3
    for factor, depth in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(num_in, factor * first, 3, padding=1, bias=False), nn.BatchNorm2d(factor * first)]
            layers += [nn.ReLU()]
            num_in = factor * first
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(num_in, NUM_CLASSES))


@dataclass(frozen=True, kw_only=True)
class MiniVitHyperparameters(VitHyperparameters):
    """Coquelin 2024, table A.2."""

    label_smoothing: float = 0.1
    rand_augment: float = 9.0
    random_erasing: float = 0.25
    drop_path: float = 0.2


class Cifar10MiniVit(_Padded):
    """The vision transformer of Coquelin 2024, section 4.4.4: ViT-B/16 with half its layers, heads and patch size.

    It is regularized as in table A.2, whose RandAugment is timm's, with a probability of 0.5 for each operation and a
    spread of the magnitude; ours always applies two. The table's crops scale images by 0.8 to 1; these only shift them.
    """

    Hyperparameters: ClassVar[type] = MiniVitHyperparameters

    summary: ClassVar[str] = "CIFAR-10, a vision transformer of 6 layers and width 768, OIALR's experiments"
    target: float | None = 0.83
    epochs: ClassVar[int] = 200

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing or LibraryMissing if the images or the library that has the network are absent."""
        super().check_data(folder)
        require_models("cifar10_mini_vit")

    def model(self) -> nn.Module:
        """Width 768, 6 heads, patches of 8x8: 42,684,682 parameters."""
        return regularized_vit(mini_vit(768).network, self.hyperparameters)


class Cifar10MiniVitSmall(Cifar10MiniVit):
    """The same network with width 96, for machines without GPUs; nothing regularizes it unless a study says so."""

    Hyperparameters: ClassVar[type] = VitHyperparameters

    summary: ClassVar[str] = "CIFAR-10, the vision transformer of OIALR's experiments with width 96"
    target: float | None = 0.6
    epochs: ClassVar[int] = 60

    def model(self) -> nn.Module:
        """Width 96, 6 heads, patches of 8x8: 690,730 parameters."""
        return regularized_vit(mini_vit(96).network, self.hyperparameters)


class Logits(nn.Module):
    """A transformers model whose output is its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, 32, 32) -> (b, 10)."""
        logits: Tensor = self.network(images).logits
        return logits


def regularized_vit(network: nn.Module, hyperparameters: VitHyperparameters) -> Logits:
    """transformers' ViT with drop path and an orthogonal start, if the hyperparameters say so."""
    if hyperparameters.drop_path:
        add_drop_path(cast("nn.ModuleList", network.get_submodule("vit.layers")), hyperparameters.drop_path)
    if hyperparameters.orthogonal:
        make_orthogonal(network)
    return Logits(network)


def mini_vit(width: int) -> Logits:
    """transformers' ViT with the settings of Coquelin 2024, table A.2, without drop path.

    It reads the dtype of its first weight, (width, 192), in every forward pass, so a low-rank method has to form it.
    """
    from transformers import ViTConfig, ViTForImageClassification

    configuration = ViTConfig(
        hidden_size=width,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=4 * width,
        image_size=SIDE,
        patch_size=8,
        qkv_bias=False,
    )
    configuration.num_labels = NUM_CLASSES
    return Logits(ViTForImageClassification(configuration))
