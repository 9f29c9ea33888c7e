"""A trained model for use without atoll: its configuration, its weights, and a script that loads them.

The script makes the network by its class, if that and its arguments are plain Python and its module takes nothing from
atoll. Any other network is written as a program of `torch.export`, which needs no class.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.platform.study import registry
from atoll.storage.export import as_yaml
from atoll.storage.files import replacing, write_whole
from atoll.storage.folder import StudyFolder
from atoll.storage.store import StoreError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from atoll.platform.workloads.workload import Workload
    from atoll.storage.models import ProvenanceRow, StudyRow, TrialRow

CONFIGURATION, WEIGHTS, PROGRAM, SCRIPT = "configuration.yaml", "weights.safetensors", "model.pt2", "load.py"


def weights_file(study: StudyRow, trial: TrialRow) -> Path:
    """The file of a trial's trained model. Raises StoreError if it has none, naming the trials that do."""
    folder = StudyFolder(study.folder)
    if (file := folder.trial(trial.number).weights).is_file():
        return file
    found = sorted(int(path.parent.name) for path in folder.trials.glob(f"*/{WEIGHTS}") if path.parent.name.isdigit())
    if found:
        numbers = ", ".join(map(str, found[:20])) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
        raise StoreError(f"trial {trial.number} of {study.name} has no weights; trials with weights: {numbers}")
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
        StoreError: if the trial has no weights, or they do not fit the network that its workload makes now.
        UnknownName: if the workload is outside the working directory.
    """
    file = weights_file(study, trial)
    if not outside:
        registry.check_inside(str(trial.configuration.get("workload")), Path.cwd())
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIGURATION, as_yaml(study, [trial], provenances, folder, alone=True))
    title = f"The model of trial {trial.number} of {study.name}: {study.metric} {trial.objective}."
    try:
        workload, data_folder = _workload(trial.configuration)
        model, arguments = made(workload.model)
    except Exception as error:  # of the user's code, or such as an absent file or library
        why = f"the workload does not make it here ({_line(error)})"
        shutil.copyfile(file, folder / WEIGHTS)
        write_whole(folder / SCRIPT, _script(title, [], f"...  # the network: {why}", {}))
        return [f"{SCRIPT} does not make the network: {why}"]
    products = _load(model, workload.model, file, folder / WEIGHTS, factors=factors)
    if (call := constructor(model, arguments, folder)) is not None:
        write_whole(folder / SCRIPT, _script(title, *call, products))
        return []
    try:
        _write_program(model, workload, data_folder, folder / PROGRAM)
    except Exception as error:  # data absent, or a network that torch.export does not support
        why = f"torch.export failed ({_line(error)})"
        write_whole(folder / SCRIPT, _script(title, [], f"...  # the network: {why}", products))
        return [f"{SCRIPT} does not make the network, and there is no {PROGRAM}: {why}"]
    write_whole(folder / SCRIPT, _script(title, [], f'torch.export.load(here / "{PROGRAM}").module()', None))
    return []


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _workload(content: Mapping[str, Any]) -> tuple[Workload, Path | None]:
    """A configuration's workload, and the folder of its data files."""
    from atoll.platform.study.configuration import Configuration, split_hyperparameters

    c = Configuration.model_validate(dict(content))
    of_workload = split_hyperparameters(c.method, c.workload, c.hyperparameters, c.ranks)[2]
    return registry.workload(c.workload, of_workload), Path(c.data) if c.data else None


def made(make: Callable[[], nn.Module]) -> tuple[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]:
    """A network, and the arguments that its class was called with."""
    network_class = type(make())
    own, original = "__init__" in vars(network_class), network_class.__init__
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def recording(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        calls.setdefault(id(self), (args, kwargs))
        original(self, *args, **kwargs)

    network_class.__init__ = recording  # type: ignore[method-assign]
    try:
        network = make()
    finally:
        if own:
            network_class.__init__ = original  # type: ignore[method-assign]
        else:
            del network_class.__init__
    return network, calls.get(id(network), ((), {}))


def constructor(
    model: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]], folder: Path
) -> tuple[list[str], str] | None:
    """The lines that import a network's class into a script in `folder`, and its call; None if that is not possible.

    It is if the class is at the top of a module that takes nothing from atoll, and its arguments are literals.
    """
    cls, (args, kwargs) = type(model), arguments
    module = sys.modules.get(cls.__module__)
    if module is None or "." in cls.__qualname__ or getattr(module, cls.__name__, None) is not cls:
        return None
    if not all(map(_is_literal, (*args, *kwargs.values()))) or _takes_from_atoll(vars(module)):
        return None
    call = f"{cls.__name__}({', '.join([*map(repr, args), *(f'{name}={value!r}' for name, value in kwargs.items())])})"
    imports = [f"from {cls.__module__} import {cls.__name__}"]
    file = getattr(module, "__file__", None)
    installed = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    if file is not None and not file.startswith(installed):
        if cls.__module__.startswith("_atoll_user_"):
            imports = [f"from {Path(file).stem} import {cls.__name__}"]
        root = Path(file).resolve().parents[cls.__module__.count(".")]
        relative = Path(os.path.relpath(root, folder.resolve())).as_posix()
        imports.insert(0, f'sys.path.insert(0, str(here / "{relative}"))')
    return imports, call


def _is_literal(value: object) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def _takes_from_atoll(content: Mapping[str, Any]) -> bool:
    names = {str(content.get("__name__"))} | {
        str(value.__name__ if isinstance(value, type(sys)) else getattr(value, "__module__", ""))
        for value in content.values()
    }
    return any(name.partition(".")[0] == "atoll" for name in names)


def _load(
    model: nn.Module, make: Callable[[], nn.Module], source: Path, target: Path, *, factors: bool
) -> dict[str, tuple[list[str], list[int]]]:
    """Load a file of weights into a network, and write it, in full or with its factors.

    Returns:
        for each weight that stays factored: the names of its factors, and its shape.
    """
    from safetensors.torch import save_file

    from atoll.methods.low_rank import factored
    from atoll.platform.trial.weights import read

    tensors, like_trained = read(source), make()
    try:
        factored.load(like_trained, tensors)
        full = factored.merged_state_dict(like_trained)
        model.load_state_dict(full)
    except (RuntimeError, KeyError) as error:
        raise StoreError(f"{source} does not fit the network that the workload makes now: {error}") from error
    if factors:
        shutil.copyfile(source, target)
        return _products(full, tensors)
    with replacing(target) as partial:
        save_file({name: value.clone().contiguous() for name, value in full.items()}, partial, {"format": "pt"})
    return {}


def _products(full: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, tuple[list[str], list[int]]]:
    from atoll.methods.low_rank.factored import FACTORS, join

    products = {}
    for name in sorted(full.keys() - tensors.keys()):
        layer = name.rpartition(".")[0]
        forms = ([join(layer, factor) for factor in form] for form in FACTORS)
        products[name] = (next(form for form in forms if form[0] in tensors), list(full[name].shape))
    return products


def _write_program(model: nn.Module, workload: Workload, data_folder: Path | None, file: Path) -> None:
    """Write the network, in evaluation mode, as a program of torch's, for batches of any size."""
    import torch

    from atoll.platform.trial.evaluator import evaluation_batches

    data = workload.load(data_folder).validation
    batch = next(iter(evaluation_batches(workload, data, 0, 1, "cpu")))
    inputs = batch.inputs
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    args = () if kwargs else tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            size = {0: torch.export.Dim("batch")}
            sizes = dict.fromkeys(kwargs, size) or tuple(size for _ in args)
            program = torch.export.export(model, args, kwargs, dynamic_shapes=sizes)
        except Exception:  # a network may need the size of its batches
            program = torch.export.export(model, args, kwargs)
        with replacing(file) as partial, partial.open("wb") as stream:
            torch.export.save(program, stream)


def _script(
    title: str, imports: Sequence[str], call: str, products: Mapping[str, tuple[list[str], list[int]]] | None
) -> str:
    """The text of the script.

    Args:
        title: its first line.
        imports: the lines that import the network's class.
        call: the expression that makes the network.
        products: the weights to be multiplied from factors; None if the network is made with its weights.
    """
    path = [line for line in imports if line.startswith("sys.")]
    others = [line for line in imports if not line.startswith("sys.")]
    lines = [f'"""{title}"""', "", *(["import sys"] if path else []), "from pathlib import Path", ""]
    lines += ["import torch"] if products is None or products else []
    lines += [] if products is None else ["from safetensors.torch import load_file"]
    lines += ["", "here = Path(__file__).resolve().parent", *path, *others, f"model = {call}"]
    if products is not None:
        lines += [f'state = load_file(here / "{WEIGHTS}")']
        lines += [
            f"state[{name!r}] = torch.linalg.multi_dot([state.pop(n) for n in {names}]).reshape({shape})"
            for name, (names, shape) in products.items()
        ]
        lines += ["model.load_state_dict(state)"]
    return "\n".join([*lines, "model.eval()" if products is not None else "", ""]).rstrip("\n") + "\n"
