"""CIFAR-10 with a network that two cores train often."""

from atoll.platform.workloads.cifar10 import Cifar10Cnn7, cnn7


class NarrowCifar10(Cifar10Cnn7):
    """The 7-layer network with an eighth of its channels and a quarter of its units."""

    def model(self):
        """Channels 8, 16, 16 and 64 units."""
        return cnn7(8, 16, 16, 64)
