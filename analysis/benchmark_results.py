"""The stored results of a benchmark, finished or not: its studies, confirmations and predictions."""

from __future__ import annotations

from collections import Counter

from atoll.analysis import confirmations, provenance_differences
from atoll.analysis.confirmations import Confirmation, compared
from atoll.analysis.formatting import counted
from atoll.storage.models import BenchmarkRow
from atoll.storage.store import Store

METRIC = "metric"  # what a workload's entry is compared by, unless it says otherwise


class BenchmarkResults:
    """Reads what the store holds of a benchmark.

    Attributes:
        name: of the benchmark.
        studies: those that have begun.
        methods, workloads: all names, as the benchmark has them.
        confirmations: those that have ended.
        counting: of these, those of each tuning's chosen configuration, which alone count.
        tuning_trials: the trials of each tuning study, by its id.
        hopeless: the tuning studies that found nothing to confirm.
        targets: by workload that has begun; None without one.
        directions: of the compared value, by workload with confirmations.
        others: the compared value, of the workloads on which it is not the metric.
        variants: the held-out variant of each base workload that has one.
        num_tunings: independent tunings of each method on each workload.
        num_ended, num_expected: studies.
        projections: predictions for the counting confirmations.
        changed: code, data and libraries that differ between the studies.
    """

    def __init__(self, store: Store, benchmark: BenchmarkRow) -> None:
        definition = benchmark.definition
        self.name = benchmark.name
        self.studies = store.studies_of(benchmark)
        self.methods = [entry["name"] for entry in definition["methods"]]
        self.workloads = [entry["name"] for entry in definition["workloads"]]
        self.confirmations = confirmations.read(store, benchmark)
        self.counting = [row for row in self.confirmations if row.is_chosen]
        self.tuning_trials = {study.id: store.trials(study) for study in self.studies if study.stage == "tune"}
        # A tuning's target may be another objective's; the confirmations come later and replace it.
        values = {entry["name"]: entry.get("compared", METRIC) for entry in definition["workloads"]}
        self.others = {workload: value for workload, value in values.items() if value != METRIC}
        confirmed = {str(s.workload_label): compared(s) for s in self.studies if s.stage == "confirm"}
        begun = {str(s.workload_label): s.target for s in self.studies if s.workload_label not in self.others}
        self.targets = begun | {workload: aim.target for workload, aim in confirmed.items()}
        self.directions = {workload: aim.direction for workload, aim in confirmed.items()}
        self.variants = {e["variant_of"]: e["name"] for e in definition["workloads"] if e["variant_of"]}
        self.num_tunings = definition.get("tuning", {}).get("repeats", 1)
        tuned = [study for study in self.studies if study.id in self.tuning_trials]
        self.hopeless = [study for study in tuned if confirmations.is_hopeless(study, self.tuning_trials[study.id])]
        self.num_expected = benchmark.num_studies - len(self.hopeless)
        self.num_ended = sum(study.state in confirmations.ENDED for study in self.studies)
        self.projections = store.projections(row.trial_id for row in self.counting if row.trial_id is not None)
        records = (row.record for study in self.studies for row in store.provenances(study))
        self.changed = provenance_differences.differing(records)

    @property
    def is_complete(self) -> bool:
        """Whether all studies have ended."""
        return self.num_ended == self.num_expected

    @property
    def progress(self) -> str:
        """The number of studies that have ended, in words."""
        studies = counted(self.num_expected, "study", "studies")
        return f"{self.num_ended} of {studies} {'has' if self.num_expected == 1 else 'have'} ended"

    def counting_of(self, method: str, workload: str) -> list[Confirmation]:
        """The counting confirmations of a method on a workload."""
        return [row for row in self.counting if (row.method, row.workload) == (method, workload)]

    def finished_workloads(self) -> list[str]:
        """The workloads with a target on which every confirmation of every method has ended."""
        ended = Counter(
            (study.method_label, study.workload_label)
            for study in self.studies
            if (study.stage == "confirm" and study.state in confirmations.ENDED) or study in self.hopeless
        )
        return [
            workload
            for workload in self.workloads
            if self.targets.get(workload) is not None
            and all(ended[method, workload] == self.num_tunings for method in self.methods)
        ]
