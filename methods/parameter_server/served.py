"""The setting `server` of the methods with a center: whether the center's owner trains as well, or only serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.validation import require_choice
from atoll.methods.method import Method, NotApplicable

SERVERS = ("shared", "dedicated")


@dataclass(frozen=True, kw_only=True)
class ServedHyperparameters:
    """Hyperparameters of a method with a center.

    Attributes:
        server: shared (rank 0 owns the center and trains) or dedicated (it only serves, so it always answers at once,
            and the other ranks share the data; Zhang 2016, section 2.2).
    """

    server: str = "shared"

    def __post_init__(self) -> None:
        require_choice("server", self.server, SERVERS)


S = TypeVar("S", bound=ServedHyperparameters)


class Served(Method[S]):
    """A method whose center has an owner that serves the other ranks."""

    asynchronous: ClassVar[bool] = True

    @classmethod
    def num_servers(cls, hyperparameters: S) -> int:
        """The owner, if it is dedicated, in a form that has one."""
        return 1 if hyperparameters.server == "dedicated" and cls.serves(hyperparameters) else 0

    @classmethod
    def without_effect(cls, hyperparameters: S, shape: TrainingShape) -> Mapping[str, str]:
        """A dedicated server in a form in which all ranks meet."""
        if hyperparameters.server == "dedicated" and not cls.serves(hyperparameters):
            return idle(("server",), "all ranks train in this form, which has no parameter server")
        return {}

    @classmethod
    def check(cls, hyperparameters: S, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for a dedicated server with nobody to serve."""
        if num_ranks <= cls.num_servers(hyperparameters):
            name = cls.__module__.rpartition(".")[2]
            raise NotApplicable(
                f"{name} with server: dedicated needs at least 2 ranks per worker, as rank 0 only serves; got "
                f"{num_ranks}: give it more, or choose server: shared"
            )
        super().check(hyperparameters, settings, num_ranks)
