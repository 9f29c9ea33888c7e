"""How soon the dashboard shows a large study, compared with optuna-dashboard on the same trials.

python benchmarks/dashboard.py [--quick] [--json FILE] [--folder FOLDER]

Needs chromium and `pip install optuna-dashboard playwright websockets`. For stores of 1,000, 10,000 and 100,000 trials
(20 reports each for atoll; optuna-dashboard has none): the time from the request to the page's first paint, the table's
first row, and the figure; at most a minute is counted. Cold: server and browser have just started. Warm: both have
shown the page once. The two dashboards take turns. For the largest store also the time of every interactive callback
as the browser sees it, the delay from a journal line to the page, and the server's peak memory.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from comparison import say

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import boards
import browser
import chromium
import journals
import large

from atoll.storage.models import TrialRow
from atoll.storage.recorder import RecorderThread
from atoll.storage.store import Store

SIZES = (1000, 10_000, 100_000)
REPORTS = 20
NAME = "large"
ROW = ".ag-center-cols-container .ag-row[row-id] [col-id='state']"  # the table shows an empty row first
OUR_ROW = f'document.querySelector("{ROW}")'
THEIR_ROW = "document.evaluate(\"//*[text()='Trial 0']\", document, null, 9, null).singleNodeValue"
DRAWN = "document.querySelector('#study-figure .js-plotly-plot')?._fullData?.some((t) => t.name === 'best so far')"
PATIENCE = 60.0  # seconds
LIMITS = {
    "rows, cold": 1.5,
    "figure, cold": 2.5,
    "rows, warm": 1.0,
    "figure, warm": 1.0,
    "callbacks": 0.5,
    "late": 2.0,
    "megabytes": 500,
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def server(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that accepts connections."""
    # A new session, because optuna-dashboard starts another process, which must end with it.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ours(store: Path, port: int) -> list[str]:
    command = [sys.executable, "-m", "atoll.platform.cli", "dashboard", "--insecure", "--port", str(port)]
    return [*command, "--store", f"sqlite:///{store}"]


def theirs(store: Path, port: int) -> list[str]:
    from shutil import which

    command = which("optuna-dashboard", path=str(Path(sys.executable).parent)) or "optuna-dashboard"
    return [command, "--port", str(port), f"sqlite:///{store}"]


def to_optuna(store: Path, target: Path) -> None:
    """Copy the trials to a store of Optuna's, in bulk."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{target}"
    study = optuna.create_study(storage=url, study_name=NAME, direction="minimize")
    query = sa.select(
        TrialRow.number,
        TrialRow.state,
        TrialRow.objective,
        TrialRow.started,
        TrialRow.finished,
        TrialRow.hyperparameters,
    )
    engine = sa.create_engine(url)
    with Store(f"sqlite:///{store}").engine.connect() as source, engine.begin() as connection:
        for start in range(0, 10**9, 5000):
            rows = source.execute(query.order_by(TrialRow.number).offset(start).limit(5000)).all()
            if not rows:
                break
            _insert(connection, rows, study._study_id)


def _insert(connection: sa.Connection, rows: Sequence[sa.Row[Any]], study_id: int) -> None:
    """Add rows of atoll's trials to Optuna's tables."""
    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb import models
    from optuna.trial import TrialState

    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    epoch = datetime(1970, 1, 1)
    connection.execute(
        sa.insert(models.TrialModel),
        [
            {
                "trial_id": row.number + 1,
                "number": row.number,
                "study_id": study_id,
                "state": states[row.state],
                "datetime_start": epoch + timedelta(seconds=row.started),
                "datetime_complete": epoch + timedelta(seconds=row.finished),
            }
            for row in rows
        ],
    )
    connection.execute(
        sa.insert(models.TrialValueModel),
        [
            {"trial_id": row.number + 1, "objective": 0, "value": row.objective, "value_type": "FINITE"}
            for row in rows
            if row.objective is not None
        ],
    )
    distributions = _distributions()
    as_json = {name: distribution_to_json(distribution) for name, distribution in distributions.items()}
    connection.execute(
        sa.insert(models.TrialParamModel),
        [
            {
                "trial_id": row.number + 1,
                "param_name": name,
                "param_value": distributions[name].to_internal_repr(value),
                "distribution_json": as_json[name],
            }
            for row in rows
            for name, value in row.hyperparameters.items()
        ],
    )


def _distributions() -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        "B": IntDistribution(1, 32),
        "S": IntDistribution(0, 7),
        "wire": CategoricalDistribution(("float32", "bfloat16", "float16")),
        "learning_rate": FloatDistribution(1e-6, 100.0, log=True),
        "momentum": FloatDistribution(-1.0, 2.0),
        "weight_decay": FloatDistribution(1e-7, 1.0, log=True),
        "batch_size": IntDistribution(1, 1024),
        "schedule": CategoricalDistribution(("constant", "cosine", "linear")),
    }


def versions() -> dict[str, str]:
    """Versions of the measured packages and of Chromium."""
    packages = ("dash", "dash-ag-grid", "dash-mantine-components", "plotly", "optuna", "optuna-dashboard")
    told = subprocess.run([str(browser.CHROMIUM), "--version"], capture_output=True, text=True, check=True)
    return {name: version(name) for name in packages} | {"chromium": told.stdout.strip()}


def times(page: chromium.Page, url: str, seen: dict[str, str]) -> dict[str, float]:
    """Seconds until the page shows each element; `PATIENCE` if it takes longer."""
    try:
        return page.times(url, seen, PATIENCE)
    except TimeoutError:
        return dict.fromkeys((*seen, "paint"), PATIENCE)


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def side_by_side(folder: Path, size: int, repeats: int) -> dict[str, Any]:
    """Times of both dashboards on the same trials, in turns."""
    store, their_store = folder / f"atoll-{size}.db", folder / f"optuna-{size}.db"
    if not store.exists():
        large.make(store, size, REPORTS, name=NAME)
    if not their_store.exists():
        to_optuna(store, their_store)
    pages = {
        "atoll": (ours, store, f"study?name={NAME}", OUR_ROW, DRAWN),
        "optuna-dashboard": (theirs, their_store, "dashboard/studies/1/trials", THEIR_ROW, None),
    }
    cold: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
    warm: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
    for _ in range(repeats):
        for name, (command, path, page, row, figure) in pages.items():
            port = free_port()
            seen = {"rows": row} | ({"figure": figure} if figure else {})
            with (
                server(command(path, port), port),
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
                chromium.launched(Path(profile)) as opened,
            ):
                url = f"http://127.0.0.1:{port}/{page}"
                first = times(opened, url, seen)
                cold[name].append(first)
                time.sleep(1)  # later requests of the first load must not slow down the second
                warm[name].append(times(opened, url, seen) if first["rows"] < PATIENCE else first)
    results: dict[str, Any] = {name: {"cold": medians(cold[name]), "warm": medians(warm[name])} for name in pages}
    results["runs"] = {name: {"cold": cold[name], "warm": warm[name]} for name in pages}
    results["ratio of rows, cold"] = results["optuna-dashboard"]["cold"]["rows"] / results["atoll"]["cold"]["rows"]
    results["ratio of rows, warm"] = results["optuna-dashboard"]["warm"]["rows"] / results["atoll"]["warm"]["rows"]
    return results


def interactions(playwright_browser: Any, store: Path, size: int, repeats: int) -> dict[str, Any]:
    """Seconds of each interactive callback on the study's page, and the server's peak memory in MB."""
    port, seconds = free_port(), {}
    with server(ours(store, port), port) as process:
        page = playwright_browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{port}/study?name={NAME}")
        page.wait_for_selector(ROW)
        page.wait_for_function(DRAWN)

        def measure(name: str, act: Callable[[], Any], output: str) -> None:
            """Time the callback with this output, from its request to the end of its answer."""
            with page.expect_response(lambda r: output in (r.request.post_data or "")[:200], timeout=10_000) as waiting:
                act()
            waiting.value.finished()
            timing = waiting.value.request.timing
            seconds.setdefault(name, []).append((timing["responseEnd"] - timing["requestStart"]) / 1000)
            page.wait_for_timeout(300)

        def grid(program: str) -> Callable[[], Any]:
            return lambda: page.evaluate(f"dash_ag_grid.getApiAsync('study-grid').then((api) => {{ {program} }})")

        def tab(which: str) -> Callable[[], Any]:
            return lambda: page.click(f"#study-tab [role=tab][id$='{which}']")

        rows, figure = "study-grid.getRowsResponse", "study-figure-drawn"
        less = "{'hp.learning_rate': {filterType: 'number', type: 'lessThan', filter: 0.01}}"
        for repeat in range(repeats):
            for which in ("parallel", "slices", "contour", "timeline", "failures", "importance", "best"):
                measure(f"figure: {which}", tab(which), figure)
            further = f"api.ensureIndexVisible({size // 3} + Math.floor(Math.random() * {size // 2}))"
            measure("table: a page further down", grid(further), rows)
            measure("table: filter a hyperparameter", grid(f"api.setFilterModel({less})"), rows)
            measure("table: clear the filter", grid("api.setFilterModel(null)"), rows)
            down = "{state: [{colId: 'hp.momentum', sort: 'desc'}], defaultState: {sort: null}}"
            measure("table: sort by a hyperparameter", grid(f"api.applyColumnState({down})"), rows)
            up = "{state: [{colId: 'place', sort: 'asc'}], defaultState: {sort: null}}"
            measure("table: sort by place", grid(f"api.applyColumnState({up})"), rows)
            page.wait_for_selector(ROW)
            another = ROW.replace("[row-id]", f"[row-id][row-index='{repeat}']")
            measure("curves of a trial", functools.partial(page.click, another), "study-curves-drawn")
            measure("what is new", lambda: None, "study-revision.data")
        for which in ("islands", "trial"):
            query = f"name={NAME}" if which == "islands" else f"study={NAME}&number=17"
            page.goto(f"http://127.0.0.1:{port}/{which}?{query}")
            page.wait_for_load_state("networkidle")
        status = Path(f"/proc/{process.pid}/status").read_text()
        page.close()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000
    return {"seconds": {name: statistics.median(all_) for name, all_ in seconds.items()}, "megabytes": peak}


def lateness(playwright_browser: Any, folder: Path, repeats: int) -> float:
    """The median delay from a trial's last journal line to its row on the page, in seconds."""
    store, lines, recorder = boards.record(folder)
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.1)
    recorder.catch_up()
    thread = RecorderThread(recorder)
    thread.start()
    port, delays = free_port(), []
    with server([*ours(folder / "atoll.db", port)], port):
        page = playwright_browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/study?name=s")
        page.wait_for_selector(ROW)
        rng = np.random.default_rng(0)
        for number in range(1, repeats + 1):
            time.sleep(1 + float(rng.random()))  # at a random moment between two updates of the page
            journals.start_trial(lines, number)
            written = time.perf_counter()
            journals.end_trial(lines, number, 0.1 + number / 100)
            best = f"{0.1 + number / 100:.4g}"
            cell = "document.querySelector(\".ag-row[row-index='0'] [col-id='objective']\")"
            page.wait_for_function(f"{cell}.innerText === '{best}'", polling=20)
            delays.append(time.perf_counter() - written)
        page.close()
    thread.finish(20)
    store.close()
    return statistics.median(delays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 trials, once")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    parser.add_argument("--folder", type=Path, help="keep the stores, which take minutes to make, in this folder")
    options = parser.parse_args()
    sizes, repeats = ((1000,), 1) if options.quick else (SIZES, 5)
    figures: dict[str, Any] = {"limits": LIMITS, "patience": PATIENCE, "versions": versions()}
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary, browser.launched() as playwright_browser:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for size in sizes:
            results = figures[f"{size} trials"] = side_by_side(folder, size, repeats)
            for name in ("atoll", "optuna-dashboard"):
                for how, times in results[name].items():
                    words = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in times.items())
                    tell(f"{size:>7,} trials, {name:>16}, {how}: {words}")
            cold, warm = results["ratio of rows, cold"], results["ratio of rows, warm"]
            tell(f"{size:>7,} trials: rows {cold:.1f} times as soon (cold), {warm:.1f} (warm)")
        largest = folder / f"atoll-{sizes[-1]}.db"
        figures["interactions"] = interactions(playwright_browser, largest, sizes[-1], repeats)
        for name, seconds in figures["interactions"]["seconds"].items():
            tell(f"{name:>32}: {1000 * seconds:.0f} ms")
        tell(f"server's peak memory {figures['interactions']['megabytes']:.0f} MB")
        late = Path(temporary) / "late"
        late.mkdir()
        figures["late"] = lateness(playwright_browser, late, 3 * repeats)
        tell(f"a journal's line is on the page after {figures['late']:.2f} s")
    say(options, figures, lines)


if __name__ == "__main__":
    main()
