"""Workloads with small networks, for many trainings on two cores."""

from pathlib import Path
from typing import ClassVar

from atoll.platform.workloads.cifar10 import Cifar10Cnn7, Cifar10Vgg16, cnn7, vgg16
from atoll.platform.workloads.ett import ETTh1Autoformer96, autoformer
from atoll.platform.workloads.speech import SpeechMlp
from atoll.platform.workloads.workload import Data, Samples


class NarrowCifar10(Cifar10Cnn7):
    """The 7-layer network with an eighth of its channels and a quarter of its units."""

    def model(self):
        """Channels 8, 16, 16 and 64 units."""
        return cnn7(8, 16, 16, 64)


class NarrowVgg16(Cifar10Vgg16):
    """VGG16 with an eighth of its channels."""

    def model(self):
        """8 to 64 channels: 231,746 parameters."""
        return vgg16(8)


class NarrowAutoformer(ETTh1Autoformer96):
    """Autoformer with a sixteenth of its width."""

    def model(self):
        """Width 32, 4 heads, layers of 128 units."""
        return autoformer(self.length, 24, width=32, heads=4, hidden=128)


class SpeechMlpByTrainingLoss(SpeechMlp):
    """speech_mlp on every fourth frame, as neighboring frames overlap; validation is on the training data."""

    epochs: ClassVar[int] = 10_000

    def load(self, folder: Path | None) -> Data[Samples]:
        """The training frames twice, then the test's."""
        data = super().load(folder)
        train = Samples(data.train.inputs[::4].clone(), data.train.targets[::4].clone())
        return Data(train, train, data.test)
