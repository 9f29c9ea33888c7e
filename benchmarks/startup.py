"""How long the commands that need neither MPI nor torch take to start, as whole processes.

python benchmarks/startup.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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

    made = journals.start_folder(folder / "s")
    journals.write_study(made, [0.9] * 100)
    Recorder(made, lambda: Store(f"sqlite:///{folder}/atoll.db"), journals.study_row(made.path)).catch_up()


def measure(folder: Path, num_rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(num_rounds):  # in turns, so that what else the machine does falls on all alike
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 15")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_store(Path(name))
        seconds = measure(Path(name), 3 if options.quick else 15)
    figures = {
        name: {
            "median_s": round(statistics.median(all_), 3),
            "min_s": round(min(all_), 3),
            "max_s": round(max(all_), 3),
        }
        for name, all_ in seconds.items()
    }
    lines = (f"{n:24} median {f['median_s']:.3f} s   {f['min_s']:.3f} to {f['max_s']:.3f}" for n, f in figures.items())
    say(options, figures, lines)


if __name__ == "__main__":
    main()
