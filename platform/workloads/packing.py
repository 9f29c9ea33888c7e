"""Large image sets as memory-mapped arrays: decoded once, then read page by page as batches need them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from atoll.platform.workloads.workload import DataMissing
from atoll.storage.files import replacing

MAX_UNPACKED = 4096  # the most images of a part that are read without packing


def write(file: Path, images: Iterable[NDArray[np.generic]], shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write the array (n, ...) of all images atomically; only one image at a time is in memory."""
    with replacing(file) as partial:
        packed = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
            partial, mode="w+", dtype=dtype, shape=shape
        )
        for number, image in enumerate(images):
            packed[number] = image
        packed.flush()


def read(file: Path) -> NDArray[np.generic]:
    """Map the array into memory, copy-on-write."""
    images: NDArray[np.generic] = np.load(file, mmap_mode="c")
    return images


def check_few(num: int, noun: str, root: Path, module: str) -> None:
    """Raise DataMissing, which says how to pack them, if there are too many to read without packing."""
    if num > MAX_UNPACKED:
        raise DataMissing(f"{root} has {num} {noun}: pack them once, `python -m {module} {root}`")
