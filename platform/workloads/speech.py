"""Spoken digits, classified frame by frame by the two networks of Martin 2024, tables 4.1 and 4.2.

Inputs are 40 log-mel features of 25 ms every 10 ms (Martin 2024, section 4.1); each frame's target is the recording's
digit. timit.py trains the same networks on the data of the original experiments.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from atoll.platform.workloads.spoken_digits import (
    FILE,
    HOW_TO_GET,
    NUM_FEATURES,
    Parts,
    SpokenDigitsMlp,
    frames,
    load_recordings,
)
from atoll.platform.workloads.workload import Classification, Data, Samples, find_file

WIDTH, NUM_HIDDEN, NUM_HEADS = 256, 4, 8
SEGMENT = 64  # frames; the median recording of a digit has 40
NO_FRAME = -100  # target of padding
NUM_DIGITS = 10


def make_mlp(num_classes: int) -> nn.Sequential:
    """The perceptron of table 4.1: 40-256, four times 256-256, 256-classes, with ReLU in between."""
    sizes = [NUM_FEATURES, *[WIDTH] * (NUM_HIDDEN + 1)]
    hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, num_classes))


def make_transformer(num_classes: int) -> nn.Sequential:
    """The network of table 4.2: 40-256, four encoders of 1.3 million parameters, 8 heads and dropout 0.1, 256-classes.

    As in the table, there are no position encodings and no mask: frames also attend to padding.
    """
    encoders = [nn.TransformerEncoderLayer(WIDTH, NUM_HEADS, batch_first=True) for _ in range(NUM_HIDDEN)]
    return nn.Sequential(nn.Linear(NUM_FEATURES, WIDTH), *encoders, nn.Linear(WIDTH, num_classes))


def segments(parts: Parts, length: int = SEGMENT) -> Data[Samples]:
    """Recordings cut into segments of `length` frames (n, length, 40), the last one padded with zeros."""
    scaled = frames(parts)
    samples = []
    for part, whole in zip(parts, (scaled.train, scaled.validation, scaled.test), strict=True):
        sizes = [len(r.labels) for r in part]
        cut = [
            (x, y)
            for recording in zip(torch.split(whole.inputs, sizes), torch.split(whole.targets, sizes), strict=True)
            for x, y in zip(*(torch.split(values, length) for values in recording), strict=True)
        ]
        inputs, targets = torch.zeros(len(cut), length, NUM_FEATURES), torch.full((len(cut), length), NO_FRAME)
        for number, (x, y) in enumerate(cut):
            inputs[number, : len(x)], targets[number, : len(y)] = x, y
        samples.append(Samples(inputs, targets))
    return Data(*samples)


class FrameClassification(Classification):
    """Classify every frame of a segment."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits (b, T, classes) against classes (b, T): a segment's mean, averaged over segments.

        As `measure`, it leaves padding out. A segment's part does not depend on the other segments of its batch, as
        MAC's Z-step requires.
        """
        losses = nn.functional.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=NO_FRAME, reduction="none")
        return (losses.sum(dim=1) / (targets != NO_FRAME).sum(dim=1)).mean()

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The share of correct frames of each segment, averaged over segments."""
        is_frame = targets != NO_FRAME
        correct = (outputs.argmax(dim=-1) == targets) & is_frame
        return (correct.sum(dim=1).to(torch.float64) / is_frame.sum(dim=1)).mean()


@cache
def _segments(path: Path) -> Data[Samples]:
    return segments(load_recordings(path))


class SpeechMlp(SpokenDigitsMlp):
    """The six-layer perceptron on single frames, which carry little information."""

    summary: ClassVar[str] = "spoken digits, frames by digit, the six-layer perceptron of MAC's experiments"

    def model(self) -> nn.Module:
        """40-256-256-256-256-256-10 with ReLU: 276,234 parameters."""
        return make_mlp(NUM_DIGITS)


class SpeechTransformer(FrameClassification):
    """Four transformer encoders on segments of 64 frames."""

    summary: ClassVar[str] = "spoken digits, frames by digit, the four transformer encoders of MAC's experiments"
    epochs: ClassVar[int] = 5

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing if the archive is absent."""
        find_file(FILE, folder, HOW_TO_GET)

    def load(self, folder: Path | None) -> Data[Samples]:
        """Segments (n, 64, 40) of four training speakers, one validation speaker and one test speaker."""
        return _segments(find_file(FILE, folder, HOW_TO_GET))

    def model(self) -> nn.Module:
        """40-256, four encoders of width 256 with 8 heads, 256-10: 5.3 million parameters."""
        return make_transformer(NUM_DIGITS)
