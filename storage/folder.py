"""The files of a study; no other module knows their names."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.storage import launches
from atoll.storage.files import left_overs, make_folder, sync_folder, write_whole

DEFAULT_PARENT = Path("atoll-studies")


_MAX_STEP = 2**53  # ranks tell it one another as a float


class StudyFolder:
    """The files of one study under one folder.

    All paths are absolute: user code may change the working directory while journals and heartbeats are written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    @property
    def definition(self) -> Path:
        """The study's definition including defaults, as JSON."""
        return self.path / "study.json"

    @property
    def journals(self) -> Path:
        """The folder of the journals."""
        return self.path / "journals"

    def launcher_journal(self, launch: int = 1) -> Path:
        """The launcher's journal of a launch."""
        return self.journals / launches.file_name(launches.LAUNCHER, launch)

    def root_journal(self, world_rank: int, launch: int = 1) -> Path:
        """The journal, in a launch, of the worker whose root is `world_rank`."""
        return self.journals / launches.file_name(f"root-{world_rank:05d}", launch)

    @property
    def heartbeats(self) -> Path:
        """The folder of the ranks' heartbeats."""
        return self.path / "heartbeats"

    def heartbeat(self, world_rank: int) -> Path:
        """A rank's heartbeat file, touched as long as it makes progress."""
        return self.heartbeats / f"{world_rank:05d}"

    def signals(self, launch: int, hostname: str, process: int) -> Path:
        """The numbers of the signals that a rank's process has got, a byte each; see `ranks/terminations.py`."""
        return self.heartbeats / f"{launch}.{hostname}.{process}.signals"

    def all_signals(self, launch: int) -> list[Path]:
        """Those files of a launch that are there."""
        return sorted(self.heartbeats.glob(f"{launch}.*.signals"))

    @property
    def lock(self) -> Path:
        """The lock file of the study's launcher."""
        return self.path / "lock"

    @property
    def tickets(self) -> Path:
        """The folder of the logs of tickets: one since the last time that nobody searched."""
        return self.path / "tickets"

    def ticket_log(self, launch: int) -> Path:
        """The log of tickets that was opened by a launch."""
        return self.tickets / f"{launch:05d}.log"

    def newest_ticket_log(self) -> Path | None:
        """The log that was opened last; None before the first."""
        return max(self.tickets.glob("*.log"), default=None)

    @property
    def launchers(self) -> Path:
        """The folder of the launchers that search now."""
        return self.path / "launchers"

    def launcher_lock(self, launcher: int) -> Path:
        """The lock of a launcher, by its first launch."""
        return self.launchers / f"{launcher:05d}.lock"

    def launcher_stop_request(self, launcher: int) -> Path:
        """Exists if this launcher is to stop; the others go on."""
        return self.launchers / f"{launcher:05d}.stop"

    def death_notice(self, launcher: int) -> Path:
        """Exists if a rank of this launcher, inside someone's own mpirun, was killed."""
        return self.launchers / f"{launcher:05d}.died"

    def launch_settings(self, launch: int) -> Path:
        """What the ranks of a launch need to know of it, as JSON."""
        return self.launchers / f"{launch:05d}.json"

    @property
    def provenance(self) -> Path:
        """The folder of what was searched: a numbered file per version, and the texts of the user's code."""
        return self.path / "provenance"

    def provenance_version(self, version: int) -> Path:
        """A version of the record of code, data and libraries, as JSON."""
        return self.provenance / f"{version}.json"

    def source(self, sha256: str) -> Path:
        """The text of a file of user code with this hash."""
        return self.provenance / "sources" / f"{sha256}.py"

    def trial(self, number: int) -> TrialFolder:
        """The folder of a trial's own files, such as checkpoints; not every trial has one."""
        return TrialFolder(self.trials / f"{number:06d}")

    @property
    def trials(self) -> Path:
        """The folder of the trials' own files."""
        return self.path / "trials"

    @property
    def live(self) -> Path:
        """How far each target of `on_trial` has come."""
        return self.path / "live"

    @property
    def changes(self) -> Path:
        """The folder of the changes that `atoll change` has asked for: a numbered file each."""
        return self.path / "changes"

    def change(self, number: int) -> Path:
        """A change of the study's definition, from 1, as JSON."""
        return self.changes / f"{number:05d}.json"

    @property
    def quarantine(self) -> Path:
        """Journal lines that the database rejected, with the reasons."""
        return self.path / "quarantine.jsonl"

    @property
    def stop_request(self) -> Path:
        """Exists from `atoll stop` until the next start."""
        return self.path / "stop"

    @property
    def failure(self) -> Path:
        """The reason for which a root has ended the search, such as an error of the user's sampler."""
        return self.path / "failure"

    @property
    def log(self) -> Path:
        """The output of mpiexec, and of the ranks outside trials."""
        return self.path / "logs" / "ranks.log"

    @property
    def on_trial_log(self) -> Path:
        """The output of the commands of `on_trial`."""
        return self.log.parent / "on_trial.log"

    def rank_log(self, world_rank: int) -> Path:
        """The output of a rank during its trials; see `rank_logs.py`."""
        return self.log.parent / f"rank-{world_rank:05d}.log"

    @property
    def jobs(self) -> Path:
        """The folder of the jobs that `atoll submit` has given to a batch system, with their scripts and logs."""
        return self.path / "jobs"

    @property
    def exports(self) -> Path:
        """The default folder of exported configurations."""
        return self.path / "exports"

    def create(self) -> None:
        """Make the folder and its subfolders."""
        for folder in (
            self.journals, self.heartbeats, self.log.parent, self.exports, self.tickets, self.launchers,
        ):  # fmt: skip
            make_folder(folder)
        for folder in (self.path, self.path.parent):
            sync_folder(folder)

    def remove(self) -> None:
        """Remove the study's files, including exports, and the folder unless it holds other files."""
        for folder in (
            self.journals, self.heartbeats, self.log.parent, self.exports, self.provenance, self.trials, self.live,
            self.tickets, self.launchers, self.jobs, self.changes,
        ):  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.definition, self.stop_request, self.failure, self.lock, self.quarantine):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def exists(self) -> bool:
        """Whether a study was started here."""
        return self.definition.exists()

    def is_of(self, name: str, uid: str | None) -> bool:
        """Whether the files here are those of the study with this uid, or, if it has none, with this name."""
        return _is_of(_content(self.definition), name, uid)

    def is_part_of(self, uid: str) -> bool:
        """Whether the files here are those of a study of the benchmark with this uid."""
        benchmark = _content(self.definition).get("benchmark")
        return isinstance(benchmark, dict) and benchmark.get("uid") == uid


_STAGED = "staged-"


class TrialFolder:
    """The files of one trial: its checkpoints, one file a rank, its trained model, and what its workload writes.

    Args:
        path: the trial's folder, which need not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def manifest(self) -> Path:
        """Names the newest checkpoint that is whole, as JSON."""
        return self.path / "checkpoint.json"

    def state(self, step: int, rank: int) -> Path:
        """A rank's state after so many steps."""
        return self.path / f"step-{step:09d}.rank-{rank:05d}.pt"

    def states(self, rank: int) -> list[Path]:
        """All states of a rank."""
        return sorted(self.path.glob(f"step-*.rank-{rank:05d}.pt"))

    @property
    def weights(self) -> Path:
        """The trained model's tensors, in the format of safetensors."""
        return self.path / "weights.safetensors"

    def checkpoint_step(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        try:
            return self.read_manifest()[0]
        except (OSError, ValueError):
            return 0

    def read_manifest(self) -> tuple[int, dict[str, Any], int]:
        """The newest checkpoint's step, the training that it belongs to, and the best one's step, -1 if it is unknown.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            OSError, ValueError: if the manifest cannot be read, or is none.
        """
        if self.manifest.exists() and not self.manifest.is_file():  # reading a pipe would wait
            raise ValueError("it is no file")
        try:
            content = json.loads(self.manifest.read_text())
            step, training, best = content["step"], content["training"], content.get("best", -1)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if type(step) is not int or not 0 <= step <= _MAX_STEP or not isinstance(training, dict):
            raise ValueError("it must have a step, and a training")
        return step, training, best if type(best) is int and best <= _MAX_STEP else -1

    @property
    def staged_manifest(self) -> Path:
        """The manifest of another trial's state that is to take the place of this one's."""
        return self.path / "staged.json"

    def stage(self, other: TrialFolder, step: int, *training: Any) -> None:
        """Link another trial's state after `step` steps into this folder, until `adopt` makes it this trial's.

        Args:
            other: the other trial's folder.
            step: the number of steps.
            training: which goes on from it, as plain data that JSON can hold.

        Raises:
            OSError, ValueError: if the state is not there, or the file system has no hard links.
        """
        _, before, _ = other.read_manifest()
        states = sorted(other.path.glob(f"step-{step:09d}.rank-*.pt"))
        if len(states) != before.get("size"):
            raise FileNotFoundError(f"{other.path} has no whole state of step {step}")
        self.unstage()
        try:
            for state in states:
                (self.path / f"{_STAGED}{state.name}").hardlink_to(state)
            content = {"manifest": {"step": step, "training": before}, "for": json.dumps(training)}
            write_whole(self.staged_manifest, json.dumps(content))
        except OSError:
            self.unstage()
            raise

    def unstage(self) -> None:
        """Forget a staged state."""
        for file in (self.staged_manifest, *self.path.glob(f"{_STAGED}*")):
            file.unlink(missing_ok=True)

    def adopt(self, *training: Any) -> None:
        """Replace this trial's checkpoints by the state that was staged for this training; forget one for another.

        It may be called again, also after a crash within it.

        Raises:
            OSError, ValueError: if files cannot be read or renamed.
        """
        try:
            content = json.loads(self.staged_manifest.read_text())
        except FileNotFoundError:
            return
        if content["for"] != json.dumps(training):
            self.unstage()
            return
        staged = sorted(self.path.glob(f"{_STAGED}*"))
        adopted = {file.name.removeprefix(_STAGED) for file in staged}
        if len(staged) == content["manifest"]["training"]["size"]:  # otherwise some have been renamed already
            self.manifest.unlink(missing_ok=True)
            for own in self.path.glob("step-*.rank-*.pt"):
                if own.name not in adopted:
                    own.unlink(missing_ok=True)
        for file in staged:
            file.replace(self.path / file.name.removeprefix(_STAGED))
        write_whole(self.manifest, json.dumps(content["manifest"]))
        self.staged_manifest.unlink()

    @property
    def former_manifest(self) -> Path:
        """The manifest of a checkpoint from which nothing continues any more."""
        return self.path / "checkpoint-former.json"

    def retire_checkpoints(self) -> None:
        """Keep the checkpoints, but let nothing continue from them."""
        with contextlib.suppress(FileNotFoundError):
            self.manifest.rename(self.former_manifest)

    def settle(self, keep: str) -> None:
        """The trial has ended: keep as many checkpoints as the study says (none, last, best or all)."""
        if keep == "none":
            self.remove_checkpoints()
        elif keep == "best":
            self._keep_best()

    def _keep_best(self) -> None:
        try:
            content = json.loads(self.manifest.read_text())
            best = int(content["best"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # there is none
        write_whole(self.manifest, json.dumps(content | {"step": best}))
        kept = set(self.path.glob(f"step-{best:09d}.rank-*.pt"))
        for file in self.path.glob("step-*.rank-*.pt"):
            if file not in kept:
                file.unlink(missing_ok=True)

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints, and the folder if it is then empty; raises OSError if one stays."""
        self.unstage()
        self._remove(*self.path.glob("step-*.rank-*.pt"), *left_overs(self.path), self.manifest, self.former_manifest)

    def remove_weights(self) -> None:
        """Remove the trained model, and the folder if it is then empty; raises OSError if it stays."""
        self._remove(self.weights)

    def _remove(self, *files: Path) -> None:
        for file in files:
            if not file.is_dir():  # a workload may have folders of such names
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()


class BenchmarkFolder:
    """The files of a benchmark: its definition, and the folders of its studies.

    Args:
        path: the benchmark's folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def definition(self) -> Path:
        """The benchmark's row, as JSON."""
        return self.path / "benchmark.json"

    def exists(self) -> bool:
        """Whether a benchmark was started here."""
        return self.definition.exists()

    def studies(self) -> list[StudyFolder]:
        """The folders of the started studies."""
        if not self.exists():
            return []
        folders = (StudyFolder(path) for path in sorted(self.path.iterdir()) if path.is_dir())
        return [folder for folder in folders if folder.exists()]

    def is_of(self, name: str, uid: str | None) -> bool:
        """Whether the files here are those of the benchmark with this uid."""
        return _is_of(_content(self.definition), name, uid)

    def remove(self) -> None:
        """Remove the benchmark's files, and the folder unless it holds other files, such as another's studies."""
        uid = _content(self.definition).get("uid")
        for study in self.studies():
            if study.is_part_of(str(uid)):
                study.remove()
        self.definition.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _content(definition: Path) -> Mapping[str, Any]:
    """The row of a study or a benchmark; empty if its file is missing or unreadable."""
    try:
        content = json.loads(definition.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_of(content: Mapping[str, Any], name: str, uid: str | None) -> bool:
    return content.get("uid") == uid and (uid is not None or content.get("name") == name)
