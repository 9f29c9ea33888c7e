"""The public interface of atoll: all that workloads, methods and scripts of your own import.

Each name is loaded on first use, so `import atoll` alone needs neither torch nor MPI.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.communication.communicator import Communicator
    from atoll.methods.common.flat import FlatModel
    from atoll.methods.common.groups import ParameterGroup
    from atoll.methods.common.optimizers import OptimizerSettings
    from atoll.methods.common.validation import require
    from atoll.methods.method import Batch, Context, Method, NotApplicable
    from atoll.platform.commands.api import SearchFailed, search
    from atoll.platform.commands.ask_tell import AskedTrial, Study
    from atoll.platform.commands.changing import change
    from atoll.platform.study.own_pruning import PruningRule, TrialReport
    from atoll.platform.study.own_sampler import Sampler, TrialResult
    from atoll.platform.study.parameters import Categorical, Float, Int
    from atoll.platform.trial.objective_trial import ObjectiveTrial, Pruned
    from atoll.platform.workloads.workload import Classification, Data, DataMissing, Samples, Workload, find_file
    from atoll.results.reading import Results, StudyResults, open
    from atoll.searchspaces.space import Parameter, SearchSpace
    from atoll.storage.store import Store

# In a source tree the other packages are folders next to this one, not inside it.
if not Path(__file__).with_name("storage").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

try:
    __version__ = version("atoll")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"

_MODULES = {
    "AskedTrial": "atoll.platform.commands.ask_tell",
    "Batch": "atoll.methods.method",
    "Categorical": "atoll.platform.study.parameters",
    "Classification": "atoll.platform.workloads.workload",
    "Communicator": "atoll.communication.communicator",
    "Context": "atoll.methods.method",
    "Data": "atoll.platform.workloads.workload",
    "DataMissing": "atoll.platform.workloads.workload",
    "FlatModel": "atoll.methods.common.flat",
    "Float": "atoll.platform.study.parameters",
    "Int": "atoll.platform.study.parameters",
    "Method": "atoll.methods.method",
    "NotApplicable": "atoll.methods.method",
    "ObjectiveTrial": "atoll.platform.trial.objective_trial",
    "OptimizerSettings": "atoll.methods.common.optimizers",
    "Parameter": "atoll.searchspaces.space",
    "ParameterGroup": "atoll.methods.common.groups",
    "Pruned": "atoll.platform.trial.objective_trial",
    "PruningRule": "atoll.platform.study.own_pruning",
    "Results": "atoll.results.reading",
    "Sampler": "atoll.platform.study.own_sampler",
    "Samples": "atoll.platform.workloads.workload",
    "SearchFailed": "atoll.platform.commands.api",
    "SearchSpace": "atoll.searchspaces.space",
    "Store": "atoll.storage.store",
    "Study": "atoll.platform.commands.ask_tell",
    "StudyResults": "atoll.results.reading",
    "TrialReport": "atoll.platform.study.own_pruning",
    "TrialResult": "atoll.platform.study.own_sampler",
    "Workload": "atoll.platform.workloads.workload",
    "change": "atoll.platform.commands.changing",
    "find_file": "atoll.platform.workloads.workload",
    "open": "atoll.results.reading",
    "require": "atoll.methods.common.validation",
    "search": "atoll.platform.commands.api",
}

__all__ = [
    "AskedTrial",
    "Batch",
    "Categorical",
    "Classification",
    "Communicator",
    "Context",
    "Data",
    "DataMissing",
    "FlatModel",
    "Float",
    "Int",
    "Method",
    "NotApplicable",
    "ObjectiveTrial",
    "OptimizerSettings",
    "Parameter",
    "ParameterGroup",
    "Pruned",
    "PruningRule",
    "Results",
    "Sampler",
    "Samples",
    "SearchFailed",
    "SearchSpace",
    "Store",
    "Study",
    "StudyResults",
    "TrialReport",
    "TrialResult",
    "Workload",
    "__version__",
    "change",
    "find_file",
    "open",
    "require",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'atoll' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
