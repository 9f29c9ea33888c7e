"""The recorder's rate for journal lines into SQLite and PostgreSQL, its lag, and its memory.

python benchmarks/store.py [--quick] [--json FILE]

The lines are those of a search: one start, ten reports and one end per trial. Rates are lines per second of the
recorder alone, catching up with journals of four workers; lag is the age of the oldest line that is not yet recorded,
while one process writes 1,000 lines a second and the recorder's thread follows.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from comparison import say

from atoll.storage.journal import JournalWriter
from atoll.storage.models import TrialRow
from atoll.storage.recorder import Recorder, RecorderThread
from atoll.storage.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import journals

LINES_PER_TRIAL = 12
NUM_WORKERS = 4


def write_lines(folder: Any, num_lines: int) -> None:
    writers = [JournalWriter(folder.root_journal(rank)) for rank in range(NUM_WORKERS)]
    for number in range(num_lines // LINES_PER_TRIAL):
        lines = writers[number % NUM_WORKERS]
        journals.start_trial(lines, number)
        for epoch in range(1, 11):
            journals.report(lines, number, epoch)
        journals.end_trial(lines, number, 0.5)


def catch_up(url: str, folder: Any) -> tuple[float, float]:
    """Lines per second, and the growth of the process in MiB."""
    recorder = Recorder(folder, lambda: Store(url), journals.study_row(folder.path, name=folder.path.name))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    num_lines = recorder.catch_up()
    seconds = time.perf_counter() - started
    recorder.close()
    return num_lines / seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def lag(url: str, folder: Any, seconds: float, rate: float = 1000.0) -> dict[str, float]:
    """Seconds from writing a line to finding it in the store, at `rate` lines per second."""
    thread = RecorderThread(
        Recorder(folder, lambda: Store(url), journals.study_row(folder.path, name=folder.path.name))
    )
    thread.start()
    written: list[float] = []
    done = threading.Event()

    def write() -> None:
        lines, started, number = JournalWriter(folder.root_journal(0)), time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            journals.start_trial(lines, number)
            for epoch in range(1, 11):
                journals.report(lines, number, epoch)
            written.append(time.perf_counter())
            journals.end_trial(lines, number, 0.5)
            number += 1
            time.sleep(max(0.0, started + number * LINES_PER_TRIAL / rate - time.perf_counter()))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    store, lags = Store(url), []
    while not done.is_set():
        time.sleep(0.05)
        with store.engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(TrialRow).where(TrialRow.state == "complete")
            num_recorded = connection.execute(query).scalar() or 0
        now = time.perf_counter()
        lags.append(now - written[num_recorded] if num_recorded < len(written) else 0.0)
    writer.join()
    thread.finish(60)
    return {"median_s": round(statistics.median(lags), 3), "max_s": round(max(lags), 3)}


def in_a_process_of_its_own(url: str, folder: Path, num_lines: int) -> tuple[float, float]:
    """In a new process, so that the memory is that of this catch-up alone."""
    command = [sys.executable, __file__, "--one", url, str(folder), str(num_lines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rate, mebibytes = json.loads(done.stdout)
    return rate, mebibytes


def measure(
    name: str, make_url: Any, scratch: Path, sizes: list[int], num_rounds: int, lag_seconds: float
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for size in sizes:
        folder = scratch / f"{name}-{size}"
        write_lines(journals.start_folder(folder, name=folder.name), size)
        runs = [in_a_process_of_its_own(make_url(f"{size}_{number}"), folder, size) for number in range(num_rounds)]
        figures[f"{size} lines"] = {
            "lines_per_s": round(statistics.median(rate for rate, _ in runs)),
            "min": round(min(rate for rate, _ in runs)),
            "max": round(max(rate for rate, _ in runs)),
            "memory_growth_MiB": round(max(memory for _, memory in runs), 1),
        }
    folder = scratch / f"{name}-lag"
    figures["lag at 1000 lines/s"] = lag(make_url("lag"), journals.start_folder(folder, name=folder.name), lag_seconds)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the lines, one round")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        from atoll.storage.folder import StudyFolder

        print(json.dumps(catch_up(options.one[0], StudyFolder(options.one[1]))))
        return
    sizes, num_rounds, lag_seconds = ([24_000], 1, 5.0) if options.quick else ([60_000, 240_000], 3, 15.0)
    with tempfile.TemporaryDirectory() as name:
        import pgserver

        scratch = Path(name)
        server = pgserver.get_server(scratch / "pg", cleanup_mode="stop")

        def postgresql(database: str) -> str:
            server.psql(f'CREATE DATABASE "{database}";')
            return server.get_uri(database=database).replace("postgresql://", "postgresql+psycopg://", 1)

        figures = {
            "SQLite": measure(
                "sqlite", lambda n: f"sqlite:///{scratch}/{n}.db", scratch, sizes, num_rounds, lag_seconds
            ),
            "PostgreSQL": measure("postgresql", postgresql, scratch, sizes, num_rounds, lag_seconds),
        }
        server.cleanup()
    say(options, figures, [json.dumps(figures, indent=2)])


if __name__ == "__main__":
    main()
