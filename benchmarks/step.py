"""A training step of `ddp` beside one of torch's DistributedDataParallel over gloo, on the same model and ranks.

python benchmarks/step.py [--ranks N] [--quick] [--json FILE]

Both sides use torch's fused SGD, the fastest there is. One MPI job takes turns: some steps of ours, some of torch's,
some of one rank alone, again and again, so that what else the machine does falls on all alike. A step's time is a
block's, divided by its steps; `compute` is the step of a rank alone, `wait` what our ledger says, `ratio` our median
divided by that of torch's better form.
"""

from __future__ import annotations

import copy
import statistics
import time

from job import build, connect, make_batch, make_models, measured, parse

FORMS = {
    "ours, overlapped": {"overlap": True},
    "ours, classic": {"overlap": False},
    "ours, overlapped, bfloat16": {"overlap": True, "wire": "bfloat16"},
    # what the two choices behind the others are worth
    "ours, classic, one piece": {"overlap": False},
    "ours, classic, no fused SGD": {"overlap": False},
}
TORCH_FORMS = {"torch": {}, "torch, bucket views": {"gradient_as_bucket_view": True}}


def ours(form, model, communicator):
    method = build("ddp", FORMS[form], model, communicator, {"learning_rate": 0.01})
    if form.endswith("one piece"):
        communicator.MAX_PIECES = 1
    if form.endswith("no fused SGD"):
        method._optimizer.param_groups[0]["fused"] = False
    return method.step


def torchs(model, options):
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    wrapped = DistributedDataParallel(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)

    def step(batch):
        optimizer.zero_grad()
        cross_entropy(wrapped(batch.inputs), batch.targets).backward()
        optimizer.step()

    return step


def measure(num_rounds: int, seconds_per_block: float) -> dict | None:
    """What one rank does; rank 0 returns the figures."""
    import torch
    import torch.distributed
    from mpi4py import MPI

    from atoll.methods.communicator_mpi import MpiFamily

    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=world.rank, world_size=world.size)
    figures = {}
    for name, (factory, shape) in make_models().items():
        torch.manual_seed(0)
        model, batch, family = factory(), make_batch(shape), MpiFamily()
        communicators = {form: connect(world, family, form) for form in FORMS}
        steps = {form: ours(form, copy.deepcopy(model), communicators[form]) for form in FORMS}
        steps |= {form: torchs(copy.deepcopy(model), options) for form, options in TORCH_FORMS.items()}
        alone = connect(world, family, "alone").split(world.rank)
        steps["compute"] = ours("ours, classic", copy.deepcopy(model), alone)
        times: dict[str, list[float]] = {form: [] for form in steps}
        waits: dict[str, list[float]] = {form: [] for form in FORMS}
        num_steps = _steps_per_block(steps["torch"], batch, world, seconds_per_block)
        for round_number in range(num_rounds + 1):
            for form, step in steps.items():
                world.Barrier()
                waited = communicators[form].ledger.seconds_waited() if form in FORMS else 0.0
                started = time.perf_counter()
                for _ in range(num_steps):
                    step(batch)
                seconds = (time.perf_counter() - started) / num_steps
                if round_number > 0:  # the first warms up
                    times[form].append(world.allreduce(seconds, MPI.MAX))
                    if form in FORMS:
                        share = (communicators[form].ledger.seconds_waited() - waited) / num_steps
                        waits[form].append(world.allreduce(share, MPI.SUM) / world.size)
                else:
                    world.allreduce(0), world.allreduce(0)
        figures[name] = _summary(model, times, waits, num_steps)
        world.Barrier()
    torch.distributed.destroy_process_group()
    return figures if world.rank == 0 else None


def _steps_per_block(step, batch, world, seconds: float) -> int:
    for _ in range(3):
        step(batch)
    started = time.perf_counter()
    for _ in range(5):
        step(batch)
    return world.bcast(max(3, round(5 * seconds / (time.perf_counter() - started))))


def _summary(model, times, waits, num_steps) -> dict:
    median = {form: 1e3 * statistics.median(t) for form, t in times.items()}
    best = min(median[form] for form in TORCH_FORMS)
    # A ratio per round, then their median: both sides of it were measured within a second of each other.
    rounds = zip(*(times[form] for form in TORCH_FORMS), strict=True)
    torch_times = [min(pair) for pair in rounds]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps_per_block": num_steps,
        "blocks": len(torch_times),
        "milliseconds_per_step": median,
        "milliseconds_waited_per_step": {form: 1e3 * statistics.median(w) for form, w in waits.items()},
        "ratio_to_torch": {form: median[form] / best for form in FORMS},
        "median_ratio_of_rounds": {
            form: statistics.median(a / b for a, b in zip(times[form], torch_times, strict=True)) for form in FORMS
        },
    }


def show(figures: dict) -> None:
    for name, f in figures.items():
        print(f"{name}: {f['parameters']:,} parameters, {f['blocks']} blocks of {f['steps_per_block']} steps")
        compute = f["milliseconds_per_step"]["compute"]
        for form, total in f["milliseconds_per_step"].items():
            wait = f["milliseconds_waited_per_step"].get(form)
            ratio = f["ratio_to_torch"].get(form)
            words = f"  {form:28} total {total:8.3f} ms   compute {compute:8.3f} ms"
            words += "" if wait is None else f"   wait {wait:7.3f} ms"
            print(words + ("" if ratio is None else f"   ratio {ratio:.2f}"))


def main() -> None:
    options = parse(__doc__.splitlines()[0], quick="3 rounds of short blocks instead of 15")
    quick = options.quick
    show(measured(options, lambda: measure(3 if quick else 15, 0.1 if quick else 0.5)) or {})


if __name__ == "__main__":
    main()
