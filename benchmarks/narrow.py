"""Workloads with small networks, for many trainings on two cores."""

from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Subset

from atoll.platform.workloads.cifar10 import Cifar10Cnn7, Cifar10Vgg16, cnn7, vgg16
from atoll.platform.workloads.ett import ETTh1Autoformer96, autoformer
from atoll.platform.workloads.speech import SpeechMlp
from atoll.platform.workloads.text_gpt import TextGpt
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


def thinned(data: Data[Any], train: int, validation: int) -> Data[Any]:
    """A data set with so many samples of each part, evenly spaced; testing is by the validation's number."""

    def some(part: Any, count: int) -> Any:
        stride = max(1, len(part) // count)
        if isinstance(part, Samples):
            return Samples(part.inputs[::stride][:count].clone(), part.targets[::stride][:count].clone())
        return Subset(part, range(0, stride * count, stride)[: len(part)])

    return Data(some(data.train, train), some(data.validation, validation), some(data.test, validation))


class FewImages(NarrowCifar10):
    """1,000 training images of CIFAR-10."""

    def load(self, folder: Path | None) -> Data[Any]:
        """The images."""
        return thinned(super().load(folder), 1000, 300)


class FewBytes(TextGpt):
    """2,000 windows of a text."""

    def load(self, folder: Path | None) -> Data[Any]:
        """The windows."""
        return thinned(super().load(folder), 2000, 200)


class FewForecasts(ETTh1Autoformer96):
    """512 windows of ETTh1, and Autoformer with a thirty-second of its width."""

    def load(self, folder: Path | None) -> Data[Any]:
        """The windows."""
        return thinned(super().load(folder), 512, 64)

    def model(self):
        """Width 16, 2 heads, layers of 32 units."""
        return autoformer(self.length, 24, width=16, heads=2, hidden=32)


class FewFrames(SpeechMlp):
    """6,400 frames of spoken digits."""

    def load(self, folder: Path | None) -> Data[Any]:
        """The frames."""
        return thinned(super().load(folder), 6400, 2000)
