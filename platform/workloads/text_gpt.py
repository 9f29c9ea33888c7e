"""A language model: a decoder-only transformer over the bytes of any text file (Radford et al. 2019).

There is no tokenizer: the vocabulary is the 256 byte values. The last tenth of the file is held out, the first half of
it for validation and the second for testing, but at most 512 KiB each. Each part is cut into windows of
`context_length` bytes, whose targets are the bytes that follow; so each byte of a part is predicted once, but for the
first one and the rest of less than a window, and an epoch is one pass over the training text.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from atoll.methods.common.validation import require
from atoll.platform.workloads.workload import Data, DataMissing, Workload, find_file, require_models
from atoll.searchspaces.parameter import real
from atoll.searchspaces.space import SearchSpace

NUM_BYTES = 256
FILE = "text.txt"
HELD_OUT = 20  # validation and test get one byte of so many each
DEVIATION = 0.02  # of the weights at the start, as in GPT-2
MAX_HELD_OUT = 2**19  # bytes, as an evaluation of a twentieth of a large file would take longer than its training
HOW_TO_GET = (
    "Any plain text will do, from about 100 kB on, such as data/tinyshakespeare/input.txt of "
    "github.com/karpathy/char-rnn. Put it in a folder, as text.txt or as the folder's only .txt file, and name "
    "that folder with the study's `data` or with ATOLL_DATA."
)


@dataclass(frozen=True, kw_only=True)
class TextGptHyperparameters:
    """The network's shape.

    Attributes:
        num_layers: number of transformer blocks.
        num_heads: attention heads of each; divides hidden_size.
        hidden_size: width of the residual stream; the feed-forward layers are four times as wide.
        context_length: bytes of a window, and so the most that a prediction sees.
        dropout: of attention weights, and of what each attention and feed-forward layer adds.
    """

    num_layers: int = 2
    num_heads: int = 4
    hidden_size: int = 128
    context_length: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_heads", "hidden_size", "context_length"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        require(
            self.hidden_size % self.num_heads == 0,
            f"num_heads must divide hidden_size ({self.hidden_size}); got {self.num_heads}",
        )
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1); got {self.dropout}")


def find_text(folder: Path | None) -> Path:
    """The folder's text.txt, or its only .txt file. Default folder: the one that ATOLL_DATA names.

    Raises:
        DataMissing: if there is none, or several without a text.txt.
    """
    configured = os.environ.get("ATOLL_DATA")
    place = folder or (Path(configured) if configured else None)
    texts = sorted(path.name for path in place.glob("*.txt")) if place is not None else []
    if len(texts) > 1 and FILE not in texts:
        raise DataMissing(
            f"{place} must have one .txt file, or one that is called {FILE}; it has {len(texts)}: "
            f"{', '.join(texts[:5])}{', ...' if len(texts) > 5 else ''}"
        )
    return find_file((FILE, *texts), folder, HOW_TO_GET)


@cache
def map_bytes(path: Path) -> Tensor:
    """The file's bytes (n,) uint8, mapped: the processes of a host share the memory, and nothing is read ahead."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


def parts(num_bytes: int) -> tuple[range, range, range]:
    """The positions of the training, validation and test bytes, in this order."""
    held_out = min(num_bytes // HELD_OUT, MAX_HELD_OUT)
    ends = (num_bytes - 2 * held_out, num_bytes - held_out, num_bytes)
    return range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of a file's bytes; item i is (inputs, targets), both (length,) int64: bytes, and those that follow them.

    It knows the file's path, not its bytes, so that processes that load batches map the file themselves.

    Args:
        path: the file.
        part: the positions of the bytes.
        length: of a window.
    """

    def __init__(self, path: Path, part: range, length: int) -> None:
        self._path, self._part, self._length = path, part, length

    def __len__(self) -> int:
        return (len(self._part) - 1) // self._length

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        start = self._part.start + i * self._length
        window = map_bytes(self._path)[start : start + self._length + 1].to(torch.int64)
        return window[:-1], window[1:]


class TextGpt(Workload):
    """Predict the next byte of a text."""

    Hyperparameters: ClassVar[type] = TextGptHyperparameters
    search_space: ClassVar[SearchSpace] = SearchSpace((real("dropout", 0.0, 0.3, default=0.0),))
    summary: ClassVar[str] = "the bytes of any text file, a decoder-only transformer (GPT-2's, narrow)"
    metric: ClassVar[str] = "bits_per_byte"
    direction: ClassVar[Literal["maximize", "minimize"]] = "minimize"
    target: float | None = 2.8
    steps: ClassVar[int | None] = 800
    evaluation_batch_size: ClassVar[int] = 64
    hyperparameters: TextGptHyperparameters

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing or LibraryMissing if the text or the library that has the network is absent.

        Raises:
            ValueError: if a part of the text is shorter than a window.
        """
        self._parts(find_text(folder))
        require_models("text_gpt")

    def load(self, folder: Path | None) -> Data[Windows]:
        """The windows of the three parts."""
        path = find_text(folder)
        return Data(*(Windows(path, part, self.hyperparameters.context_length) for part in self._parts(path)))

    def _parts(self, path: Path) -> tuple[range, range, range]:
        size, length = path.stat().st_size, self.hyperparameters.context_length
        if size // HELD_OUT < length + 1:
            raise ValueError(
                f"{path} must have at least {HELD_OUT * (length + 1)} bytes, so that the twentieth for validation has "
                f"a window of {length} bytes and the byte after it; it has {size}"
            )
        return parts(size)

    def model(self) -> nn.Module:
        """2 blocks of width 128 by default: 470,528 parameters; an nn.Sequential, so it can be cut into groups."""
        return make_transformer(self.hyperparameters)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of logits (b, T, 256) against bytes (b, T), in nats per byte."""
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy in bits per byte."""
        return self.loss(outputs, targets) / math.log(2)


class Embedding(nn.Module):
    """The sum of learned embeddings of bytes and of their positions."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(NUM_BYTES, width)
        self.positions = nn.Embedding(length, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, T) int64 -> (b, T, width)."""
        embedded: Tensor = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return embedded


def make_transformer(shape: TextGptHyperparameters) -> nn.Sequential:
    """transformers' OPT (Zhang et al. 2022) with GELU, which is GPT-2 with separate projections, as a chain of layers.

    GPT-2 itself has projections of a class that low-rank methods cannot factor. The output layer has weights of its
    own, as groups of layers must not share any. Weights start as in GPT-2: normal with deviation 0.02, those that add
    to the residual stream divided by the square root of their number (Radford et al. 2019, section 2.3); biases are 0.
    """
    # Not OPTForCausalLM, which adds a method to nn.Module when it draws its weights.
    from transformers import OPTConfig
    from transformers.models.opt.modeling_opt import OPTDecoderLayer

    width = shape.hidden_size
    configuration = OPTConfig(
        hidden_size=width,
        ffn_dim=4 * width,
        num_attention_heads=shape.num_heads,
        activation_function="gelu",
        dropout=shape.dropout,
        attention_dropout=shape.dropout,
        attn_implementation="sdpa",  # type: ignore[call-arg]  # of its base class
    )
    model = nn.Sequential(
        OrderedDict(
            embedding=Embedding(shape.context_length, width),
            blocks=nn.Sequential(*(OPTDecoderLayer(configuration, layer_idx=i) for i in range(shape.num_layers))),
            norm=nn.LayerNorm(width),
            head=nn.Linear(width, NUM_BYTES, bias=False),
        )
    )
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            adds = name.endswith(("out_proj.weight", "fc2.weight"))
            nn.init.normal_(parameter, std=DEVIATION / math.sqrt(2 * shape.num_layers) if adds else DEVIATION)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model
