"""The site's generated references: each function returns the Markdown of one page's generated part."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer.main
from sqlalchemy import JSON, BigInteger, Boolean, Float, String, Text

import atoll
from atoll.platform import cli
from atoll.platform.benchmark.benchmark_file import Benchmark
from atoll.platform.study.study import Study
from atoll.storage.models import Base

Schema = dict[str, Any]
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
SIZES = {"minItems": "at least {}", "maxItems": "at most {}"}
SQL_TYPES = {BigInteger: "integer", Float: "number", String: "text", Text: "text", Boolean: "boolean", JSON: "JSON"}
TYPES = {"integer": "integer", "number": "number", "boolean": "`true` or `false`", "string": "text"}


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def sentence(text: str) -> str:
    """A schema's description as a sentence."""
    return text if not text or text[-1] in ".!?" else text + "."


# The command line.


def command_line() -> str:
    """Each command with its help, as `--help` prints it."""
    group = typer.main.get_command(cli.app)
    return "\n\n".join(_command(name, command) for name, command in commands(group))


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """All commands by name, those of groups such as `import` with the group's name before theirs."""
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def _command(name: str, command: Any) -> str:
    context = command.make_context(f"atoll {name}", [], resilient_parsing=True)
    usage = " ".join(["atoll", name, *command.collect_usage_pieces(context)])
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    rows = [(f"`{left.strip()}`", literal(right)) for left, right in records if not left.startswith("--help")]
    parts = [f"## atoll {name}", literal(command.help), f"    {usage}", table(("argument or option", "meaning"), rows)]
    return "\n\n".join([*parts, command.epilog.replace("Example: ", "Example: `") + "`"])


def literal(text: str) -> str:
    """Text of a terminal, which Markdown shows unchanged: outside code, brackets and angles are escaped."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part if part.startswith("`") else re.sub(r"[\[\]<>*]|(?<!\w)_|_(?!\w)", r"\\\g<0>", part) for part in parts
    )


# Files.


def study_file() -> str:
    """Every key of a study file, from its schema."""
    return _Reference(Study.model_json_schema()).text()


def benchmark_file() -> str:
    """Every key of a benchmark file, from its schema; those that it shares with a study file are linked."""
    shared = Study.model_json_schema()["$defs"]
    return _Reference(Benchmark.model_json_schema(), shared, "study_file.md").text()


class _Reference:
    """The reference of a file with a JSON schema: a table of keys for each of its parts.

    Args:
        schema: the schema.
        elsewhere: the names of parts that are described on another page.
        page: the other page.
    """

    def __init__(self, schema: Schema, elsewhere: Iterable[str] = (), page: str = "") -> None:
        self._schema, self._parts, self._elsewhere, self._page = schema, schema["$defs"], set(elsewhere), page

    def text(self) -> str:
        """The Markdown: the file's own keys, then its parts in the order in which they are referred to."""
        names = [name for name in self._in_order() if name not in self._elsewhere and "properties" in self._parts[name]]
        own = _heading(self._schema["title"], {})
        parts = [self._part(own, self._schema)]
        return "\n\n".join(
            [*parts, *(self._part(_heading(name, self._parts[name]), self._parts[name]) for name in names)]
        )

    def _in_order(self) -> list[str]:
        found: list[str] = []

        def visit(node: object) -> None:
            if isinstance(node, list):
                for entry in node:
                    visit(entry)
            elif isinstance(node, dict):
                name = str(node.get("$ref", "")).rpartition("/")[2]
                if name and name not in found:
                    found.append(name)
                    visit(self._parts[name])
                visit([value for key, value in node.items() if key not in ("$defs", "discriminator")])

        visit(self._schema)
        return found

    def _part(self, heading: str, schema: Schema) -> str:
        rows = []
        for key, value in schema["properties"].items():
            if "const" in value:
                continue  # the heading has it
            default = "required" if key in schema.get("required", ()) else _default(value)
            rows.append((f"`{key}`", self._kind(value), default, sentence(value.get("description", ""))))
        parts = [f"## {heading}", sentence(schema.get("description", "").partition("\n")[0])]
        return "\n\n".join([*parts, table(("key", "value", "default", "meaning"), rows) if rows else "No options."])

    def _kind(self, value: Schema) -> str:
        kinds = list(dict.fromkeys(self._kinds(value)))
        several = [kind for kind in kinds if kind.startswith("list of ") and kinds[0] in kind]
        kinds = ["list of these" if kind in several and len(kinds) > 3 else kind for kind in kinds]
        return " or ".join(kinds) if len(kinds) < 3 else ", ".join(kinds[:-1]) + f" or {kinds[-1]}"

    def _kinds(self, value: Schema) -> Iterator[str]:
        if "$ref" in value:
            yield self._link(value["$ref"].rpartition("/")[2])
        elif "enum" in value or "const" in value:
            yield from (f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
        elif "anyOf" in value or "oneOf" in value:
            for entry in value.get("anyOf", value.get("oneOf")):
                if entry.get("type") != "null":
                    yield from self._kinds(entry)
        elif value.get("type") == "array":
            items = self._kind(value["items"]) if "items" in value else "numbers"
            yield f"list of {items}{_limits(value)}"
        elif value.get("type") == "object":
            values = value.get("additionalProperties")
            yield f"mapping of names to {self._kind(values)}" if isinstance(values, dict) else "mapping"
        else:
            yield TYPES.get(value.get("type", ""), "any value") + _limits(value)

    def _link(self, name: str) -> str:
        if "properties" not in self._parts[name]:
            return "any value"
        words = _heading(name, self._parts[name])
        anchor = re.sub(r"[^\w -]", "", words.lower()).replace(" ", "-")
        return f"[{words}]({self._page if name in self._elsewhere else ''}#{anchor})"


def _heading(name: str, definition: Schema) -> str:
    """A part's heading: its name in the file if it has one, as samplers have, otherwise the class's name in words."""
    constant = definition.get("properties", {}).get("name", {}).get("const")
    return f"`{constant}`" if constant else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()


def _default(value: Schema) -> str:
    default = value.get("default")
    if default in (None, "", [], {}) or (isinstance(default, list) and isinstance(default[0], dict)):
        return ""  # the meaning has it
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _limits(value: Schema) -> str:
    limits = [f"{sign} {value[name]:.15g}" for name, sign in BOUNDS.items() if name in value]
    limits += [words.format(value[name]) for name, words in SIZES.items() if name in value]
    return f", {', '.join(limits)}" if limits else ""


# The store.


def store() -> str:
    """Every table and column of the store."""
    return "\n\n".join(_table(model) for model in Base.__subclasses__())


def _table(model: type[Base]) -> str:
    rows = []
    for column in model.__table__.columns:
        marks = ["key"] if column.primary_key else []
        marks += [f"refers to `{key.target_fullname}`" for key in column.foreign_keys]
        marks += ["may be null"] if column.nullable else []
        rows.append(
            (f"`{column.name}`", SQL_TYPES[type(column.type.as_generic())], literal(column.doc or ""), ", ".join(marks))
        )
    head = ("column", "type", "meaning", "keys and nulls")
    return "\n\n".join([f"### {model.__tablename__}", literal(inspect.getdoc(model) or ""), table(head, rows)])


# The Python interface.


def api() -> str:
    """The public names, as mkdocstrings takes them."""
    return "\n\n".join(f"::: atoll.{name}" for name in sorted(set(atoll.__all__) - {"__version__"}))


GENERATED = {
    "command_line.md": command_line,
    "study_file.md": study_file,
    "benchmark_file.md": benchmark_file,
    "store.md": store,
    "api.md": api,
}
# Between these lines of a page's source stands where to read the generated part, for those who read the source.
BEGIN, END = "<!-- generated -->", "<!-- end of the generated part -->"


def filled(page: str, text: str) -> str:
    """A page's text with its generated part in place of the marks and what is between them.

    Raises:
        ValueError: if a page with a generated part has not exactly one pair of marks.
    """
    if page not in GENERATED:
        return text
    before, *rest = text.split(BEGIN)
    if len(rest) != 1 or rest[0].count(END) != 1:
        raise ValueError(f"{page} must have one line {BEGIN}, and one line {END} after it")
    return before + GENERATED[page]() + rest[0].partition(END)[2]


if __name__ == "__main__":
    print(GENERATED[sys.argv[1]]())
