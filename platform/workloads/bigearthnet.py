"""BigEarthNet-S2 (Sumbul et al., 2019, 2021): Sentinel-2 patches of 1.2 km, labeled with 19 classes of land cover.

The data folder contains one folder per patch, with a GeoTIFF per band and `*_labels_metadata.json`, and the official
splits train.csv, val.csv and test.csv, which list the names of patches. The 20 m bands are upsampled to 10 m by bicubic
interpolation; the 60 m bands are left out (Sumbul et al., 2020). The full data set has half a million patches: pack
them once with `python -m atoll.platform.workloads.bigearthnet FOLDER` into arrays that ranks map into memory.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.methods.method import MetricDirections
from atoll.platform.workloads import packing
from atoll.platform.workloads.architecture import ArchitectureHyperparameters
from atoll.platform.workloads.residual import LOSSES, resnet
from atoll.platform.workloads.workload import Data, DataMissing, Samples, Workload, find_file, require_library
from atoll.searchspaces.bigearthnet_nas import SPACE
from atoll.searchspaces.space import SearchSpace

BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
SIDE = 120
SPLITS = ("train", "val", "test")
NAMES = ("bigearthnet", "BigEarthNet-v1.0", "BigEarthNet-S2-v1.0")
MAX_MEASURED = 4096  # the most patches that means and deviations are computed from
HOW_TO_GET = (
    "Put BigEarthNet-S2 (bigearth.net), unpacked, with train.csv, val.csv and test.csv of its splits, in a folder "
    "named bigearthnet, and name the folder around it with the study's `data` or with ATOLL_DATA."
)
# The 19 classes and the CORINE level-3 classes of each (Sumbul et al., 2021, table II); eleven more are dropped.
NOMENCLATURE = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
CLASSES = tuple(NOMENCLATURE)
DROPPED = (
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Bare rock",
    "Burnt areas",
    "Intertidal flats",
)
_CLASS_OF = {corine: number for number, name in enumerate(CLASSES) for corine in NOMENCLATURE[name]}


def targets_of(labels: list[str], patch: str) -> NDArray[np.uint8]:
    """Multi-hot classes (19,) of CORINE labels. Raises ValueError for a label outside the nomenclature."""
    classes = np.zeros(len(CLASSES), dtype=np.uint8)
    for label in labels:
        if label in _CLASS_OF:
            classes[_CLASS_OF[label]] = 1
        elif label not in DROPPED:
            raise ValueError(f"{patch}: {label!r} is none of the 43 CORINE classes of BigEarthNet")
    return classes


def read_bands(folder: Path) -> NDArray[np.uint16]:
    """The bands (10, 120, 120) of a patch."""
    from PIL import Image

    bands = np.empty((len(BANDS), SIDE, SIDE), dtype=np.uint16)
    for number, band in enumerate(BANDS):
        with Image.open(folder / f"{folder.name}_{band}.tif") as image:
            values = Image.fromarray(np.asarray(image).astype(np.float32))
        if values.size != (SIDE, SIDE):
            values = values.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        bands[number] = np.clip(np.rint(np.asarray(values)), 0, 65535)
    return bands


def read_classes(folder: Path) -> NDArray[np.uint8]:
    """The classes (19,) of a patch."""
    labels = json.loads((folder / f"{folder.name}_labels_metadata.json").read_text())["labels"]
    return targets_of(labels, folder.name)


def patches_of(root: Path, split: str) -> list[str]:
    """The names of a split's patches, in the order of its file."""
    file = root / f"{split}.csv"
    if not file.exists():
        raise DataMissing(f"{file} is missing; the official splits name the patches of each part. {HOW_TO_GET}")
    return [line.strip().split(",")[0] for line in file.read_text().splitlines() if line.strip()]


def pack(root: Path) -> None:
    """Write each split's patches into `SPLIT.images.npy` and `SPLIT.classes.npy`, atomically."""
    for split in SPLITS:
        names = patches_of(root, split)
        shape = (len(names), len(BANDS), SIDE, SIDE)
        np.save(root / f"{split}.classes.npy", np.stack([read_classes(root / name) for name in names]))
        packing.write(root / f"{split}.images.npy", (read_bands(root / name) for name in names), shape, np.uint16)


def read_split(root: Path, split: str) -> Samples:
    """Images uint16 (n, 10, 120, 120), memory-mapped if packed, and classes (n, 19)."""
    packed = root / f"{split}.images.npy"
    if packed.exists():
        images = packing.read(packed)
        classes = np.load(root / f"{split}.classes.npy")
    else:
        names = patches_of(root, split)
        packing.check_few(len(names), f"patches for {split}", root, "atoll.platform.workloads.bigearthnet")
        images = np.stack([read_bands(root / name) for name in names])
        classes = np.stack([read_classes(root / name) for name in names])
    return Samples(torch.from_numpy(images), torch.from_numpy(classes.astype(np.float32)))


@cache
def load(root: Path) -> tuple[Data[Samples], Tensor, Tensor]:
    """The data, and each band's mean and deviation (10,) over up to 4,096 training patches."""
    data = Data(*(read_split(root, split) for split in SPLITS))
    subset = data.train.inputs[:: 1 + len(data.train) // MAX_MEASURED].to(torch.float32)
    deviation = subset.std(dim=(0, 2, 3))
    return data, subset.mean(dim=(0, 2, 3)), torch.where(deviation > 0, deviation, torch.ones_like(deviation))


class BigEarthNet(Workload):
    """Multi-label classification of ten bands by a ResNet-50 whose parts are searched (Coquelin 2024, chapter 6)."""

    Hyperparameters: ClassVar[type] = ArchitectureHyperparameters
    search_space: ClassVar[SearchSpace] = SPACE
    summary: ClassVar[str] = "BigEarthNet-S2, 19 classes of land cover, a residual network with a searched architecture"
    metric: ClassVar[str] = "micro_f1"
    metric_directions: ClassVar[MetricDirections] = {"macro_f1": "maximize"}
    epochs: ClassVar[int] = 30

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing or LibraryMissing if the folder, a split or the library that reads patches is absent."""
        root = find_file(NAMES, folder, HOW_TO_GET)
        require_library("PIL", "earth", "bigearthnet reads its patches with pillow's")
        for split in SPLITS:
            patches_of(root, split)

    def load(self, folder: Path | None) -> Data[Samples]:
        """Bands uint16 (n, 10, 120, 120) and classes (n, 19) of the official splits."""
        data, self._mean, self._deviation = load(find_file(NAMES, folder, HOW_TO_GET))
        return data

    def transform(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Center and scale each band; no augmentation (Coquelin 2024, section 6.2)."""
        mean, deviation = (v.to(inputs.device).view(-1, 1, 1) for v in (self._mean, self._deviation))
        return (inputs.to(torch.float32) - mean) / deviation

    def model(self) -> nn.Module:
        """ResNet-50: its stem, and stages of 3, 4, 6 and 3 bottlenecks."""
        h = self.hyperparameters
        return resnet(
            num_in=len(BANDS),
            num_out=len(CLASSES),
            filters=h.filters,
            depths=(3, 4, 6, 3),
            order=h.order,
            activation=h.activation,
            bottleneck=True,
            large=True,
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The searched loss of logits (b, 19) against classes (b, 19)."""
        return LOSSES[self.hyperparameters.loss](outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The micro F1 score of a batch; `scores` computes that of all data from counts."""
        return torch.tensor(self.scores(self.totals(outputs, targets))["micro_f1"], dtype=torch.float64)

    @property
    def num_totals(self) -> int:
        """The loss, the samples, and true positives, false positives and false negatives of each class."""
        return 2 + 3 * len(CLASSES)

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Summed loss, samples, and counts of each class; a logit above 0 predicts its class."""
        predicted, real = outputs > 0, targets > 0.5
        counts = [(predicted & real).sum(dim=0), (predicted & ~real).sum(dim=0), (~predicted & real).sum(dim=0)]
        size = float(len(targets))
        loss = float(self.loss(outputs, targets)) * size
        return torch.cat([torch.tensor([loss, size]), *(count.cpu() for count in counts)]).to(torch.float64)

    def scores(self, totals: Tensor) -> dict[str, float]:
        """Mean loss, micro F1 of all decisions together, and macro F1, the mean of the classes' F1 scores.

        F1 = 2 TP / (2 TP + FP + FN); a class neither present nor predicted counts as 0 (Sumbul et al., 2021).
        """
        true_positive, false_positive, false_negative = totals[2:].view(3, -1)

        def f1(hits: Tensor, wrong: Tensor) -> Tensor:
            return 2 * hits / (2 * hits + wrong).clamp(min=1)

        wrong = false_positive + false_negative
        return {
            "loss": float(totals[0] / totals[1]),
            "micro_f1": float(f1(true_positive.sum(), wrong.sum())),
            "macro_f1": float(f1(true_positive, wrong).mean()),
        }


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
