"""Searches in the background: started by --detach, and shown by `atoll follow`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console

from atoll.analysis.formatting import number, of_budget
from atoll.platform.commands.live_search import LiveSearch
from atoll.platform.commands.shared import print_json
from atoll.platform.exit_codes import EXIT_STOPPED, FAILURE
from atoll.platform.launch import lifecycle, room
from atoll.platform.search.stop_rules import StopRules
from atoll.storage import liveness
from atoll.storage.files import make_folder
from atoll.storage.folder import StudyFolder

if TYPE_CHECKING:
    from atoll.platform.study.study import Study
    from atoll.storage.store import Store

INTERVAL = 0.5  # seconds
STORE_INTERVAL = 10.0


def search(study: Study, arguments: list[str], *, as_json: bool) -> int:
    """Start the same command in a session of its own, and return its exit code, or 0 once its ranks are started.

    Args:
        study: the study.
        arguments: the command line, with --detach.
        as_json: whether to print JSON.
    """
    folder = lifecycle.study_folder(study)
    log = folder.log.with_name("search.log")
    room.check_folder(folder.path, "set `folder` in the study to another one")  # what is said of it needs room as well
    make_folder(log.parent)
    before = liveness.launchers(folder)
    command = [sys.executable, "-m", "atoll", *(one for one in arguments if one != "--detach")]
    with log.open("ab") as output:
        started = log.stat().st_size
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=os.environ
        )
    while (code := child.poll()) is None and not liveness.launchers(folder).keys() - before.keys():
        time.sleep(INTERVAL / 5)
    if code is not None:  # it was refused, or had nothing to do
        with log.open("rb") as said:
            said.seek(started)
            sys.stderr.write(said.read().decode(errors="replace"))
        return code
    if as_json:
        print_json({"study": study.name, "process": child.pid, "log": str(log), "folder": str(folder.path)})
    else:
        print(f"{study.name} is searched by process {child.pid}, whose output is in {log}")
        print(f"atoll follow {study.name} shows its progress; atoll stop {study.name} stops it")
    return 0


def follow(folder: StudyFolder, console: Console) -> int:
    """Show a search's progress until nobody searches it any more; returns the exit code that its launcher has.

    Args:
        folder: the study's files.
        console: where lines, or a bar, are shown.
    """
    row = json.loads(folder.definition.read_text())
    aim = row["metric"], row["direction"], row["num_trials"]
    with LiveSearch(console, row["name"], *aim, StopRules.of_row(row)) as live:
        while liveness.holder(folder) is not None:
            live(folder)
            time.sleep(INTERVAL)
        live(folder)
        live.finish()
    ended = liveness.end(folder)
    state, reason = (liveness.INTERRUPTED, None) if ended is None else (ended.state, ended.reason)
    return _ended(console, row["name"], state, reason)


def follow_store(store: Store, name: str, console: Console, interval: float = STORE_INTERVAL) -> int:
    """The same of a study whose files are on other hosts, from what its launcher has recorded.

    Args:
        store: the store.
        name: the study's.
        console: where lines are shown, whenever anything is new.
        interval: seconds between two looks.
    """
    said = ""
    while True:
        summary = next(one for one in store.studies() if one.study.id == store.study(name).id)
        study = summary.study
        trials = of_budget(summary.num_ended, study.num_trials)
        line = f"{trials}, best {study.metric} {number(summary.best)}, {summary.counts.get('running', 0)} training"
        if line != said:
            console.print(line, soft_wrap=True)
            said = line
        if study.state != "running":
            return _ended(console, study.name, study.state, study.reason)
        time.sleep(interval)


def _ended(console: Console, name: str, state: str, reason: str | None) -> int:
    console.print(f"{name} is {state}{f': {reason}' if reason else ''}", soft_wrap=True)
    return {"complete": 0, "stopped": EXIT_STOPPED, liveness.INTERRUPTED: EXIT_STOPPED}.get(state, FAILURE)
