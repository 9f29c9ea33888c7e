"""Answers requests that a callback fails on, mostly malformed ones, with 400 and a line instead of 500."""

from __future__ import annotations

import logging
import traceback

import flask
from dash.exceptions import DashException
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, ProgrammingError, StatementError

log = logging.getLogger("atoll.dashboard")

MAX_BODY = 16 * 2**20  # bytes of a request
# What callbacks raise for values that no page sends: of other types, missing keys, numbers beyond any limit.
MALFORMED = (
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError,
    DashException, StatementError,
)  # fmt: skip


def refuse(server: flask.Flask) -> None:
    """Limit the size of requests, and answer those that a callback cannot take."""
    server.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    for kind in MALFORMED:
        server.register_error_handler(kind, _answer)


def _answer(error: Exception) -> flask.Response:
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    is_of_store = isinstance(error, DBAPIError) and not isinstance(error, DataError | InterfaceError | ProgrammingError)
    status = 503 if is_of_store else 400
    log.warning("%s answered with %s: %s (%s, line %s)", flask.request.path, status, said, place.filename, place.lineno)
    log.debug("the traceback:", exc_info=error)
    words = "the store cannot be read" if status == 503 else "this request cannot be answered"
    return flask.Response(f"{words}: {said}\n", status, mimetype="text/plain")
