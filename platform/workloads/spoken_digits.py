"""Spoken digits (Free Spoken Digit Dataset): frames of 40 log-mel features, classified by digit, split by speaker."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from atoll.platform.workloads.workload import Classification, Data, Samples, find_file, standardize

FILE = "spoken_digits.npz"
HOW_TO_GET = (
    "It holds the recordings of the Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset) in one "
    "archive: signal int16 (all samples joined), offsets int64 (recordings + 1), digit, speaker, rate. Put it in a "
    "folder and name that folder with the study's `data` or with ATOLL_DATA."
)
NUM_FEATURES = 40
WINDOW_SECONDS, STEP_SECONDS = 0.025, 0.010
# Frames of one recording are alike, and so are recordings of one speaker, so whole speakers are held out.
VALIDATION_SPEAKERS, TEST_SPEAKERS = 1, 1


def mel_filters(num_filters: int, num_bins: int, rate: float) -> NDArray[np.float64]:
    """Triangular filters (num_filters, num_bins), evenly spaced on the mel scale 2595 log10(1 + f/700)."""
    mel_edges = np.linspace(0.0, 2595 * np.log10(1 + rate / 2 / 700), num_filters + 2)
    edges = 700 * (10 ** (mel_edges / 2595) - 1)
    frequencies = np.linspace(0.0, rate / 2, num_bins)
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (center - low), (high - frequencies) / (high - center)
    filters: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return filters


def log_mel(signal: NDArray[np.int16], rate: float) -> NDArray[np.float32]:
    """Log-mel features (frames, 40) of one recording: Hann windows of 25 ms every 10 ms, at least one."""
    window, step = round(WINDOW_SECONDS * rate), round(STEP_SECONDS * rate)
    samples = np.pad(signal.astype(np.float64) / 2**15, (0, max(0, window - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::step] * np.hanning(window)
    num_points = 1 << (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames, num_points)) ** 2
    filters = mel_filters(NUM_FEATURES, power.shape[1], rate)
    features: NDArray[np.float32] = np.log(power @ filters.T + 1e-10).astype(np.float32)
    return features


@dataclass(frozen=True)
class Recording:
    """Features (frames, 40) and labels (frames,) of one recording."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


Parts = tuple[list[Recording], list[Recording], list[Recording]]


@cache
def load_recordings(path: Path) -> Parts:
    """The recordings of four training speakers, one validation speaker and one test speaker."""
    with np.load(path, allow_pickle=False) as archive:
        signal, offsets, rate = archive["signal"], archive["offsets"], float(archive["rate"])
        digits, speakers = archive["digit"], archive["speaker"]
    features = [log_mel(signal[a:b], rate) for a, b in itertools.pairwise(offsets)]
    names = np.unique(speakers)
    held_out = VALIDATION_SPEAKERS + TEST_SPEAKERS
    groups = (names[:-held_out], names[-held_out:-TEST_SPEAKERS], names[-TEST_SPEAKERS:])
    train, validation, test = (
        [
            Recording(features[i], np.full(len(features[i]), digits[i], np.int64))
            for i in np.flatnonzero(np.isin(speakers, group))
        ]
        for group in groups
    )
    return train, validation, test


def frames(parts: Parts) -> Data[Samples]:
    """All frames (n, 40), standardized by the training part's mean and deviation."""
    inputs = standardize(*(torch.from_numpy(np.concatenate([r.features for r in part])) for part in parts))
    targets = [torch.from_numpy(np.concatenate([r.labels for r in part])) for part in parts]
    return Data(*(Samples(x, y) for x, y in zip(inputs, targets, strict=True)))


@cache
def _load(path: Path) -> Data[Samples]:
    return frames(load_recordings(path))


class SpokenDigitsMlp(Classification):
    """Classify single frames of speech; a frame carries little information, so accuracies are far below 1."""

    summary: ClassVar[str] = "spoken digits, frames of 40 log-mel features by digit, a perceptron 40-128-128-10"
    target: float | None = 0.35
    epochs: ClassVar[int] = 5

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing if the archive is absent."""
        find_file(FILE, folder, HOW_TO_GET)

    def load(self, folder: Path | None) -> Data[Samples]:
        """Frames (n, 40) of four training speakers, one validation speaker and one test speaker."""
        return _load(find_file(FILE, folder, HOW_TO_GET))

    def model(self) -> nn.Module:
        """40-128-128-10 with ReLU."""
        return nn.Sequential(
            nn.Linear(NUM_FEATURES, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )
