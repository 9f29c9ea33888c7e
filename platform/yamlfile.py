"""YAML and JSON files as validated models, with errors that say file, line, key, rule, value and valid choices."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]


class Loader(yaml.SafeLoader):
    """Safe YAML, with 1e-3 as a number, as in YAML 1.2 (in 1.1 it is a string)."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*[eE][-+]?\d+"), list("-+0123456789"))


class FileError(ValueError):
    """A file does not say what it must; the message has one line per mistake."""


def read(text: str) -> Any:
    """What a YAML or JSON text holds."""
    return yaml.load(text, Loader=Loader)


def load(path: Path, model: type[Model], *, inside: bool = False) -> Model:
    """Read `path` as `model`. Raises FileError, also for code outside its folder if `inside` is set."""
    try:
        text = path.read_text()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    try:
        content, node = read(text), yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise FileError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise FileError(f"{path}: must hold keys and values; valid keys are {', '.join(model.model_fields)}")
    return validate(content, model, source=str(path), folder=path.parent, node=node, inside=inside)


def validate(
    content: dict[str, Any],
    model: type[Model],
    *,
    source: str,
    folder: Path,
    node: yaml.Node | None = None,
    inside: bool = False,
) -> Model:
    """Make `model` of `content`; `source` names it in errors. Raises FileError."""
    try:
        return model.model_validate(content, context={"folder": str(folder), "inside": inside})
    except ValidationError as error:
        lines = [_explain(e["loc"], e["type"], e["msg"], e["input"], model, source, node) for e in error.errors()]
        raise FileError("\n".join(lines)) from None


def _explain(
    location: Location,
    kind: str,
    message: str,
    value: object,
    model: type[BaseModel],
    source: str,
    node: yaml.Node | None,
) -> str:
    line = _line(node, location)
    where = f"{source}, line {line}" if line else source
    key = ".".join(map(str, location)) or "the file"
    if kind == "extra_forbidden":
        valid = _valid_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), valid, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{where}: {key}: unknown key{hint}; valid keys are {', '.join(valid)}"
    if kind == "missing":
        return f"{where}: {key}: required, but not given"
    shown = "" if isinstance(value, dict) else f"; got {value!r}"
    rule = message.removeprefix("Value error, ")
    return f"{where}: {key}: {rule}{'' if f'got {value!r}' in rule else shown}"


def _line(node: yaml.Node | None, location: Sequence[int | str]) -> int | None:
    """The line of the deepest key on the way to `location`."""
    line = None
    for key in location:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(key)]
            if not found:
                continue  # pydantic names the branch of a union, which is no key
            name, node = found[0]
            line = name.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _valid_keys(model: type[BaseModel], location: Location) -> list[str]:
    for key in location:
        candidates = [model.model_fields[str(key)].annotation] if str(key) in model.model_fields else []
        models = [m for candidate in candidates for m in _models(candidate)]
        model = models[0] if models else model
    return list(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [m for part in get_args(annotation) for m in _models(part)]
    return []
