"""What sharing one study among several launchers costs: milliseconds outside of trials, per evaluation.

python benchmarks/elastic.py [--quick] [--json FILE]

Each launcher is a process with one worker, which takes part as `atoll search --continue` does: tickets from the log
that all share, individuals from the others' journals. Ten parameters, a breeding population of 32, genetic operators.
A worker's time outside of its trials is divided by its evaluations; the median of the launchers, and the slowest one.

alone       one launcher, whose tickets nobody shares: engine.py's way, without the log.
1, 2, 8     so many launchers of one study. Trials sleep for log-normal times of 50 ms in the mean, so that processes
            beyond the cores do not wait for them, and journals grow at once.
contended   eight launchers whose trials do nothing, as fast as this machine's cores let them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import engine
from comparison import say

SLEEP = 0.05
COUNT = 200  # evaluations per launcher


class Timed(engine.EmptyObjective):
    """Adds up the time between trials."""

    between = 0.0
    _left: float | None = None

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """Sleep."""
        if self._left is not None:
            self.between += time.perf_counter() - self._left
        outcome = super().evaluate(*arguments, **options)
        self._left = time.perf_counter()
        return outcome


def take_part(folder: Path, count: int, sleep: float, *, shares: bool) -> dict[str, float]:
    """One launcher's evaluations: seconds outside of trials, per evaluation."""
    from atoll.communication.local_mailbox import LocalMailbox
    from atoll.platform.launch.membership import Membership
    from atoll.platform.search.search_loop import SearchLoop
    from atoll.platform.search.shared_study import SharedStudy
    from atoll.platform.study.plan import Plan
    from atoll.platform.study.study import Study
    from atoll.storage import launches

    study = Study(
        name="elastic",
        workload="digits_mlp",
        method=f"{engine.__file__}:Anything",
        trials=count,
        sampler={"population": engine.POPULATION},
        folder=str(folder / "elastic"),
    )
    plan = Plan.of(study)
    member = Membership.enter(plan, f"sqlite:///{folder}/atoll.db", resuming=None)
    worker = Timed(member.member.first_rank, sleep)
    sizes = launches.sizes(member.folder.journals)
    shared = SharedStudy(member.folder, member.settings, sizes, is_first=True) if shares else None
    mailboxes = LocalMailbox.connected(1)[0], LocalMailbox.connected(1)[0]
    loop = SearchLoop.assemble(
        plan, member.folder, worker, *mailboxes, (1,), launch=member.launch, shared=shared, beat=member.look
    )
    (folder / f"ready{member.launch}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    loop.run()
    member.leave("", suspected=())
    member.release()
    return {"evaluations": len(worker.entered), "milliseconds": 1000 * worker.between / max(1, len(worker.entered) - 1)}


def run(num_launchers: int, count: int, sleep: float, *, shares: bool = True) -> dict[str, float]:
    """Several launchers of one study."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = [sys.executable, __file__, "--folder", name, "--count", str(count * num_launchers)]
        arguments += ["--sleep", str(sleep), *(["--shares"] if shares else [])]
        children = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(num_launchers)]
        while len(list(folder.glob("ready*"))) < num_launchers:
            if any(child.poll() for child in children):
                raise RuntimeError("a launcher has failed")
            time.sleep(0.05)
        (folder / "go").touch()
        done = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    costs = sorted(one["milliseconds"] for one in done)
    if sum(one["evaluations"] for one in done) != count * num_launchers:
        raise RuntimeError(f"{sum(one['evaluations'] for one in done)} evaluations of {count * num_launchers}")
    return {"median": statistics.median(costs), "slowest": costs[-1]}


def main() -> None:
    """Print the costs, and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the evaluations, one round")
    parser.add_argument("--json", type=Path)
    for name, kind in (("--folder", Path), ("--count", int), ("--sleep", float)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--shares", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder is not None:
        print(json.dumps(take_part(given.folder, given.count, given.sleep, shares=given.shares)))
        return
    count, rounds = (COUNT // 5, 1) if given.quick else (COUNT, 3)
    forms: dict[str, Any] = {
        "alone": lambda: run(1, count, SLEEP, shares=False),
        "1": lambda: run(1, count, SLEEP),
        "2": lambda: run(2, count, SLEEP),
        "8": lambda: run(8, count, SLEEP),
        "contended": lambda: run(8, count, 0.0),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, measure in forms.items():
            found[name].append(measure())
    result = {
        name: {key: round(statistics.median(one[key] for one in some), 3) for key in ("median", "slowest")}
        for name, some in found.items()
    }
    say(
        given,
        result,
        (f"{name:10} {v['median']:7.2f} ms; the slowest {v['slowest']:.2f}" for name, v in result.items()),
    )


if __name__ == "__main__":
    main()
