"""Startup times: of commands that need neither MPI nor torch, and of a search until its first trial.

python benchmarks/startup.py [--quick] [--json FILE] [--before PYTHON]

The search is one of two ranks. Its cost is the CPU seconds of launcher, mpiexec and ranks until the journal has the
first trial's start, over those of `python -c "import torch"`, measured in turns. --before names the Python of another
installation of atoll, to be measured next to this one.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from comparison import say

SUPPORT = Path(__file__).parent.parent / "tests" / "support"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "atoll studies": ["-m", "atoll.platform.cli", "studies"],
    "atoll leaderboard": ["-m", "atoll.platform.cli", "leaderboard"],
    "atoll export": ["-m", "atoll.platform.cli", "export", "s"],
    "dashboard, first page": [
        "-c",
        "from atoll.dashboard.app import create_app; from atoll.storage.store import Store; "
        "create_app(Store('sqlite:///atoll.db')).server.test_client().get('/')",
    ],
}


def make_store(folder: Path) -> None:
    sys.path.insert(0, str(SUPPORT))
    import journals

    from atoll.storage.recorder import Recorder
    from atoll.storage.store import Store

    study_folder = journals.start_folder(folder / "s")
    journals.write_study(study_folder, [0.9] * 100)
    study_row = journals.study_row(study_folder.path)
    Recorder(study_folder, lambda: Store(f"sqlite:///{folder}/atoll.db"), study_row).catch_up()


def measure(folder: Path, num_rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each command."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(num_rounds):  # in turns, so that what else the machine does falls on all alike
        for name, arguments in COMMANDS.items():
            started, before = time.perf_counter(), of_children()
            subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append((time.perf_counter() - started, of_children() - before))
    return seconds


def of_children() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


SEARCH = [
    "--method",
    "ddp",
    "--workload",
    "digits_mlp",
    "--trials",
    "1",
    "--epochs",
    "1",
    "--ranks",
    "2",
    "--name",
    "first",
]


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of a process and its live descendants."""
    seconds = 0.0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            seconds += times.user + times.system
    return seconds


def to_first_trial(python: str, folder: Path) -> float:
    """CPU seconds from `atoll search` to the first trial's start in the journal."""
    shutil.rmtree(folder / "atoll-studies", ignore_errors=True)
    (folder / "first.db").unlink(missing_ok=True)
    command = [python, "-m", "atoll.platform.cli", "search", *SEARCH, "--store", "sqlite:///first.db"]
    job = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = folder / "atoll-studies/first/journals/root-00000.jsonl"
    deadline = time.monotonic() + 300
    try:
        while not (journal.exists() and "trial_started" in journal.read_text()):
            if time.monotonic() > deadline or job.poll() not in (None, 0):
                raise RuntimeError(f"no trial has started: {' '.join(command)}")
            time.sleep(0.01)
        return cpu_seconds(psutil.Process(job.pid))
    finally:
        job.wait(300)


def import_torch(python: str) -> float:
    """CPU seconds of `python -c "import torch"`."""
    before = of_children()
    subprocess.run([python, "-c", "import torch"], check=True)
    return of_children() - before


def measure_search(folder: Path, num_rounds: int, pythons: dict[str, str]) -> dict[str, dict[str, float]]:
    torch: list[float] = []
    searches: dict[str, list[float]] = {name: [] for name in pythons}
    for _ in range(num_rounds):
        torch.append(import_torch(sys.executable))
        for name, python in pythons.items():
            searches[name].append(to_first_trial(python, folder))
    figures = {"import torch": {"median_cpu_s": round(statistics.median(torch), 2)}}
    for name, seconds in searches.items():
        ratios = [mine / of_torch for mine, of_torch in zip(seconds, torch, strict=True)]
        figures[f"search to its first trial, {name}"] = {
            "median_cpu_s": round(statistics.median(seconds), 2),
            "ratio_to_import_torch": round(statistics.median(ratios), 2),
            "min_ratio": round(min(ratios), 2),
            "max_ratio": round(max(ratios), 2),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 15")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    parser.add_argument("--before", metavar="PYTHON", help="also measure the atoll of this interpreter")
    options = parser.parse_args()
    pythons = {"now": sys.executable} | ({"before": options.before} if options.before else {})
    with tempfile.TemporaryDirectory() as name:
        make_store(Path(name))
        seconds = measure(Path(name), 3 if options.quick else 15)
        searches = measure_search(Path(name), 2 if options.quick else 7, pythons)
    figures = {
        name: {
            "median_s": round(statistics.median(wall), 3),
            "min_s": round(min(wall), 3),
            "max_s": round(max(wall), 3),
            "median_cpu_s": round(statistics.median(cpu), 3),
        }
        for name, all_ in seconds.items()
        for wall, cpu in [tuple(zip(*all_, strict=True))]
    }
    lines = [
        f"{n:24} median {f['median_s']:.3f} s   {f['min_s']:.3f} to {f['max_s']:.3f}   CPU {f['median_cpu_s']:.3f} s"
        for n, f in figures.items()
    ]
    lines += [f"{name}: {', '.join(f'{key} {value}' for key, value in f.items())}" for name, f in searches.items()]
    say(options, figures | searches, lines)


if __name__ == "__main__":
    main()
