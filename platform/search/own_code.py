"""Samplers and pruning rules of the user's own: made with the study's options, and called so that errors are told.

What such code does wrong ends the search at once: a random configuration in place of a proposal would hide it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from atoll.analysis.failures import user_frame
from atoll.platform.study import registry
from atoll.platform.trial.failure import reason_of, traceback_of
from atoll.storage.files import FILE_MODE, rights, write_whole
from atoll.storage.folder import StudyFolder


class OwnCodeError(ValueError):
    """The user's code has raised, or returned what it must not; the message names the class and the rule."""


class OwnCode:
    """The user's class behind a name.

    Args:
        kind: sampler or pruning_rule.
        name: file.py:Class, or an entry point.
    """

    def __init__(self, kind: registry.OwnKind, name: str) -> None:
        self._kind, self._name = kind, name
        file, _, attribute = name.rpartition(":")
        self.title = f"{kind.replace('_', ' ')} {f'{Path(file).name}:{attribute}' if file else name}"

    def make(self, base: type, options: Mapping[str, Any], *given: Any, **also: Any) -> Any:
        """An instance.

        Args:
            base: the class that it must be a subclass of.
            options: from the study file.
            given, also: arguments that are not options.

        Raises:
            UnknownName: if there is no such class.
            OwnCodeError: for an unknown, missing or invalid option, or an error of the constructor.
        """
        own = registry.own_class(self._kind, self._name, base)
        checked = self._checked(own, options, {*_names(base), *also})
        return self.call(own, *given, named="__init__", **also, **checked)

    def _checked(self, own: type, options: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
        """The options as the constructor's annotations have them."""
        parameters = {
            name: parameter
            for name, parameter in inspect.signature(own).parameters.items()
            if name not in taken and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        }
        valid = ", ".join(parameters) or "none"
        if unknown := [name for name in options if name not in parameters]:
            self.refuse(f"has no option {', '.join(unknown)}; valid are {valid}")
        required = [name for name, p in parameters.items() if p.default is p.empty and name not in options]
        if required:
            self.refuse(f"needs the option {', '.join(required)}; valid are {valid}")
        try:
            hints = typing.get_type_hints(_constructor(own))
        except (NameError, TypeError, AttributeError):  # names that only type checkers import
            hints = {}
        return {name: self._converted(name, value, hints.get(name, Any)) for name, value in options.items()}

    def _converted(self, name: str, value: Any, hint: Any) -> Any:
        try:
            return TypeAdapter(hint).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            self.refuse(f"does not take this {name}: {message[:1].lower()}{message[1:]}; got {value!r}")

    def call(self, method: Callable[..., Any], *arguments: Any, named: str = "", **options: Any) -> Any:
        """What a method returns; an error of it becomes a line with its place."""
        try:
            return method(*arguments, **options)
        except (Exception, SystemExit) as error:
            frame = user_frame(traceback_of(error), or_any=False)
            place = f", at {frame}" if frame else ""
            name = named or getattr(method, "__name__", "a method")
            raise OwnCodeError(f"{self.title}: {name} raised {reason_of(error)}{place}") from error

    def refuse(self, rule: str) -> NoReturn:
        """Raise OwnCodeError with the rule that the code does not keep."""
        raise OwnCodeError(f"{self.title} {rule}")


def _names(base: type) -> set[str]:
    """The parameters of the base class's constructor, which are not options."""
    return set() if _constructor(base) is object.__init__ else set(inspect.signature(base).parameters)


def _constructor(one: type) -> Any:
    return one.__init__  # type: ignore[misc]  # mypy takes the class for an instance


class GivingUp:
    """Ends the whole search as failed, from any root: notes the reason in the study's folder, and requests a stop.

    Args:
        folder: the study's files.

    Attributes:
        has_happened: whether this root has given up.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self.has_happened = False

    def __call__(self, error: OwnCodeError) -> None:
        """Give up; of several reasons the first one counts."""
        self.has_happened = True
        if not self._folder.failure.exists():
            write_whole(
                self._folder.failure,
                f"{error}; correct it, and repeat the command with --resume --accept-changes",
                FILE_MODE & rights(),
            )
        self._folder.stop_request.touch()


def raise_it(error: OwnCodeError) -> None:
    """Raise an error where there is no search to end."""
    raise error
