"""Where a study's trials are shown while it runs: TensorBoard, MLflow, or a command; the study file's `on_trial`."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from atoll.platform.study.fields import Strict

FORMS = "tensorboard:DIR, mlflow:URI or a command"
TENSORBOARD, MLFLOW = "tensorboard:", "mlflow:"
TIMEOUT = 60.0
# What a shell would do more with than split it into words.
_SHELL = re.compile(r"[|&;<>()$`*?\[\]{}~#!\n]|^\w+=")
_SCHEMES = (
    "http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks", "databricks-uc", "uc",
)  # fmt: skip


class Command(Strict):
    """A command that runs once for each ended trial."""

    command: str | list[str] = Field(
        description="a program with its arguments; a text that needs a shell (pipes, variables, patterns) is run by "
        "/bin/sh, any other and a list are run without one",
        min_length=1,
    )
    timeout: float = Field(default=TIMEOUT, gt=0, description="seconds after which the command is killed")
    folder: str | None = Field(default=None, description="its working directory. Default: the study file's folder")

    @field_validator("command")
    @classmethod
    def _words(cls, command: str | list[str]) -> str | list[str]:
        if isinstance(command, list) or _SHELL.search(command):
            return command
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"a command must have closed quotes; got {command!r} ({error})") from None
        if not words:
            raise ValueError(f"a command must name a program; on_trial is {FORMS}; got {command!r}")
        return words

    @property
    def words(self) -> list[str]:
        """The program and its arguments."""
        return ["/bin/sh", "-c", self.command] if isinstance(self.command, str) else self.command


def _listed(content: object) -> object:
    return content if isinstance(content, list) else [content]


OnTrial = Annotated[
    list[str | Command], BeforeValidator(_listed, json_schema_input_type=str | Command | list[str | Command])
]


def located(targets: Sequence[str | Command], folder: Path, *, inside: bool) -> list[str | Command]:
    """The targets with absolute paths, and with commands that exist.

    Args:
        targets: as in a study file.
        folder: where relative paths begin, and commands run.
        inside: whether a command's program must lie in `folder`, as other code of the study must.

    Raises:
        ValueError: for a target that is none, or one that is there twice.
    """
    found = [_located(target, folder, inside=inside) for target in targets]
    for number, target in enumerate(found):
        if target in found[:number]:
            raise ValueError(f"on_trial must not name a target twice; got {shown(target)} twice")
    return found


def _located(target: str | Command, folder: Path, *, inside: bool) -> str | Command:
    if isinstance(target, Command):
        return _located_command(target, folder, inside=inside)
    if target.startswith(TENSORBOARD):
        path = target.removeprefix(TENSORBOARD)
        if not path.strip():
            raise ValueError(f"on_trial: tensorboard:DIR needs a folder, such as tensorboard:runs; got {target!r}")
        return TENSORBOARD + str((folder / Path(path).expanduser()).resolve())
    if target.startswith(MLFLOW):
        return MLFLOW + _located_uri(target.removeprefix(MLFLOW), folder)
    return _located_command(Command(command=target), folder, inside=inside)


def _located_uri(uri: str, folder: Path) -> str:
    scheme, separator, rest = uri.partition(":")
    choices = "mlflow:http://HOST:PORT, mlflow:sqlite:///FILE.db or another tracking URI of MLflow"
    if uri == "databricks":
        return uri
    dialect = scheme.partition("+")[0]
    if not separator or dialect not in _SCHEMES:
        what = f"the scheme {scheme!r}" if separator else "no scheme"
        raise ValueError(f"on_trial: mlflow:URI needs a scheme among {', '.join(_SCHEMES)}; got {what}: use {choices}")
    if dialect == "sqlite":
        if not rest.startswith("///") or not rest.strip("/"):
            raise ValueError(f"on_trial: a SQLite file's URI is sqlite:///FILE.db; got {uri!r}: use {choices}")
        return f"{scheme}:///{(folder / rest[3:]).resolve()}"
    if dialect in ("http", "https", "postgresql", "mysql", "mssql") and not re.match(r"//[^/]", rest):
        raise ValueError(f"on_trial: the URI must name a host after {scheme}://; got {scheme}:...: use {choices}")
    return uri


def _located_command(target: Command, folder: Path, *, inside: bool) -> Command:
    where = folder if target.folder is None else folder / Path(target.folder).expanduser()
    where = where.resolve()
    if not where.is_dir():
        raise ValueError(f"on_trial: a command's folder must exist; got {where}")
    if isinstance(target.command, str):
        if inside:
            raise ValueError(
                "on_trial: a command that needs a shell is not confined to the study file's folder; put it into a "
                f"script there, or add --outside; got {target.command!r}"
            )
        return target.model_copy(update={"folder": str(where)})
    first, *arguments = target.command
    program = shutil.which(str(where / first) if "/" in first else first)
    if program is None:
        raise ValueError(f"on_trial must be {FORMS}; got {first!r}, and there is no such program that can be run")
    if inside and not Path(program).resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"on_trial: a command's program must lie in the study file's folder, as all its code; got {program}: put "
            "a script there (./script.sh), or add --outside"
        )
    return target.model_copy(update={"command": [program, *arguments], "folder": str(where)})


def shown(target: str | Command) -> str:
    """A target for messages: no password of a URI, no arguments of a command."""
    if isinstance(target, Command):
        return "a shell command" if isinstance(target.command, str) else Path(target.command[0]).name
    return without_secrets(target)


def without_secrets(text: str) -> str:
    """A message without what stands before the @ of a URI, and without values of passwords and tokens in its query."""
    hidden = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"((?:password|token)=)[^&\s]*", r"\1***", hidden, flags=re.IGNORECASE)


def as_json(targets: Sequence[str | Command]) -> list[Any]:
    """The targets for another process of this host."""
    return [target if isinstance(target, str) else target.model_dump() for target in targets]
