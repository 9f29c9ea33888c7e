"""A command of the user's for each ended trial: one after another, each within a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.platform.launch import tether
from atoll.platform.launch.job_variables import without_rank_variables
from atoll.platform.study.on_trial import Command, shown
from atoll.storage.events import ProgressReported, TrialEnded, TrialLost
from atoll.storage.files import make_folder
from atoll.storage.folder import StudyFolder
from atoll.storage.rows import rows_of

if TYPE_CHECKING:
    from atoll.platform.launch.live import Trial

ENDS_WITHIN = 2.0  # seconds from TERM to KILL


class CommandTarget:
    """Runs a command when a trial is complete, pruned or failed; a lost one is trained again, and has not ended.

    The trial is on its standard input, as JSON with the names of the store's columns; ATOLL_STUDY, ATOLL_TRIAL,
    ATOLL_ATTEMPT and ATOLL_STATE are in its environment; its output goes to `logs/on_trial.log`. It ends with this
    process. One that has failed is counted, and does not run again for this trial.

    Args:
        command: the command.
        folder, row: the study's files, and its row.
    """

    settles_each = True

    def __init__(self, command: Command, folder: StudyFolder, row: Mapping[str, Any]) -> None:
        self.name = shown(command)
        self.num_refused = 0
        self._command = command
        self._folder = folder
        self._row = row
        self._given_up = threading.Event()
        # Of now, as user code may change this process's own in a search in one process.
        self._environment = without_rank_variables()
        self._environment.pop("ATOLL_ON_TRIAL", None)

    def check(self) -> None:
        """Nothing: the study's file names a program that exists."""

    def open(self) -> None:
        """Nothing."""

    def start(self, trial: Trial) -> None:
        """Nothing: what is known of it comes with its end."""

    def report(self, trial: Trial, reports: Sequence[ProgressReported]) -> None:
        """Nothing."""

    def end(self, trial: Trial, end: TrialEnded | TrialLost) -> None:
        """Run the command. Raises OSError if it cannot be started."""
        if isinstance(end, TrialLost) or end.state == "lost":
            return
        about = {"ATOLL_STUDY": self._row["name"], "ATOLL_TRIAL": str(end.number), "ATOLL_STATE": end.state}
        about["ATOLL_ATTEMPT"] = str(end.attempt)
        make_folder(self._folder.on_trial_log.parent)
        with tempfile.TemporaryFile() as given, self._folder.on_trial_log.open("ab") as output:
            given.write(json.dumps(trial_as_json(trial, end, self._row)).encode())
            given.seek(0)
            output.write(f"trial {end.number} {end.state}: {self.name}\n".encode())
            output.flush()
            code = self._run(self._environment | about, given.fileno(), output.fileno())
            if code is None:
                output.write(f"killed after {self._command.timeout:g} s\n".encode())
            elif code:
                output.write(f"ended with exit code {code}\n".encode())
        self.num_refused += code != 0

    def _run(self, environment: Mapping[str, str], given: int, output: int) -> int | None:
        """The command's exit code; None if it took too long.

        Raises:
            OSError: if it cannot be started.
            InterruptedError: if its time is over because the search has ended.
        """
        if not Path(self._command.words[0]).exists():  # what ties it to this process would only end with a code
            raise FileNotFoundError(f"{self._command.words[0]} is not there any more")
        tie = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
        process = subprocess.Popen(
            [*tie, *self._command.words],
            stdin=given,
            stdout=output,
            stderr=output,
            cwd=self._command.folder,
            env=dict(environment),
            start_new_session=True,
        )
        end = time.monotonic() + self._command.timeout
        while not self._given_up.is_set() and time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.1)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDS_WITHIN if number == signal.SIGTERM else None)
        if self._given_up.is_set():
            raise InterruptedError("the command was killed, as the search has ended")
        return None

    def settle(self) -> None:
        """Nothing."""

    def give_up(self) -> None:
        """Kill the command that runs; it runs again for its trial if the trials are sent again."""
        self._given_up.set()

    def close(self, *, failed: bool) -> None:
        """Nothing."""


def trial_as_json(trial: Trial, end: TrialEnded, row: Mapping[str, Any]) -> dict[str, Any]:
    """A trial with the names of the store's columns, and the study's name and folder."""
    rows = rows_of(0, [trial.started, end])
    fields = rows.started[trial.started.key] | rows.ended[0][1] | {"step": trial.step}
    del fields["study_id"]
    return {"study": row["name"], "folder": row.get("folder")} | fields
