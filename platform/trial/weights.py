"""The trained model of a trial: a file of tensors by name, which `atoll export --weights` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from atoll.storage.files import make_folder, replacing
from atoll.storage.folder import TrialFolder


class TrainedModel:
    """The model whose metric is the trial's objective, on the rank that writes it.

    Args:
        objective_from: the report whose metric is the objective. If it is the best one, the model of the best report so
            far is held in host memory, and is part of checkpoints.
        direction: maximize or minimize.

    Attributes:
        holds_best: whether the model of the best report counts, instead of that of the last one.
    """

    def __init__(self, objective_from: Literal["last", "best"], direction: str) -> None:
        self.holds_best = objective_from == "best"
        self._sign = -1.0 if direction == "maximize" else 1.0
        self._value = math.inf  # of the metric, to be minimized
        self._tensors: dict[str, Tensor] = {}

    def see(self, model: nn.Module, metric: float, *, is_last: bool) -> None:
        """Take in the model of an evaluation."""
        value = self._sign * metric
        if value < self._value if self.holds_best else is_last:
            self._value, self._tensors = value, copied(model.state_dict())

    def write(self, folder: TrialFolder) -> None:
        """Write the model: full weights, or the factors of layers that the method has factored.

        Raises:
            OSError: if it cannot be written, as on a full disk.
        """
        make_folder(folder.path)
        write(folder.weights, self._tensors, metric=repr(self._sign * self._value))

    def state_dict(self) -> dict[str, Any]:
        """Return the best model so far and its value."""
        return {"value": self._value, "tensors": self._tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._value, self._tensors = state["value"], state["tensors"]


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict in host memory, none of which shares it with another, as files of weights need."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def write(file: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors that share no memory, whole or not at all, in the format of safetensors.

    Raises:
        OSError: if they cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(file) as partial:
        try:
            save_file(dict(tensors), partial, {"format": "pt"} | metadata)
        except SafetensorError as error:  # of the system, wrapped
            raise OSError(str(error)) from error


def require_tensors(model: nn.Module) -> None:
    """Raise TypeError if the model's state dict has what a file of weights cannot keep."""
    state = model.state_dict()
    if others := sorted(name for name, value in state.items() if not isinstance(value, Tensor)):
        raise TypeError(
            f"to keep weights, the model's state dict must hold only tensors; {', '.join(others)} is not one: omit the "
            "study's `weights`, or define no `get_extra_state`"
        )
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.dtype == torch.complex128:
            raise TypeError(
                f"weights are kept as dense tensors of at most 64 bits, and {name} of the model's state dict is "
                f"{value.dtype}, {value.layout}: omit the study's `weights`"
            )


def metric_of(file: Path) -> float | None:
    """The metric of the model in a file of weights; None if the file does not tell."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return float((opened.metadata() or {})["metric"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights. Raises ValueError if it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a file of weights: {error}") from error
    return tensors
