"""The synthesizers of one DNI training: which exist, where they are placed, and how ranks ask them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch

from atoll.methods.layer_parallel.chain import Chain
from atoll.methods.layer_parallel.dni_hyperparameters import DniHyperparameters
from atoll.methods.layer_parallel.synthesizers import LocalLearner, RemoteLearner, Server, Synthesizer
from atoll.methods.method import Batch, Context

Kind = Literal["M", "I"]
_LOSS_TITLES: dict[Kind, str] = {"M": "synthesizer_loss", "I": "input_loss"}


class SynthesizerId(NamedTuple):
    """Names a synthesizer: M predicts the gradient at a group's output, I predicts a group's input."""

    kind: Kind
    group: int

    @classmethod
    def parse(cls, text: str) -> SynthesizerId:
        """The name that `str` returns."""
        kind, _, group = text.partition("/")
        assert kind in ("M", "I"), text
        return cls("M" if kind == "M" else "I", int(group))

    def __str__(self) -> str:
        return f"{self.kind}/{self.group}"

    def number(self, num_groups: int) -> int:
        """A number unique to this synthesizer, for message tags and seeds: all M first, then all I."""
        return self.group if self.kind == "M" else num_groups + self.group


class Synthesizers:
    """All synthesizers that this rank asks, and those that it holds.

    Args:
        hyperparameters: the method's.
        context: the trial's.
        chain: the groups and their ranks.
        server: the rank that holds all synthesizers; None if they are placed with their groups.

    Attributes:
        asked: learners that this rank asks for predictions.
        local: learners on this rank.
    """

    def __init__(self, hyperparameters: DniHyperparameters, context: Context, chain: Chain, server: int | None) -> None:
        h = self._hyperparameters = hyperparameters
        self._context = context
        self._chain = chain
        self._server = server
        self._messages = context.communicator.split(0)
        self._num_classes = chain.shapes[-1][-1] if h.conditioned else 0
        self._servers: list[Server] = []
        self._needs_start = server == context.communicator.rank
        self.local: dict[SynthesizerId, LocalLearner] = {}
        self.asked: dict[SynthesizerId, LocalLearner | RemoteLearner] = {}
        for name in self._names(chain.mine):
            if server is None:
                self.asked[name] = self._local_learner(name)
            else:
                self.asked[name] = RemoteLearner(self._messages, server, self._number(name), self._shapes(name)[1])

    def gradient(self, group: int) -> LocalLearner | RemoteLearner:
        """M above `group`."""
        return self.asked[SynthesizerId("M", group)]

    def input(self, group: int) -> LocalLearner | RemoteLearner:
        """I below `group`."""
        return self.asked[SynthesizerId("I", group)]

    # Serving other ranks.

    def wait_for_served_batches(self, batch: Batch) -> None:
        """On the server, wait until all predictions asked for in earlier steps have been answered and learned from.

        So every learner takes a batch at the learning rate of its own step or of the next one. The first call starts
        the server, as it needs the shapes of `batch`.
        """
        if self._needs_start:
            self._start_servers(batch)
        for server in self._servers:
            self._wait_for(server)

    def _wait_for(self, server: Server) -> None:
        self._context.communicator.wait_until(lambda: server.is_done)

    def _start_servers(self, batch: Batch) -> None:
        """Serve the learners of all other ranks from now on."""
        label_shape = tuple(batch.targets.shape[1:])
        for name in self._names(range(len(self._chain.groups))):
            labels = label_shape if self._hyperparameters.conditioned and name.kind == "M" else None
            learner = self._local_learner(name)
            server = Server(
                self._messages, self._number(name), learner, *self._shapes(name), labels, len(batch.targets)
            )
            self._servers.append(server)
            self._context.communicator.services.append(server.serve)
        self._needs_start = False

    def expect_batch(self) -> None:
        """On the server, note that every other rank asks about one more batch."""
        for server in self._servers:
            server.num_expected += 1

    def settle(self) -> None:
        """Wait until all that this rank has sent is taken, and all that it serves is learned; collective."""
        for learner in self.asked.values():
            if isinstance(learner, RemoteLearner):
                learner.settle()
        self._context.untracked.wait_until(lambda: all(server.is_done for server in self._servers))

    # Reports and state.

    def losses(self) -> dict[str, float]:
        """The mean losses since the last call, by group and over all groups; collective.

        Copies of a synthesizer on several ranks are averaged, too.
        """
        num = len(self._chain.groups)
        totals = torch.zeros(2, 2 * num, dtype=torch.float64)
        sums, counts = totals.unbind()
        for name, learner in self.local.items():
            sums[self._number(name)] += sum(learner.losses)
            counts[self._number(name)] += len(learner.losses)
            learner.losses.clear()
            if self._server is None:
                self._chain.average_over_peers(learner.flat.state)
        self._context.untracked.sum(totals)
        metrics: dict[str, float] = {}
        for kind, title in _LOSS_TITLES.items():
            means = {}
            for g in range(num):
                number = SynthesizerId(kind, g).number(num)
                if counts[number]:
                    means[g] = float(sums[number] / counts[number])
            if means:
                metrics |= {f"{title}/group_{g}": mean for g, mean in means.items()}
                metrics[title] = sum(means.values()) / len(means)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the learners on this rank, by name, such as M/0."""
        return {str(name): learner.state_dict() for name, learner in self.local.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        for name, saved in state.items():
            self._local_learner(SynthesizerId.parse(name)).load_state_dict(saved)

    # Construction.

    def _names(self, groups: list[int] | range) -> list[SynthesizerId]:
        """The synthesizers that belong to `groups`."""
        names = [SynthesizerId("M", g) for g in groups if g < self._chain.last]
        if self._hyperparameters.mode == "fully_decoupled":
            names += [SynthesizerId("I", g) for g in groups if g > 0]
        return names

    def _number(self, name: SynthesizerId) -> int:
        return name.number(len(self._chain.groups))

    def _shapes(self, name: SynthesizerId) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of one sample's input and prediction."""
        shapes, g = self._chain.shapes, name.group
        if name.kind == "M":
            return shapes[g + 1], shapes[g + 1]
        return shapes[0 if self._hyperparameters.inputs_from == "x" else g - 1], shapes[g]

    def _local_learner(self, name: SynthesizerId) -> LocalLearner:
        """The learner on this rank, made at the first call."""
        if name not in self.local:
            self.local[name] = self.make_learner(name)
        return self.local[name]

    def make_learner(self, name: SynthesizerId) -> LocalLearner:
        """Return a new learner with its initial weights."""
        h, predicts_gradient = self._hyperparameters, name.kind == "M"
        synthesizer = Synthesizer(
            *self._shapes(name),
            num_classes=self._num_classes if predicts_gradient else 0,
            depth=h.depth,
            width=h.width,
            zero=predicts_gradient and h.start == "zero",
            seed=self._context.seed * 1_000_003 + self._number(name),
        )
        is_frozen = h.freeze_inputs and not predicts_gradient
        return LocalLearner(self._context, synthesizer, h.synthesizer_lr, frozen=is_frozen)
