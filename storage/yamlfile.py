"""YAML and JSON files as validated models; errors have the file, line, key, rule, value and valid choices."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.composer import ComposerError

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]


MAX_DEPTH = 50
MAX_NODES = 500_000  # with every alias replaced by what it stands for
MAX_SHOWN = 300  # characters of a value in an error
MAX_MISTAKES = 20
MAX_INTEGER = 2**63 - 1  # that databases hold; larger ones also overflow Python's floats
_INTEGER = re.compile(r"[-+]?\d[\d_]*|0o[0-7]+|0x[\da-fA-F]+")
_REAL = re.compile(
    r"[-+]?(?:\.\d[\d_]*|\d[\d_]*(?:\.[\d_]*)?)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NOT_OF_YAML_1_2 = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


class Loader(yaml.SafeLoader):
    """Safe YAML with the numbers of YAML 1.2.

    In YAML 1.1, 010 is eight, 1:30 is ninety, 1e-3 is a string, and 2020-01-01 is a date. Content that is nested
    deeply, or that aliases make large or endless, is an error: a few lines of aliases may stand for billions of values.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NOT_OF_YAML_1_2]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # of a composed node: nodes and levels below and with it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As in PyYAML, within the limits."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and not is_alias:
            self._sizes[id(node)] = self._measured(node, mark)
        elif id(node) not in self._sizes:
            raise ComposerError(None, None, "an alias must not stand for what contains it", mark)
        return node

    def _measured(self, node: yaml.Node, mark: yaml.Mark) -> tuple[int, int]:
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        below = [self._sizes[id(child)] for child in children]
        size, depth = 1 + sum(size for size, _ in below), 1 + max((depth for _, depth in below), default=0)
        if size > MAX_NODES or depth > MAX_DEPTH:
            limits = f"more than {MAX_NODES} values, or more than {MAX_DEPTH} levels, with its aliases"
            raise ComposerError(None, None, limits, mark)
        return size, depth

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """An integer: decimal whatever zeros it starts with, or with 0o or 0x."""
        text = self.construct_scalar(node).replace("_", "")
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)


# A later resolver is asked later: an integer is no real number.
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"(?:{_INTEGER.pattern})$"), list("-+0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{_REAL.pattern})$"), list("-+.0123456789"))
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_integer)


class FileError(ValueError):
    """An invalid file; the message has one line per error."""


def read(text: str, source: str = "the text") -> Any:
    """The content of a YAML or JSON text; `source` is its name in errors. Raises FileError."""
    return parsed(text, source)[0]


def parsed(text: str, source: str) -> tuple[Any, yaml.Node | None]:
    """The content of a YAML or JSON text, and its nodes for the lines of errors. Raises FileError."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if mistakes := list(_given_twice(node, (), set())):
            raise FileError("\n".join(f"{source}, {mistake}" for mistake in mistakes))
        return None if node is None else loader.construct_document(node), node
    except yaml.YAMLError as error:
        raise FileError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise FileError(f"{source}: not valid: too many levels of brackets or keys") from None
    except ValueError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{source}: not valid: {error}") from None  # such as an integer of 5,000 digits


def _given_twice(node: yaml.Node | None, path: tuple[str, ...], seen: set[int]) -> Iterator[str]:
    """A sentence for each key that a mapping holds twice: YAML would silently keep the last."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))  # an alias is the node that it refers to
    if isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            yield from _given_twice(entry, (*path, str(number)), seen)
        return
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if (key.tag, key.value) in lines:
            first = lines[key.tag, key.value]
            yield f"line {line}: {'.'.join((*path, key.value))}: given twice (line {first})"
        else:
            lines[key.tag, key.value] = line
        yield from _given_twice(value, (*path, key.value), seen)


def text_of(path: Path) -> str:
    """The text of a file. Raises FileError if it cannot be read, or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FileError(
            f"{path}, line {line}: must be UTF-8; byte {error.start} is {error.object[error.start]:#04x}"
        ) from None


def load(
    path: Path,
    model: type[Model],
    *,
    inside: bool = False,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
) -> Model:
    """Read `path` as `model`, with a change of its content; if `inside` is set, code must be in its folder.

    Raises:
        FileError: one line per error.
    """
    content, node = parsed(text_of(path), str(path))
    if not isinstance(content, dict):
        raise FileError(f"{path}: must be a mapping of keys to values; valid keys are {', '.join(model.model_fields)}")
    return validate(change(content), model, source=str(path), folder=path.parent, node=node, inside=inside)


def validate(
    content: dict[str, Any],
    model: type[Model],
    *,
    source: str,
    folder: Path,
    node: yaml.Node | None = None,
    inside: bool = False,
) -> Model:
    """Validate `content` as `model`; `source` is its name in errors. Raises FileError."""
    if (path := _path_of_huge(content)) is not None:
        line, key = _line(node, path), ".".join(_short(str(part)) for part in path)
        raise FileError(
            f"{source}{f', line {line}' if line else ''}: {key}: an integer must be between {-MAX_INTEGER} and "
            f"{MAX_INTEGER}; got one of {_at(content, path).bit_length()} bits"
        )
    try:
        return model.model_validate(content, context={"folder": str(folder), "inside": inside})
    except ValidationError as error:
        # A default that depends on an invalid key is not a separate error.
        mistakes = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
        first = mistakes[:MAX_MISTAKES]
        lines = [_explain(_shown(content, e["loc"], e["type"]), e, model, source, node) for e in first]
        if len(mistakes) > len(first):
            lines.append(f"{source}: and {len(mistakes) - len(first)} more mistakes")
        raise FileError("\n".join(lines)) from None


def _path_of_huge(content: Any) -> Location | None:
    """The keys of the first integer that is too large; None if there is none."""
    if isinstance(content, int):
        return () if abs(content) > MAX_INTEGER else None
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        if (path := _path_of_huge(value)) is not None:
            return (key, *path)
    return None


def _at(content: Any, path: Location) -> Any:
    for key in path:
        content = content[key]
    return content


def _explain(key: str, error: ErrorDetails, model: type[BaseModel], source: str, node: yaml.Node | None) -> str:
    location, kind, value = error["loc"], error["type"], error["input"]
    line = _line(node, location)
    where = f"{source}, line {line}" if line else source
    if kind == "extra_forbidden":
        valid = _valid_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), valid, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{where}: {key}: unknown key{hint}; valid keys are {', '.join(valid)}"
    if kind == "missing":
        return f"{where}: {key}: required, but missing"
    if kind == "union_tag_invalid":
        context = error["ctx"]
        valid = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        name = context["discriminator"].strip("'")
        return f"{where}: {key}.{name}: must be one of {', '.join(valid)}; got {_short(repr(context['tag']))}"
    if kind in ("int_parsing", "float_parsing") and isinstance(value, str) and _is_number(value):
        return f"{where}: {key}: must be a number without quotes; got {_short(repr(value))}"
    shown = "" if isinstance(value, dict) else f"; got {_short(repr(value))}"
    rule = _short(error["msg"].removeprefix("Value error, "), 3 * MAX_SHOWN)
    return f"{where}: {key}: {rule}{'' if '; got ' in rule else shown}"


def _is_number(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text) or _REAL.fullmatch(text))


def _short(text: str, length: int = MAX_SHOWN) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


def _line(node: yaml.Node | None, location: Sequence[int | str]) -> int | None:
    """The line of the deepest key on the path to `location`."""
    line = None
    for key in location:
        if isinstance(node, yaml.MappingNode):
            matching = [(k, v) for k, v in node.value if k.value == str(key)]
            if not matching:
                continue  # pydantic's location includes the branches of unions, which are not keys
            name, node = matching[0]
            line = name.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _shown(content: Any, location: Location, kind: str) -> str:
    """The keys on the path to `location`, without the branches of unions, which pydantic includes."""
    shown: list[str] = []
    for number, key in enumerate(location):
        inside = isinstance(content, list) and isinstance(key, int) and key < len(content)
        if inside or (isinstance(content, dict) and key in content):
            content = content[key]
        elif number < len(location) - 1 or kind not in ("missing", "extra_forbidden"):
            continue
        shown.append(_short(str(key)))
    return ".".join(shown) or "the file"


def _valid_keys(model: type[BaseModel], location: Location) -> list[str]:
    candidates = [model]
    for key in location:
        fields = [m.model_fields[key] for m in candidates if isinstance(key, str) and key in m.model_fields]
        tagged = [m for m in candidates if any(key in get_args(f.annotation) for f in m.model_fields.values())]
        below = [m for field in fields for m in _models(field.annotation)]
        candidates = below or tagged or candidates
    return list(candidates[0].model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, list):
        return [m for part in get_args(annotation) for m in _models(part)]
    return []


def names(folder: Path) -> list[str]:
    """The names of the YAML files in a bundled folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def locate(folder: Path, kind: str, given: str) -> Path:
    """The given file, or the bundled file of that name in `folder`. Raises FileError."""
    path = Path(given)
    if path.is_file() or path.suffix in (".yaml", ".yml", ".json"):
        return path
    if given not in names(folder):
        raise FileError(f"a {kind} must be a file, or one of the bundled {', '.join(names(folder))}; got {given}")
    return folder / f"{given}.yaml"
