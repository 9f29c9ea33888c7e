"""Electricity Transformer Temperature (Zhou et al., 2021): forecasts of seven series, every hour or every 15 minutes.

A sample is 96 past steps; the 96 to 720 steps that follow are forecast (Coquelin 2024, section 4.4.5). All series are
centered and scaled by the training part's mean and deviation, and errors are those of the scaled values. The official
split is in months of 30 days: 12 to train, 4 to validate, 4 to test; the first windows of a part reach back into the
previous one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from atoll.methods.method import MetricDirections
from atoll.platform.workloads.workload import Data, Samples, Workload, find_file, require_models

PERIODS = {"ETTh1": 24, "ETTh2": 24, "ETTm1": 96, "ETTm2": 96}  # rows per day
SERIES = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
CONTEXT, LABEL = 96, 48
MONTHS = (12, 4, 4)
HOW_TO_GET = (
    "Put the file of the ETT data set (github.com/zhouhaoyi/ETDataset) in a folder, and name that folder with the "
    "study's `data` or with ATOLL_DATA."
)


@cache
def load(path: Path, per_day: int) -> tuple[Tensor, tuple[int, ...]]:
    """The scaled table (rows, 7 series + time features), and the ends of the three parts.

    Raises:
        ValueError: if the file lacks a column or is too short for the split.
    """
    import pandas as pd

    table = pd.read_csv(path)
    if missing := [name for name in ("date", *SERIES) if name not in table]:
        raise ValueError(f"{path} must have the columns date, {', '.join(SERIES)}; it lacks {', '.join(missing)}")
    ends = tuple(sum(MONTHS[: i + 1]) * 30 * per_day for i in range(3))
    if len(table) < ends[-1]:
        raise ValueError(f"{path} must have at least {ends[-1]} rows, 20 months of 30 days; it has {len(table)}")
    values = torch.from_numpy(table[list(SERIES)].to_numpy("float64", copy=True))
    train = values[: ends[0]]
    values = (values - train.mean(dim=0)) / train.std(dim=0, correction=0)
    time = pd.to_datetime(table["date"]).dt
    features = [time.hour / 23, time.dayofweek / 6, (time.day - 1) / 30, (time.dayofyear - 1) / 365]
    if per_day > 24:
        features.insert(0, time.minute / 59)
    columns = [torch.from_numpy(feature.to_numpy("float64", copy=True)) - 0.5 for feature in features]
    return torch.cat([values, torch.stack(columns, dim=1)], dim=1).float(), ends


class _EttAutoformer(Workload):
    """Autoformer (Wu et al., 2021) on one file and one forecast length."""

    metric: ClassVar[str] = "mse"
    direction: ClassVar[Literal["maximize", "minimize"]] = "minimize"
    epochs: ClassVar[int] = 20
    further_metrics: ClassVar[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType(
        {"mae": nn.functional.l1_loss}
    )
    metric_directions: ClassVar[MetricDirections] = MappingProxyType({"mae": "minimize"})
    file: ClassVar[str]
    length: ClassVar[int]

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing or LibraryMissing if the file or the library that has the network is absent."""
        find_file(f"{self.file}.csv", folder, HOW_TO_GET)
        require_models("ett_autoformer")

    def load(self, folder: Path | None) -> Data[Samples]:
        """The start of each window (n,) and the values to forecast (n, length, 7), as views of one table."""
        self._table, ends = load(find_file(f"{self.file}.csv", folder, HOW_TO_GET), PERIODS[self.file])
        starts = (0, ends[0] - CONTEXT, ends[1] - CONTEXT)
        return Data(*(self._windows(start, end) for start, end in zip(starts, ends, strict=True)))

    def _windows(self, start: int, end: int) -> Samples:
        values = self._table[start + CONTEXT : end, : len(SERIES)]
        targets = values.unfold(0, self.length, 1).transpose(1, 2)  # a view, as copies would take gigabytes
        return Samples(torch.arange(start, start + len(targets)), targets)

    def transform(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """The windows (b, 96 + length, 7 + features) that start at `inputs` (b,), with 0 for the values to forecast."""
        table = self._table.to(inputs.device)
        windows = table[inputs[:, None] + torch.arange(CONTEXT + self.length, device=inputs.device)]
        windows[:, CONTEXT:, : len(SERIES)] = 0.0
        return windows

    def model(self) -> nn.Module:
        """Width 512, 8 heads, 2 encoder layers and 1 decoder layer of 2,048 units (Coquelin 2024, table A.4)."""
        return autoformer(self.length, PERIODS[self.file], width=512, heads=8, hidden=2048)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error of forecasts (b, length, 7)."""
        return nn.functional.mse_loss(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error."""
        return nn.functional.mse_loss(outputs, targets)


class Forecast(nn.Module):
    """transformers' Autoformer with the paper's output: the sum of seasonal and trend part, for the series only."""

    def __init__(self, network: nn.Module, length: int) -> None:
        super().__init__()
        self.network = network
        self._length = length

    def forward(self, windows: Tensor) -> Tensor:
        """(b, 96 + length, 7 + features) -> (b, length, 7)."""
        values, features = windows.split([len(SERIES), windows.shape[2] - len(SERIES)], dim=2)  # type: ignore[no-untyped-call]
        outputs = self.network(
            past_values=values[:, :CONTEXT],
            past_time_features=features[:, :CONTEXT],
            past_observed_mask=torch.ones_like(values[:, :CONTEXT]),
            future_values=values[:, CONTEXT:],
            future_time_features=features[:, CONTEXT:],
            use_cache=False,
        )
        forecast: Tensor = (outputs.last_hidden_state + outputs.trend)[:, -self._length :, : len(SERIES)]
        return forecast


def autoformer(length: int, per_day: int, *, width: int, heads: int, hidden: int) -> nn.Module:
    """transformers' Autoformer with the settings of Coquelin 2024, table A.4.

    Unlike the paper's, its cross-correlation drops queries if the decoder's sequence is longer than the encoder's.
    """
    from transformers import AutoformerConfig, AutoformerModel

    configuration = AutoformerConfig(
        prediction_length=length,
        context_length=CONTEXT,
        label_length=LABEL,
        input_size=len(SERIES),
        lags_sequence=[0],
        scaling=False,
        num_time_features=4 if per_day == 24 else 5,
        d_model=width,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_layers=2,
        decoder_layers=1,
        encoder_ffn_dim=hidden,
        decoder_ffn_dim=hidden,
        dropout=0.05,
        attention_dropout=0.05,
        activation_dropout=0.05,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        moving_average=25,
        autocorrelation_factor=1,
    )
    return Forecast(AutoformerModel(configuration), length)


def _make(file: str, length: int) -> type[_EttAutoformer]:
    every = "hour" if PERIODS[file] == 24 else "15 minutes"
    summary = f"{file}, forecasts of {length} steps, one every {every}, Autoformer, OIALR's experiments"
    body = {"__doc__": f"{summary}.", "summary": summary, "file": file, "length": length}
    return type(f"{file}Autoformer{length}", (_EttAutoformer,), body)


ETTh1Autoformer96, ETTh1Autoformer192 = _make("ETTh1", 96), _make("ETTh1", 192)
ETTh1Autoformer336, ETTh1Autoformer720 = _make("ETTh1", 336), _make("ETTh1", 720)
ETTh2Autoformer96, ETTh2Autoformer192 = _make("ETTh2", 96), _make("ETTh2", 192)
ETTh2Autoformer336, ETTh2Autoformer720 = _make("ETTh2", 336), _make("ETTh2", 720)
ETTm1Autoformer96, ETTm1Autoformer192 = _make("ETTm1", 96), _make("ETTm1", 192)
ETTm1Autoformer336, ETTm1Autoformer720 = _make("ETTm1", 336), _make("ETTm1", 720)
ETTm2Autoformer96, ETTm2Autoformer192 = _make("ETTm2", 96), _make("ETTm2", 192)
ETTm2Autoformer336, ETTm2Autoformer720 = _make("ETTm2", 336), _make("ETTm2", 720)
