"""A sampler of your own, used by own_sampler.yaml: random neighbors of the best trial, nearer with each result.

It works in the coordinates of the space, from 0 to 1 on each parameter's scale, which `encode` and `decode` convert.
"""

from collections.abc import Mapping
from typing import Any

from atoll import Sampler, SearchSpace, TrialResult


class LocalSearch(Sampler):
    def __init__(self, space: SearchSpace, *, startup: int = 4, radius: float = 0.3, **others: Any) -> None:
        super().__init__(space, **others)
        if self.num_objectives > 1:
            raise ValueError("LocalSearch needs one objective")
        self.startup, self.radius = startup, radius
        self.results: dict[int, TrialResult] = {}

    def told(self, result: TrialResult) -> None:
        if result.state == "complete":
            self.results[result.number] = result

    def left(self, number: int) -> None:
        self.results.pop(number, None)

    def propose(self, number: int) -> Mapping[str, Any]:
        if len(self.results) < self.startup:
            return self.draw()
        best = min(self.results.values(), key=lambda result: (result.losses, result.number))
        radius = self.radius * (self.startup / len(self.results)) ** 0.5
        genes = self.space.encode(dict(self.space.fixed) | best.hyperparameters)
        for name, (low, high) in self.space.limits().items():
            if isinstance(low, float):
                genes[name] = min(max(genes[name] + self.random.gauss(0.0, radius), low), high)
            elif self.random.random() < radius:  # a choice
                genes[name] = self.random.randint(low, int(high))
        values = self.space.decode(genes)
        return {name: values[name] for name in values if name in genes}
