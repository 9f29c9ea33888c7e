"""Workloads with one mistake each, as users make them; imports from `atoll` only."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from atoll import Classification, Data, ParameterGroup, Samples, Workload

GENERATOR = torch.Generator().manual_seed(0)
INPUTS, TARGETS = torch.rand(120, 8, generator=GENERATOR), torch.arange(120) % 3


def parts(inputs=INPUTS, targets=TARGETS, sizes=(60, 30, 30)):
    return Data(*(Samples(x, y) for x, y in zip(inputs.split(sizes), targets.split(sizes), strict=True)))


class Right(Classification):
    """Nothing is wrong with it."""

    def load(self, folder):
        return parts()

    def model(self):
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


class LeavesAProcess(Right):
    """What its load has started goes on, and holds all files open."""

    def load(self, folder):
        if (process := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        Path("left").write_text(str(process))
        return super().load(folder)


class TrainsOnAnother(Right):
    """Methods minimize its training loss; its loss is an error rate, which has no gradient."""

    def training_loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def loss(self, outputs, targets):
        return (outputs.argmax(1) != targets).float().mean()


class PerSampleInTraining(Right):
    def training_loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")


class Loader(Right):
    def load(self, folder):
        return Data(*(DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=8) for _ in range(3)))


class PerSample(Right):
    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")


class WrongShape(Right):
    def model(self):
        return nn.Linear(9, 3)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return self.layer(x), x


class Tuple(Right):
    def model(self):
        return Two()


class NamedLoss(Right):
    metric = "loss"


class FurtherLoss(Right):
    further_metrics: ClassVar = {"loss": lambda outputs, targets: torch.zeros(())}


class WrongTargets(Right):
    def load(self, folder):
        return parts(targets=TARGETS.float()[:, None])


class MetricPerSample(Right):
    def measure(self, outputs, targets):
        return outputs.argmax(dim=-1) == targets


class FurtherPerSample(Right):
    further_metrics: ClassVar = {"hits": lambda outputs, targets: outputs.argmax(dim=-1) == targets}


class Raises(Right):
    def loss(self, outputs, targets):
        return {}["weights"]


class NaN(Right):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets).log() * torch.nan


class Infinite(Right):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets) / 0


class Detached(Right):
    def loss(self, outputs, targets):
        return super().loss(outputs.detach(), targets)


class AsideLoss(Right):
    """The loss depends on a parameter, but on none of the network's."""

    def loss(self, outputs, targets):
        return super().loss(outputs.detach(), targets) * torch.ones((), requires_grad=True)


class FloatLoss(Right):
    def loss(self, outputs, targets):
        return float(super().loss(outputs, targets))


class NotData(Right):
    def load(self, folder):
        return INPUTS, TARGETS


class Differs(Right):
    def load(self, folder):
        data = parts()
        return Data(data.train, Samples(data.validation.inputs[:, :7], data.validation.targets), data.test)


class EmptyTrain(Right):
    def load(self, folder):
        return parts(sizes=(0, 60, 60))


class EmptyValidation(Right):
    def load(self, folder):
        return parts(sizes=(60, 0, 60))


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


class EmptyStream(Right):
    def load(self, folder):
        return Data(parts().train, Nothing(), Nothing())


class EmptyTrainStream(Right):
    steps = 4

    def load(self, folder):
        return Data(Nothing(), parts().validation, Nothing())


class TooFew(Right):
    def load(self, folder):
        return parts(sizes=(3, 60, 57))


class FewerInputs(Right):
    def load(self, folder):
        data = parts()
        return Data(Samples(data.train.inputs[:50], data.train.targets), data.validation, data.test)


class Triples(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return INPUTS[index], TARGETS[index], index


class NotSplit(Right):
    def load(self, folder):
        return Data(Triples(), Triples(), Triples())


class Ragged(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.ones(index + 1), 0


class NotCollated(Right):
    def load(self, folder):
        return Data(Ragged(), Ragged(), Ragged())


@dataclass(frozen=True, kw_only=True)
class Width:
    width: int = 16

    def __post_init__(self):
        assert self.width % 32 == 0, "the width must be a multiple of 32"


class Refuses(Right):
    Hyperparameters = Width


class Frozen(Right):
    def model(self):
        return super().model().requires_grad_(False)


class TwoDtypes(Right):
    def model(self):
        network = super().model()
        network[2].double()
        return network


class NoModule(Right):
    def model(self):
        return lambda x: x


class ShortTotals(Right):
    def totals(self, outputs, targets):
        return torch.zeros(2, dtype=torch.float64)


class NoScores(Right):
    def scores(self, totals):
        return {"accuracy": 0.0}


class Declares(Right):
    metric_directions: ClassVar = {"macro_f1": "maximize"}


class Exits(Right):
    def model(self):
        raise SystemExit("usage: train.py --width WIDTH")


# What must not be refused.


class NeedsGpu(Right):
    def model(self):
        raise RuntimeError("Found no NVIDIA driver on your system")


class DataElsewhere(Right):
    def load(self, folder):
        return torch.load("/scratch/only/on/compute/nodes.pt")


class Unlucky(Right):
    """The loss is NaN with the first seed only, and its network depends on the data."""

    def load(self, folder):
        data = super().load(folder)
        self.num_features = data.train.inputs.shape[1]
        return data

    def model(self):
        return nn.Linear(self.num_features, 3)

    def loss(self, outputs, targets):
        return super().loss(outputs, targets) * (torch.nan if torch.initial_seed() == 0 else 1)


class Slow(Right):
    def load(self, folder):
        time.sleep(60)


class Crashes(Right):
    def model(self):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)


class Crops(Right):
    """Training and validation data have different shapes, which its network takes."""

    def load(self, folder):
        return Data(*(Samples(torch.rand(60, 1, size, size), TARGETS[:60]) for size in (6, 8, 8)))

    def model(self):
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return nn.Sequential(nn.Conv2d(1, 4, 3), pooled, nn.Linear(16, 3))


class NeedsMany(Right):
    """Its metric is of whole evaluation batches."""

    def measure(self, outputs, targets):
        if len(targets) < 30:
            raise ValueError("only one class is there")
        return super().measure(outputs, targets)


class LossOfOne(Right):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets)[None]


class NoTest(Right):
    """The search never looks at the test data."""

    def load(self, folder):
        return parts(sizes=(60, 60, 0))


class OwnTotals(Workload):
    """Its metric is no mean over batches."""

    metric = "f1"

    def load(self, folder):
        return parts()

    def model(self):
        return nn.Linear(8, 3)

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def measure(self, outputs, targets):
        raise NotImplementedError("see totals")

    @property
    def num_totals(self):
        return 10

    def totals(self, outputs, targets):
        counts = torch.bincount(3 * targets + outputs.argmax(1), minlength=9).double()
        return torch.cat([counts, self.loss(outputs, targets).double()[None] * len(targets)])

    def scores(self, totals):
        counts, loss = totals[:9].view(3, 3), totals[9]
        f1 = 2 * counts.diag() / (counts.sum(0) + counts.sum(1)).clamp(min=1)
        return {"loss": loss / counts.sum(), "f1": f1.mean()}


class Forecast(Right):
    """Dicts of tensors, from a data set, with a loss per named output."""

    def load(self, folder):
        class Items(Dataset):
            def __len__(self):
                return 60

            def __getitem__(self, index):
                return {"x": INPUTS[index], "labels": TARGETS[index]}

        return Data(Items(), Items(), Items())

    def forward(self, model, batch):
        return model(batch.inputs["x"])


class Ungrouped(Right):
    def parameter_groups(self, model):
        return [ParameterGroup([model[0].weight])]


class WrongOptimizer(Right):
    def optimizer(self, parameters, settings):
        return torch.optim.SGD(parameters, lr=settings.rate)


class WrongSchedule(Right):
    def schedule(self, settings, step, num_steps):
        return settings.learning_rate / (num_steps - 1 - step)


class LongSchedule(Right):
    """It needs a training of more than 500 steps."""

    def schedule(self, settings, step, num_steps):
        assert num_steps > 500
        return settings.learning_rate


class Writes(Right):
    def model(self):
        (self.trial_folder / "note.txt").write_text("made")
        return super().model()


class ExtraState(Right):
    def model(self):
        class Layer(nn.Linear):
            def get_extra_state(self):
                return {"temperature": 1.0}

            def set_extra_state(self, state):
                pass

        return Layer(8, 3)


class CleansUp(Right):
    def load(self, folder):
        try:
            time.sleep(60)
        finally:
            Path("cleaned-up").touch()


class LeavesASession(Right):
    """Its process is in a session of its own, and its parent has ended."""

    def load(self, folder):
        code = "import os, time; from pathlib import Path; os.setsid(); Path('left').write_text(str(os.getpid()))\n"
        code += "time.sleep(600)"
        subprocess.run(["/bin/sh", "-c", f'"{sys.executable}" -c "{code}" & ' + "until test -s left; do :; done"])
        return super().load(folder)
