"""Which optimizers the compared methods had: where these differ, a comparison is one of optimizers, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from atoll.storage.models import StudyRow


def notes(studies: Iterable[StudyRow]) -> list[str]:
    """A warning for each group of workloads whose methods had different optimizers.

    Methods that searched the same optimizers had the same, whichever they found.

    Args:
        studies: those of a benchmark, of which the confirmations count.
    """
    had: dict[str, dict[str, str]] = {}
    for study in studies:
        if study.stage == "confirm" and (optimizers := _optimizers(study.definition)):
            had.setdefault(str(study.workload_label), {})[str(study.method_label)] = " or ".join(optimizers)
    alike: dict[str, list[str]] = {}
    for workload, by_method in had.items():
        if len(set(by_method.values())) > 1:
            alike.setdefault(_told(by_method), []).append(workload)
    return [
        f"the methods had different optimizers on {', '.join(workloads)}, which may explain differences between them: "
        f"{told}"
        for told, workloads in alike.items()
    ]


def _told(by_method: Mapping[str, str]) -> str:
    """Each optimizer with its methods."""
    methods: dict[str, list[str]] = {}
    for method, optimizer in by_method.items():
        methods.setdefault(optimizer, []).append(method)
    return "; ".join(f"{optimizer} ({', '.join(names)})" for optimizer, names in sorted(methods.items()))


def _optimizers(definition: Mapping[str, Any]) -> list[str]:
    """Those that were searched, else those of the confirmed configurations; none if that is not recorded."""
    searched = (definition.get("space") or {}).get("optimizer")
    if isinstance(searched, dict) and searched.get("choices"):
        return sorted(map(str, searched["choices"]))
    configurations = (definition.get("confirm") or {}).get("configurations", [])
    return sorted({str(one["optimizer"]) for one in configurations if "optimizer" in one})
