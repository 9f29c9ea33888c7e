"""Checks before a search or a benchmark starts that its files can be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atoll.platform.launch import lifecycle
from atoll.platform.launch.errors import LaunchError
from atoll.platform.study.study import Study
from atoll.storage.files import rights
from atoll.storage.urls import absolute, parse
from atoll.storage.writable import NotWritable, check_writable, store_problem


def check(study: Study, url: str, say: Callable[[str], None]) -> None:
    """Check a study's folder, and tell if its store cannot be written from here, which a search survives.

    Args:
        study, url: the study, and the store's URL.
        say: receives the warning.

    Raises:
        LaunchError: if the folder cannot be written, or its disk is full.
        ValueError: if ATOLL_SHARE is invalid.
    """
    folder = lifecycle.study_folder(study).path
    check_folder(folder, "set `folder` in the study to another one")
    if (problem := store_problem(absolute(parse(url)))) is not None:
        say(
            f"{problem}; the results stay in the study's folder: if the store cannot be written at the end either, "
            f"load them later, where it can, with `atoll record {folder}`"
        )


def check_folder(path: Path, otherwise: str) -> None:
    """Raise LaunchError if a study's or benchmark's folder cannot be written; `otherwise` is another way out."""
    rights()
    try:
        check_writable(path, "the study's folder", f"make room or the folder writable, or {otherwise}")
    except NotWritable as error:
        raise LaunchError(str(error)) from None
