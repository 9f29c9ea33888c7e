"""Everything that only a GPU shows, in under ten minutes on a machine with one: steps, communicators, a checkpoint.

python benchmarks/gpu.py [--device cuda|cpu] [--ranks N] [--quick] [--json FILE]

- `steps`: trials of every method on a transformer of GPT-2's size (85 million parameters, 8 windows of 512 bytes per
  rank), in float32 and bfloat16, in turns with torch's plain step on the same network; torch's DistributedDataParallel
  likewise. First on one rank, then on N (2), which share the GPU if there is only one. A method that refuses has its
  reason instead of figures.
- `sums`: the time of a sum over ranks of CUDA tensors, by its size. Ranks with a GPU each use NCCL; ranks that share
  one stage tensors in host memory. On a machine with one GPU NCCL has one rank; N GPUs measure it between N ranks.
- `checkpoint`: a trial of `ddp` is interrupted after an epoch and continued by another one; the time and the size of
  its checkpoints, and how far its final weights are from the uninterrupted trial's. On a GPU they may differ in the
  last digits, as some of its kernels add in any order.

With --device cpu all of this runs without a GPU, and NCCL not at all; --quick makes network and rounds small, so that
`--device cpu --quick` tests the script's code, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comparison import write
from job import RANK, on_ranks

PRECISIONS = ("float32", "bfloat16")
LARGE = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "context_length": 512}
SMALL = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "context_length": 16}
BATCH_SIZE, BATCHES = 8, 8
# So that a step is one of the method's main phase, and MAC passes over the data once.
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "ab": {"warmup": 0.0, "group_steps": 1.0},
    "daso": {"warmup_epochs": 0, "cooldown_epochs": 0},
    "mac": {"w_iterations": 1, "w_iterations_last": 1, "z_iterations": 1},
    "oialr": {"full_rank_warmup": False, "delay": 1.0},
}
SUMS = (4_000, 4_000_000, 100_000_000)  # bytes


class Rank:
    """This rank's device, and communicators for it.

    Attributes:
        world: all ranks.
        device: this rank's.
        kind: what sums tensors on it: NCCL, staged, or host.
    """

    def __init__(self, device: str) -> None:
        import torch
        from mpi4py import MPI

        self.world = MPI.COMM_WORLD
        num_gpus = torch.cuda.device_count() if device == "cuda" else 0
        self.device = f"cuda:{self.world.rank % num_gpus}" if num_gpus else "cpu"
        if num_gpus:
            torch.cuda.set_device(self.device)
        self.kind = "host" if not num_gpus else "NCCL" if self.world.size <= num_gpus else "staged"
        torch.set_num_threads(1)
        self._num_opened = 0

    def open(self) -> tuple[Any, Any]:
        """A new communicator, and what closes it; each rank counts as a node."""
        from atoll.communication.ledger import Ledger
        from atoll.communication.mpi import MpiCommunicator, MpiFamily

        kind: Any = MpiCommunicator
        if self.kind == "NCCL":
            from atoll.communication.nccl import NcclCommunicator as kind
        self._num_opened += 1
        family = MpiFamily()
        communicator = kind(
            self.world.Dup(),
            list(range(self.world.size)),
            ledger=Ledger(),
            poll=lambda: None,
            spin=self.world.size <= len(os.sched_getaffinity(0)),
            family=family,
            name=f"gpu {self._num_opened}",
        )
        return communicator, family

    def seconds(self, function, *arguments) -> float:
        """The time of a call on the slowest rank, with all that it has started on the device."""
        from mpi4py import MPI

        self._finish()
        self.world.Barrier()
        started = time.perf_counter()
        function(*arguments)
        self._finish()
        return self.world.allreduce(time.perf_counter() - started, MPI.MAX)

    def _finish(self) -> None:
        import torch

        if self.device != "cpu":
            torch.cuda.synchronize()


def configuration(shape: dict[str, int], method: str, num_epochs: int, precision: str = "float32", **more: Any) -> Any:
    """A trial that is evaluated at its end only."""
    from atoll.platform.study.configuration import Configuration

    of_method = HYPERPARAMETERS.get(method, {})
    whole = {
        "workload": f"{Path(__file__).with_name('gpu_text.py')}:Noise",
        "method": method,
        "hyperparameters": {"batch_size": BATCH_SIZE, "precision": precision} | shape | of_method,
        "seed": 0,
        "epochs": num_epochs,
        "evaluate_every": f"{num_epochs} epochs",
    }
    return Configuration(**whole | more)


def steps(rank: Rank, shape: dict[str, int], num_rounds: int) -> dict:
    """Milliseconds of a step by precision and method, torch's ways among them."""
    import torch.distributed
    from gpu_text import Script

    from atoll.methods import METHODS

    figures: dict[str, dict] = {}
    torch.distributed.init_process_group(
        "nccl" if rank.kind == "NCCL" else "gloo", rank=rank.world.rank, world_size=rank.world.size
    )
    for precision in PRECISIONS:
        figures[precision] = rows = {}
        plain = Script(shape, rank, precision, BATCH_SIZE)
        with _on_device(rank):
            rows["torch DDP"] = _compared(rank, Script(shape, rank, precision, BATCH_SIZE, ddp=True), plain, num_rounds)
        for method in METHODS:
            with _on_device(rank):
                rows[method] = _of_method(
                    rank, configuration(shape, method, num_rounds + 2, precision), plain, num_rounds
                )
    torch.distributed.destroy_process_group()
    return figures


@contextlib.contextmanager
def _on_device(rank: Rank) -> Iterator[None]:
    """Free the device's memory afterwards, and count its peak from here."""
    import gc

    import torch

    if rank.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    yield
    gc.collect()
    if rank.device != "cpu":
        torch.cuda.empty_cache()


def _of_method(rank: Rank, of: Any, plain: Any, num_rounds: int) -> dict | str:
    from atoll.methods.method import NotApplicable
    from atoll.platform.trial.trial import Trial

    class Steps:
        num_steps = BATCHES // rank.world.size

        def __init__(self) -> None:
            communicator, self._family = rank.open()
            self._training = Trial(of, communicator, rank.device).train()

        def block(self) -> None:
            next(self._training)  # an epoch

        def close(self) -> None:
            for _ in self._training:  # to its end, so that nothing is under way
                pass
            self._family.close()

    try:
        made = Steps()
    except NotApplicable as error:  # on all ranks alike
        return str(error).splitlines()[0][:200]
    return _compared(rank, made, plain, num_rounds)


def _compared(rank: Rank, made: Any, plain: Any, num_rounds: int) -> dict:
    """Milliseconds per step of both, in turns; the first round warms up."""
    import torch

    times: dict[str, list[float]] = {"step": [], "plain": []}
    for round_number in range(num_rounds + 1):
        for name, one in (("step", made), ("plain", plain)):
            seconds = rank.seconds(one.block) / one.num_steps
            if round_number > 0:
                times[name].append(1e3 * seconds)
    made.close()
    peak = 0 if rank.device == "cpu" else torch.cuda.max_memory_allocated()
    return {
        "milliseconds": statistics.median(times["step"]),
        "ratio_to_plain_torch": statistics.median(a / b for a, b in zip(times["step"], times["plain"], strict=True)),
        "peak_mebibytes": peak / 2**20,
    }


def sums(rank: Rank, num_rounds: int) -> dict[str, float]:
    """Milliseconds of a sum by its size in bytes."""
    import torch

    (communicator, family), medians = rank.open(), {}
    for size in SUMS:
        tensor = torch.zeros(size // 4, device=rank.device)
        times = [rank.seconds(communicator.sum, tensor) for _ in range(num_rounds + 1)]
        medians[str(size)] = 1e3 * statistics.median(times[1:])
    family.close()
    return medians


def checkpoint(rank: Rank, shape: dict[str, int]) -> dict[str, float]:
    """Interrupt a trial after the checkpoint of its first epoch, and continue it."""
    from atoll.platform.trial.trial import Trial

    with tempfile.TemporaryDirectory() as own:
        folder = Path(rank.world.bcast(own))
        of = configuration(shape, "ddp", 3, checkpoint={"every": "1 epochs"})

        def train(name: str, num_reports: int | None = None) -> Any:
            communicator, family = rank.open()
            trial = Trial(of, communicator, rank.device, folder=folder / name)
            for number, _ in enumerate(trial.train(), 1):
                if number == num_reports:
                    break
            family.close()
            return trial

        whole = train("whole")
        train("cut", 2)  # the report after the second epoch comes before its checkpoint
        continued = train("cut")
        pairs = zip(whole.model.parameters(), continued.model.parameters(), strict=True)
        difference = max(float((a - b).detach().abs().max()) for a, b in pairs)
        assert any(note.startswith("continued from the checkpoint") for note in continued.notes), continued.notes
        rank.world.Barrier()
        num_bytes = sum(file.stat().st_size for file in (folder / "whole").glob("*.pt"))
        rank.world.Barrier()
    parts = whole.seconds()
    if rank.device == "cpu":
        assert difference == 0, f"the continued trial ends elsewhere, by {difference}"
    return {
        "milliseconds": 1e3 * parts["checkpoints"] / 2,
        "mebibytes_of_all_ranks": num_bytes / 2**20,
        "largest_difference_after_continuing": difference,
    }


def measure(device: str, quick: bool) -> dict | None:
    """One rank's program; rank 0 returns the figures."""
    rank = Rank(device)
    shape, num_rounds = (SMALL, 1) if quick else (LARGE, 3)
    try:
        figures = {
            "communicator": rank.kind,
            "steps": steps(rank, shape, num_rounds),
            "sums": sums(rank, num_rounds + 2),
            "checkpoint": checkpoint(rank, shape),
        }
    except BaseException:  # such as too little memory: the other ranks would wait for this one
        traceback.print_exc()
        rank.world.Abort(1)
        raise
    return figures if rank.world.rank == 0 else None


def show(figures: dict) -> None:
    for number, f in figures.items():
        print(f"{number} rank(s), {f['communicator']}")
        for precision, rows in f["steps"].items():
            for name, row in rows.items():
                if isinstance(row, str):
                    print(f"  {precision:9} {name:15} refused: {row}")
                    continue
                said = f"{row['milliseconds']:9.2f} ms a step   {row['ratio_to_plain_torch']:6.2f} of plain torch"
                print(f"  {precision:9} {name:15} {said}   peak {row['peak_mebibytes']:8.0f} MiB")
        print("  sums: " + ", ".join(f"{int(size):,} bytes {ms:.2f} ms" for size, ms in f["sums"].items()))
        print("  checkpoint: " + ", ".join(f"{name} {value:.3g}" for name, value in f["checkpoint"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a small network and one round: tests the script")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    if options.device == "cuda" and RANK not in os.environ:
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda needs a GPU; --device cpu --quick tries the script without one")
    figures = {}
    for num_ranks in (1, options.ranks):
        measured = on_ranks(num_ranks, lambda: measure(options.device, options.quick))
        if measured is None:  # a rank has done its part
            return
        figures[str(num_ranks)] = measured
    write(options, {"command": "python " + " ".join(sys.argv), "ranks": figures})
    if options.json != "-":
        show(figures)


if __name__ == "__main__":
    main()
