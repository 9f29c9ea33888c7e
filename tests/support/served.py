"""The dashboard as users start it, and the contents of its pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ROWS = ".ag-center-cols-container .ag-row"


@contextmanager
def dashboard(store: str, *options: str, port: int = 0) -> Iterator[str]:
    """The address of a running `atoll dashboard`. Default port: any free one."""
    command = [sys.executable, "-m", "atoll.platform.cli", "dashboard", "--port", f"{port}", "--json", "--store", store]
    server = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert line, server.stderr.read()
        yield json.loads(line)["url"]
    finally:
        server.kill()
        server.communicate()


@contextmanager
def gunicorn(store: str, port: int, **environment: str) -> Iterator[str]:
    """The address of a dashboard under gunicorn with two workers."""
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}"]
    server = subprocess.Popen(
        [*command, "atoll.dashboard.app:from_environment()"],
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
