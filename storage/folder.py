"""The files of a study: the one place that knows their names."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

DEFAULT_PARENT = Path("atoll-studies")


class StudyFolder:
    """The files of one study under one folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def definition(self) -> Path:
        """The study as it was started, complete with defaults (JSON)."""
        return self.path / "study.json"

    @property
    def journals(self) -> Path:
        """The folder of the journals."""
        return self.path / "journals"

    def journal(self, writer: str) -> Path:
        """The journal of one writer: `launcher`, or a worker's root."""
        return self.journals / f"{writer}.jsonl"

    def root_journal(self, world_rank: int) -> Path:
        """The journal of the worker whose root is `world_rank`."""
        return self.journal(f"root-{world_rank:05d}")

    @property
    def heartbeats(self) -> Path:
        """The folder of the ranks' heartbeats."""
        return self.path / "heartbeats"

    def heartbeat(self, world_rank: int) -> Path:
        """Touched by a rank for as long as it makes progress."""
        return self.heartbeats / f"{world_rank:05d}"

    @property
    def lock(self) -> Path:
        """Held by the study's launcher."""
        return self.path / "lock"

    @property
    def quarantine(self) -> Path:
        """Journal lines that no database takes, with the reason."""
        return self.path / "quarantine.jsonl"

    @property
    def stop_request(self) -> Path:
        """Exists from `atoll stop` until the next start."""
        return self.path / "stop"

    @property
    def log(self) -> Path:
        """What the MPI ranks print."""
        return self.path / "logs" / "ranks.log"

    @property
    def exports(self) -> Path:
        """Where exported configurations go by default."""
        return self.path / "exports"

    def create(self) -> None:
        """Make the folder and those inside it."""
        for folder in (self.journals, self.heartbeats, self.log.parent, self.exports):
            folder.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove the study's files, and the folder unless it holds something else; exports go with it."""
        for folder in (self.journals, self.heartbeats, self.log.parent, self.exports):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.definition, self.stop_request, self.lock, self.quarantine):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def exists(self) -> bool:
        """Whether a study was started here."""
        return self.definition.exists()


class BenchmarkFolder:
    """Where a benchmark's files are: what was asked for, and the folders of its studies.

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
        """The folders of the studies that have begun."""
        if not self.exists():
            return []
        folders = (StudyFolder(path) for path in sorted(self.path.iterdir()) if path.is_dir())
        return [folder for folder in folders if folder.exists()]

    def remove(self) -> None:
        """Remove the benchmark's files, and the folder unless it holds something else."""
        for study in self.studies():
            study.remove()
        self.definition.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
