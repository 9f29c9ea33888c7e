"""Large sets of images as arrays that ranks map into memory: decoded once, read page by page as batches need them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from atoll.platform.workloads.workload import DataMissing

UNPACKED = 4096  # images of a part that are read as they are


def write(file: Path, images: Iterable[NDArray[np.generic]], shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write the array (n, ...) of all images, whole or not at all; one image after the other is in memory."""
    partial = file.with_suffix(".partial")
    packed = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
    for number, image in enumerate(images):
        packed[number] = image
    packed.flush()
    os.replace(partial, file)


def read(file: Path) -> NDArray[np.generic]:
    """The array, mapped: what is changed in memory stays there."""
    images: NDArray[np.generic] = np.load(file, mmap_mode="c")
    return images


def check_few(num: int, what: str, root: Path, module: str) -> None:
    """Raise DataMissing, which says how to pack them, where there are too many to be read as they are."""
    if num > UNPACKED:
        raise DataMissing(f"{root} has {num} {what}: pack them once, `python -m {module} {root}`")
