"""Running dashboards, and the contents of their pages."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection

from werkzeug.serving import make_server

from atoll.dashboard.app import create_app
from atoll.dashboard.pages import PAGES
from atoll.storage.store import Store

ROWS = ".ag-center-cols-container .ag-row"


# Importing the dashboard takes seconds: one process does it, and every server is a fork of it.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["atoll.dashboard.app", *(page.module for page in PAGES)])


# What the browser has kept of an address, compiled, holds for the next dashboard there; elsewhere it takes seconds.
_free: list[int] = []


@contextmanager
def _port() -> Iterator[int]:
    """A port on which nobody listens: if there is one, the port of a dashboard that has ended."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", _free.pop() if _free else 0))
        except OSError:  # somebody else has it now
            probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        yield port
    finally:
        _free.append(port)


def _serve(store: str, options: dict, port: int, started: Connection) -> None:
    # As `atoll dashboard` opens it.
    app = create_app(Store(store, create=False, read_only=not options.get("allow_edit")), **options)
    server = make_server("127.0.0.1", port, app.server, threaded=True)
    started.send(f"http://127.0.0.1:{server.port}")
    server.serve_forever()


@contextmanager
def dashboard(store: str, port: int | None = None, **options) -> Iterator[str]:
    """The address of a running dashboard. Default port: any free one.

    Args:
        store: its URL.
        port: the port to listen on.
        options: of `create_app`.
    """
    with _port() if port is None else nullcontext(port) as chosen:
        here, there = _FORKS.Pipe()
        server = _FORKS.Process(target=_serve, args=(store, options, chosen, there), daemon=True)
        server.start()
        there.close()
        try:
            assert here.poll(60), "no dashboard after 60 s"
            yield here.recv()
        finally:
            server.kill()
            server.join()


@contextmanager
def dashboard_command(store: str, *options: str) -> Iterator[str]:
    """The address of a dashboard that `atoll dashboard` serves, as users start it."""
    command = [sys.executable, "-m", "atoll.platform.cli", "dashboard", "--json", "--store", store, *options]
    with _port() as port:
        server = subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            line = server.stdout.readline()
            assert line, server.stderr.read()
            yield json.loads(line)["url"]
        finally:
            server.kill()
            server.communicate()


@contextmanager
def gunicorn(store: str, **environment: str) -> Iterator[str]:
    """The address of a dashboard under gunicorn with two workers."""
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "atoll.dashboard.app:from_environment()"]
    with _port() as port:
        server = subprocess.Popen(
            [*command, "-b", f"127.0.0.1:{port}"],
            env=os.environ | {"ATOLL_STORE": store} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            for line in server.stderr:
                if "Booting worker" in line:
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.communicate(timeout=20)


def cell(row: int, column: str) -> str:
    """The selector of a table's cell; it does not match the empty row that the table shows before the data."""
    return f".ag-row[row-index='{row}'][row-id] [col-id='{column}']"


def drawn(page, figure: str, timeout: float = 30_000) -> None:
    """Wait until a figure shows data."""
    page.wait_for_function(
        """(id) => {
            const plot = document.querySelector(`#${id} .js-plotly-plot`);
            return plot && plot._fullData && plot._fullData.length > 0;
        }""",
        arg=figure,
        timeout=timeout,
    )


def points(page, figure: str, trace: int = 0) -> int:
    """The number of points in a figure's trace."""
    return page.evaluate(
        "([id, n]) => document.querySelector(`#${id} .js-plotly-plot`)._fullData[n].x.length", [figure, trace]
    )


def until(page, expression: str, arg=None, timeout: float = 30_000) -> None:
    """Wait until a JavaScript expression is true on the page."""
    page.wait_for_function(expression, arg=arg, timeout=timeout)


def holds(page, part: str, timeout: float = 10_000) -> None:
    """Wait until the address holds `part`.

    The browser is asked, as Playwright's `page.url` changes only while one of its calls runs: a loop that just sleeps
    may see the former address forever.
    """
    until(page, "(part) => location.href.includes(part)", part, timeout)


def num_rows(page, n: int) -> None:
    """Wait until the tables show this many rows."""
    until(page, f"document.querySelectorAll('{ROWS}').length === {n}")


def show_tab(page, tab: str) -> None:
    """Choose a tab of a study's page and wait for the server's answer."""
    with page.expect_response(lambda r: "study-figure-drawn" in (r.request.post_data or "")[:80]) as waiting:
        page.click(f"#study-tab [role=tab][id$='{tab}']")
    assert waiting.value.status == 200


def csv_of(page, figure: str) -> list[list[str]]:
    """The rows of a figure's data, downloaded."""
    with page.expect_download() as waiting:
        page.click(f"[id*='\"figure\":\"{figure}\"'][id*='csv']")
    return list(csv.reader(io.StringIO(waiting.value.path().read_text())))
