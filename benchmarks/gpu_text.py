"""For benchmarks/gpu.py: a transformer on windows of noise, as a workload and as a plain script."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from atoll.platform.workloads.text_gpt import TextGpt, TextGptHyperparameters, make_transformer
from atoll.platform.workloads.workload import Data, Samples

NUM_WINDOWS = 64  # 8 batches of 8 on one rank


class Noise(TextGpt):
    """The next byte of noise."""

    steps = None

    def check_data(self, folder):
        pass

    def load(self, folder):
        generator = torch.Generator().manual_seed(0)
        shape = NUM_WINDOWS, self.hyperparameters.context_length + 1
        windows = torch.randint(256, shape, generator=generator)
        return Data(*[Samples(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())] * 3)


class Script:
    """Blocks of steps of a plain script with a batch on the device, over ranks by torch's DDP if `ddp`."""

    num_steps = 4

    def __init__(self, shape: dict[str, int], rank: Any, precision: str, batch_size: int, *, ddp: bool = False) -> None:
        torch.manual_seed(0)
        self._model: Any = make_transformer(TextGptHyperparameters(**shape)).to(rank.device)
        if ddp:
            ids = [rank.device] if rank.device != "cpu" else None
            self._model = DistributedDataParallel(self._model, device_ids=ids, gradient_as_bucket_view=True)
        self._optimizer = torch.optim.SGD(self._model.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)
        windows = torch.randint(256, (batch_size, shape["context_length"] + 1), device=rank.device)
        self._inputs, self._targets = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        self._casts = precision == "bfloat16"

    def block(self) -> None:
        for _ in range(self.num_steps):
            self._optimizer.zero_grad()
            with torch.autocast(self._inputs.device.type, torch.bfloat16, enabled=self._casts):
                outputs = self._model(self._inputs)
                loss = cross_entropy(outputs.flatten(0, 1), self._targets.flatten())
            loss.backward()
            self._optimizer.step()

    def close(self) -> None:
        self._model = None
