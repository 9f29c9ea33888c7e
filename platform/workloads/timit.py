"""TIMIT (Garofolo et al., 1993), phones of read speech, classified frame by frame as in Martin 2024, section 4.1.

TIMIT is licensed by the Linguistic Data Consortium (LDC93S1) and not distributed with atoll. The reader expects its
original tree: TRAIN and TEST, then dialect region, speaker, and for each sentence a .WAV (NIST SPHERE or RIFF) and a
.PHN whose lines hold first sample, end and phone. The two sentences that every speaker reads (SA) are left out, as they
would put test sentences into training. Every tenth training speaker is for validation, the TEST speakers are for test.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from atoll.platform.workloads.speech import FrameClassification, make_mlp, make_transformer, segments
from atoll.platform.workloads.spoken_digits import (
    STEP_SECONDS,
    WINDOW_SECONDS,
    Parts,
    Recording,
    frames,
    log_mel,
)
from atoll.platform.workloads.workload import Classification, Data, Samples, find_file, require_library

_NAMES = (
    "aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv ih ix iy jh k kcl "
    "l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh"
)
PHONES = tuple(_NAMES.split())
NO_PHONE = len(PHONES)  # the 62nd label, for frames that no line of the .PHN covers
NUM_LABELS = len(PHONES) + 1
VALIDATION_EVERY = 10
HOW_TO_GET = (
    "It is the TRAIN folder of TIMIT, which the Linguistic Data Consortium licenses (LDC93S1). Name the folder that "
    "holds TRAIN and TEST with the study's `data` or with ATOLL_DATA."
)


def find_tree(folder: Path | None) -> Path:
    """The folder that holds TRAIN and TEST; raises DataMissing."""
    return find_file(("TRAIN", "train", "TIMIT/TRAIN", "timit/train"), folder, HOW_TO_GET).parent


def read_labels(file: Path, num_frames: int, rate: float) -> NDArray[np.int64]:
    """The phone (num_frames,) at the middle of each frame's window.

    Raises:
        ValueError: for a malformed line or an unknown phone.
    """
    middles = np.arange(num_frames) * round(STEP_SECONDS * rate) + round(WINDOW_SECONDS * rate) // 2
    labels = np.full(num_frames, NO_PHONE, np.int64)
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match line.split():
            case [start, end, phone] if start.isdigit() and end.isdigit() and phone in PHONES:
                labels[(middles >= int(start)) & (middles < int(end))] = PHONES.index(phone)
            case _:
                raise ValueError(
                    f"{file}, line {number}: must be first sample, end and one of the phones {', '.join(PHONES)}; "
                    f"got {line!r}"
                )
    return labels


def read_sentence(wav: Path) -> Recording:
    """Features and labels of one sentence."""
    import soundfile

    signal, rate = soundfile.read(wav, dtype="int16")
    features = log_mel(signal, rate)
    labels = [file for file in wav.parent.iterdir() if file.name.lower() == f"{wav.stem.lower()}.phn"]
    if not labels:
        raise ValueError(f"every TIMIT recording needs a file of phones next to it; {wav} has no {wav.stem}.PHN")
    return Recording(features, read_labels(labels[0], len(features), rate))


@cache
def load_recordings(tree: Path) -> Parts:
    """The sentences of the training, validation and test speakers."""
    train = sorted(p for p in _child(tree, "train").glob("*/*") if p.is_dir())
    test = sorted(p for p in _child(tree, "test").glob("*/*") if p.is_dir())
    validating = train[VALIDATION_EVERY - 1 :: VALIDATION_EVERY] or train[-1:]
    groups = ([s for s in train if s not in validating], validating, test)
    first, second, third = ([read_sentence(wav) for s in speakers for wav in _sentences(s)] for speakers in groups)
    return first, second, third


def _child(tree: Path, name: str) -> Path:
    for child in tree.iterdir():
        if child.name.lower() == name:
            return child
    raise ValueError(f"TIMIT's tree {tree} must have the folders TRAIN and TEST; it lacks {name.upper()}")


def _sentences(speaker: Path) -> list[Path]:
    """The sentences that not every speaker reads."""
    # Some copies of TIMIT contain a converted X.WAV.wav next to X.WAV.
    wavs = (f for f in speaker.iterdir() if f.suffix.lower() == ".wav" and "." not in f.stem)
    return sorted(f for f in wavs if not f.name.lower().startswith("sa"))


@cache
def _frames(tree: Path) -> Data[Samples]:
    return frames(load_recordings(tree))


@cache
def _segments(tree: Path) -> Data[Samples]:
    return segments(load_recordings(tree))


class TimitMlp(Classification):
    """The six-layer perceptron of table 4.1 on single frames."""

    summary: ClassVar[str] = "TIMIT, frames by 62 phone labels, the six-layer perceptron of MAC's experiments"
    epochs: ClassVar[int] = 10

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing or LibraryMissing if the tree or the library that reads it is absent."""
        find_tree(folder)
        require_library("soundfile", "speech", "timit_mlp reads TIMIT's recordings with")

    def data_files(self, folder: Path | None) -> Sequence[Path]:
        """The tree with both parts."""
        return [find_tree(folder)]

    def load(self, folder: Path | None) -> Data[Samples]:
        """Frames (n, 40) of 416 training, 46 validation and 168 test speakers."""
        return _frames(find_tree(folder))

    def model(self) -> nn.Module:
        """40-256-256-256-256-256-62 with ReLU: 289,598 parameters."""
        return make_mlp(NUM_LABELS)


class TimitTransformer(FrameClassification):
    """The four transformer encoders of table 4.2 on segments of 64 frames."""

    summary: ClassVar[str] = "TIMIT, frames by 62 phone labels, the four transformer encoders of MAC's experiments"
    epochs: ClassVar[int] = 10

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing or LibraryMissing if the tree or the library that reads it is absent."""
        find_tree(folder)
        require_library("soundfile", "speech", "timit_transformer reads TIMIT's recordings with")

    def data_files(self, folder: Path | None) -> Sequence[Path]:
        """The tree with both parts."""
        return [find_tree(folder)]

    def load(self, folder: Path | None) -> Data[Samples]:
        """Segments (n, 64, 40) of 416 training, 46 validation and 168 test speakers."""
        return _segments(find_tree(folder))

    def model(self) -> nn.Module:
        """40-256, four encoders of width 256 with 8 heads, 256-62: 5.3 million parameters."""
        return make_transformer(NUM_LABELS)
