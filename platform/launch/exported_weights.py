"""A trained model for use without atoll: its configuration, its weights, and a script that loads them.

The script makes the network by its class, if calling that with plain Python values gives the network again and the
script runs where atoll cannot be imported. Any other network is written as a program of `torch.export`, which needs no
class.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from atoll.analysis.formatting import number
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration, located, split_hyperparameters
from atoll.platform.trial import weights
from atoll.storage.export import as_yaml
from atoll.storage.files import replacing, write_whole
from atoll.storage.folder import StudyFolder
from atoll.storage.names import FUNCTION
from atoll.storage.store import StoreError
from atoll.storage.writable import check_writable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from atoll.methods.method import Batch
    from atoll.platform.workloads.workload import Workload
    from atoll.storage.models import ProvenanceRow, StudyRow, TrialRow

_OPENING = "# The model of trial "
CONFIGURATION, WEIGHTS, PROGRAM, SCRIPT = "configuration.yaml", "weights.safetensors", "model.pt2", "load.py"
PATIENCE = 120.0  # seconds that the script has to run
# Runs a script as where atoll is not installed.
_WITHOUT_ATOLL = "import runpy, sys; sys.modules['atoll'] = None; runpy.run_path(sys.argv[1])"


def weights_file(study: StudyRow, trial: TrialRow) -> Path:
    """The file of a trial's trained model.

    Raises:
        StoreError: if there is none of this attempt; the message names the trials that have weights.
    """
    folder = StudyFolder(study.folder)
    file = folder.trial(trial.number).weights
    if trial.state == "complete" and file.is_file():
        name = study.curve_metric or study.metric
        expected = trial.objective if name == study.metric else (trial.metrics or {}).get(name)
        if expected is not None and (found := weights.metric_of(file)) not in (None, expected):
            raise StoreError(
                f"the weights of trial {trial.number} of {study.name} are of another attempt: their {name} is "
                f"{found}, and that of attempt {trial.attempt} is {expected}"
            )
        return file
    files = (path for path in folder.trials.glob(f"*/{WEIGHTS}") if path.is_file())
    numbered = sorted(int(path.parent.name) for path in files if path.parent.name.isdigit())
    if numbered:
        more = f" and {len(numbered) - 20} more" if len(numbered) > 20 else ""
        numbers = ", ".join(map(str, numbered[:20])) + more
        state = "" if trial.state == "complete" else f", as it is {trial.state}"
        raise StoreError(f"trial {trial.number} of {study.name} has no weights{state}; trials with weights: {numbers}")
    if study.method == FUNCTION:
        raise StoreError(
            f"{study.name} calls a function, whose files are what it writes to trial.folder: see {file.parent}"
        )
    raise StoreError(
        f"{study.name} has no weights in {folder.trials} on this host: a study keeps them with "
        "`checkpoint: {weights: best}`; `atoll train CONFIG.yaml --save FILE` trains a configuration again"
    )


def export_weights(
    study: StudyRow,
    trial: TrialRow,
    folder: Path,
    *,
    provenances: Sequence[ProvenanceRow] = (),
    factors: bool = False,
    outside: bool = False,
) -> list[str]:
    """Write a trial's configuration, weights and loading script into a folder; returns notes on what is not there.

    Args:
        study, trial: the trial.
        folder: made if it is absent.
        provenances: the study's, see `configuration`.
        factors: whether factored layers stay factors, which the script multiplies. Default: full weights.
        outside: whether code outside the working directory may run to make the network.

    Raises:
        NotWritable: if the folder cannot be written, or its disk has no room for the weights.
        StoreError: if the trial has no weights, they do not fit the network that its workload makes now, or the folder
            holds other files of these names.
        UnknownName: if code of the trial's is outside the working directory.
    """
    file = weights_file(study, trial)
    if not outside:
        _check_inside(trial.configuration, Path.cwd())
    _check_free(folder)
    check_writable(folder, "the folder of --weights", "name another one, or make room", file.stat().st_size)
    title = f"trial {trial.number} of {study.name}: {study.metric} {number(trial.objective)}"
    script = _Script(folder / SCRIPT, title)
    description = as_yaml(study, [trial], provenances, folder, alone=True)
    with tempfile.TemporaryDirectory(prefix="atoll-export-") as own:
        try:
            network = _Network.of(Configuration.model_validate(dict(trial.configuration)), Path(own))
        except (Exception, SystemExit) as error:  # of the user's code, or such as an absent file or library
            _begin(folder, description)
            with replacing(folder / WEIGHTS) as partial:
                shutil.copyfile(file, partial)
            why = f"the workload does not make it here ({_line(error)})"
            script.write_without_network(why)
            return [f"{SCRIPT} does not make the network, and low-rank factors stay as they are: {why}"]
        tensors, script.products = network.load(file, factors=factors)
        _begin(folder, description)
        weights.write(folder / WEIGHTS, weights.copied(tensors))
        if (construction := network.construction(folder)) is not None:
            script.write(*construction)
            if script.runs():
                return network.doubts()
        try:
            notes = network.write_program(folder / PROGRAM)
        except (Exception, SystemExit) as error:  # data absent, or a network that torch.export does not support
            why = f"torch.export failed ({_line(error)})"
            script.write_without_network(why)
            return [f"{SCRIPT} does not make the network, and there is no {PROGRAM}: {why}"]
        script.write([], f"torch.export.load(here / {PROGRAM!r}).module()", has_weights=True)
        return notes


def _check_inside(configuration: Mapping[str, Any], folder: Path) -> None:
    """Raise UnknownName if a configuration names code outside `folder`."""
    for part in ("workload", "method"):
        registry.check_inside(str(configuration.get(part)), folder)
    hyperparameters = configuration.get("hyperparameters")
    located(dict(hyperparameters) if isinstance(hyperparameters, dict) else {}, {"folder": folder, "inside": True})


def _check_free(folder: Path) -> None:
    """Raise StoreError if the folder holds files that an export would replace, and that are of no export."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"--weights needs a folder; {folder} is a file")
    found = [name for name in (CONFIGURATION, WEIGHTS, PROGRAM, SCRIPT) if (folder / name).exists()]
    script = folder / SCRIPT
    is_export = script.is_file() and script.read_bytes().startswith(_OPENING.encode())
    if found and not is_export:
        raise StoreError(
            f"{folder} holds {', '.join(found)}, which an export would replace, and which no export has written: "
            "remove them, or choose another folder"
        )


def _begin(folder: Path, configuration: str) -> None:
    """Make the folder, without the files of an earlier export, and write the configuration.

    The script goes first: without it there is no export, and the others are never of two trials.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SCRIPT, f"{_OPENING}is incomplete here: its export was interrupted\n")
    for name in (WEIGHTS, PROGRAM):
        (folder / name).unlink(missing_ok=True)
    write_whole(folder / CONFIGURATION, configuration)


def _line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    return f"{type(error).__name__}: {error}".splitlines()[0]


@dataclass(frozen=True)
class Call:
    """The positional and keyword arguments of a class, as text: of Python literals only."""

    arguments: tuple[str, ...]
    keywords: Mapping[str, str]

    def __str__(self) -> str:
        return ", ".join([*self.arguments, *(f"{name}={text}" for name, text in self.keywords.items())])

    def made(self, network_class: type[nn.Module]) -> nn.Module:
        """The network that the call makes."""
        keywords = {name: ast.literal_eval(text) for name, text in self.keywords.items()}
        return network_class(*map(ast.literal_eval, self.arguments), **keywords)


def made(make: Callable[[], nn.Module]) -> tuple[nn.Module, Call | None]:
    """A network, and how its class was called; None if an argument is no literal."""
    network_class = type(make())
    own, original = "__init__" in vars(network_class), network_class.__init__
    calls: list[tuple[nn.Module, Call | None]] = []

    def recording(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        calls.append((self, _call(args, kwargs)))  # as they are before the call, which may change them
        original(self, *args, **kwargs)

    network_class.__init__ = recording  # type: ignore[method-assign]
    try:
        network = make()
    finally:
        if own:
            network_class.__init__ = original  # type: ignore[method-assign]
        else:
            del network_class.__init__
    return network, next((call for made_one, call in calls if made_one is network), None)


def _call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    if not all(map(_is_literal, (*args, *kwargs.values()))):
        return None
    return Call(tuple(map(repr, args)), {name: repr(value) for name, value in kwargs.items()})


def _is_literal(value: object) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except Exception:  # such as of a user's __repr__
        return False


class _Network:
    """A trial's network as its workload makes it, with the trial's weights once they are loaded."""

    def __init__(self, workload: Workload, batch: Batch | str) -> None:
        self._workload = workload
        self._batch = batch  # of validation data, or why there is none
        self._model, self._call = made(workload.model)

    @classmethod
    def of(cls, configuration: Configuration, own: Path) -> _Network:
        """Make it as the trial did: after loading the data, if they are here.

        Args:
            configuration: the trial's.
            own: a folder for files of the workload's.
        """
        from atoll.platform.trial.evaluator import evaluation_batches

        c = configuration
        of_workload = split_hyperparameters(c.method, c.workload, c.hyperparameters, c.ranks)[2]
        workload = registry.workload(c.workload, of_workload)
        workload.trial_folder = own
        try:
            data = workload.load(Path(c.data) if c.data else None)
            batch: Batch | str = next(iter(evaluation_batches(workload, data.validation, 0, 1, "cpu")))
        except Exception as error:
            batch = _line(error)
        return cls(workload, batch)

    def load(self, file: Path, *, factors: bool) -> tuple[dict[str, Tensor], dict[str, tuple[list[str], list[int]]]]:
        """Load a file of weights.

        Returns:
            the tensors, in full or with their factors; for each weight that stays factored, the names of its factors
            and its shape.
        """
        from atoll.methods.low_rank import factored

        tensors, as_trained = weights.read(file), self._workload.model()
        try:
            factored.load(as_trained, tensors)
            full = factored.merged_state_dict(as_trained)
            self._model.load_state_dict(full)
        except (RuntimeError, KeyError) as error:
            raise StoreError(f"{file} does not fit the network that the workload makes now: {error}") from error
        self._model.eval()
        return (tensors, _products(full, tensors)) if factors else (full, {})

    def construction(self, folder: Path) -> tuple[list[str], str] | None:
        """The lines that import the network's class into a script in `folder`, and its call; None if not possible.

        It is if the class is at the top of a module, was called with literals, and this call makes the network again.
        """
        cls = type(self._model)
        module = sys.modules.get(cls.__module__)
        if self._call is None or module is None or getattr(module, cls.__qualname__, None) is not cls:
            return None
        if cls.__module__.partition(".")[0] == "atoll" or not self._is_same(self._call.made(cls)):
            return None
        file, name = getattr(module, "__file__", None), cls.__module__
        installed = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
        lines = []
        if file is not None and not file.startswith(installed):
            path = Path(file).absolute()
            name = path.stem if name.startswith("_atoll_user_") else name
            root = path.parents[name.count(".") + (path.stem == "__init__")]
            relative = Path(os.path.relpath(root, folder.absolute())).as_posix()
            lines.append(f"sys.path.insert(0, str(here / {relative!r}))")
        return [*lines, f"from {name} import {cls.__name__}"], f"{cls.__name__}({self._call})"

    def doubts(self) -> list[str]:
        """A note if the outputs of a network could not be compared."""
        if not isinstance(self._batch, str):
            return []
        return [f"{SCRIPT}: the network's outputs were not compared, as there is no validation batch ({self._batch})"]

    def _is_same(self, other: nn.Module) -> bool:
        """Whether another network is this one once it has its weights: in its parts, and in its outputs."""
        import torch

        if repr(other) != repr(self._model):
            return False
        try:
            other.load_state_dict(self._model.state_dict())
        except RuntimeError:
            return False
        if isinstance(self._batch, str):
            return True
        with torch.no_grad():
            mine, others = (self._workload.forward(model, self._batch) for model in (self._model, other.eval()))
        try:
            torch.testing.assert_close(others, mine, rtol=0, atol=0, equal_nan=True)
        except (AssertionError, TypeError, ValueError):
            return False
        return True

    def write_program(self, file: Path) -> list[str]:
        """Write the network, in evaluation mode, as a program of torch's; returns notes on its limits."""
        import torch

        from atoll.methods.common.nested import map_tensors

        if isinstance(self._batch, str):
            raise RuntimeError(f"it needs a batch of validation data: {self._batch}")
        inputs = self._batch.inputs
        if len(self._batch.indices) == 1:  # else torch takes one for the only size
            inputs = map_tensors(lambda tensor: torch.cat([tensor, tensor]), inputs)
        kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
        args = () if kwargs else tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
        notes = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                size = {0: torch.export.Dim("batch")}
                sizes = dict.fromkeys(kwargs, size) or tuple(size for _ in args)
                program = torch.export.export(self._model, args, kwargs, dynamic_shapes=sizes)
            except Exception as error:  # a network may depend on the size of its batches
                program = torch.export.export(self._model, args, kwargs)
                notes = [f"{PROGRAM} takes batches of {len(self._batch.indices)} samples only ({_line(error)})"]
            with replacing(file) as partial, partial.open("wb") as stream:
                torch.export.save(program, stream)
        return notes


def _products(full: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, tuple[list[str], list[int]]]:
    from atoll.methods.low_rank.factored import FACTORS, join

    products = {}
    for name in sorted(full.keys() - tensors.keys()):
        layer = name.rpartition(".")[0]
        forms = ([join(layer, factor) for factor in form] for form in FACTORS)
        products[name] = (next(form for form in forms if form[0] in tensors), list(full[name].shape))
    return products


class _Script:
    """The script that loads the model.

    Args:
        file: where it is written.
        title: the trial and its objective, for the first line.

    Attributes:
        products: for each weight that is to be multiplied from factors, their names, and its shape.
    """

    def __init__(self, file: Path, title: str) -> None:
        self._file = file
        self._title = title
        self.products: Mapping[str, tuple[list[str], list[int]]] = {}

    def write(self, imports: Sequence[str], call: str, *, has_weights: bool = False) -> None:
        """Write it.

        Args:
            imports: the lines that import the network's class.
            call: the expression that makes the network.
            has_weights: whether the network then has its weights.
        """
        products = {} if has_weights else self.products
        # Names may have been made to be code: all that comes from the store is quoted.
        lines = [_OPENING + json.dumps(self._title)[1:-1].removeprefix("trial ")]
        needed = "torch" if has_weights else "torch and safetensors"
        lines += [f"# It needs {needed}, and what the network's own files import; not atoll."]
        lines += ["import sys"] if any(line.startswith("sys.") for line in imports) else []
        lines += ["from pathlib import Path", ""]
        lines += ["import torch"] if has_weights or products else []
        lines += [] if has_weights else ["from safetensors.torch import load_file"]
        lines += ["", "here = Path(__file__).resolve().parent", *imports, f"model = {call}"]
        if not has_weights:
            lines += [f"state = load_file(here / {WEIGHTS!r})"]
            lines += [
                f"state[{name!r}] = torch.linalg.multi_dot([state.pop(n) for n in {names}]).reshape({shape})"
                for name, (names, shape) in products.items()
            ]
            lines += ["model.load_state_dict(state)", "model.eval()"]
        write_whole(self._file, "\n".join(lines) + "\n")

    def write_without_network(self, why: str) -> None:
        """Write it with a place for the network."""
        self.write([], f"...  # put your network here: {json.dumps(why)[1:-1]}")

    def runs(self) -> bool:
        """Whether the script runs in a process of its own that cannot import atoll."""
        command = [sys.executable, "-c", _WITHOUT_ATOLL, str(self._file.absolute())]
        try:
            with tempfile.TemporaryDirectory() as elsewhere:
                done = subprocess.run(command, check=False, cwd=elsewhere, capture_output=True, timeout=PATIENCE)
                return done.returncode == 0
        except subprocess.TimeoutExpired:
            return False
