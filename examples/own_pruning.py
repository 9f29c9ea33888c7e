"""A pruning rule of your own, used by own_pruning.yaml: stop what is far behind the best trial at the same fidelity."""

from atoll import PruningRule, TrialReport


class FarBehind(PruningRule):
    def __init__(self, *, margin: float = 0.1) -> None:
        self.margin = margin
        self.best: dict[float, float] = {}

    def told(self, report: TrialReport) -> None:
        self.best[report.fidelity] = min(report.value, self.best.get(report.fidelity, report.value))

    def prunes(self, report: TrialReport) -> bool:
        return report.value > self.best.get(report.fidelity, report.value) + self.margin
