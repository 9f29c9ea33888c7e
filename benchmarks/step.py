"""A training step of `ddp` against torch's DistributedDataParallel over gloo, on the same model and ranks.

python benchmarks/step.py [--low-rank | --settings] [--ranks N] [--quick] [--json FILE]

Both use torch's fused SGD, the fastest implementation. One MPI job alternates between blocks of our steps, torch's, and
those of one rank alone, so that the machine's other load affects all alike. A step's time is a block's, divided by its
number of steps; `compute` is the step of a rank alone, `wait` is the ledger's waiting time, `ratio` is our median
divided by that of torch's better form.

With --low-rank: a step of OIALR against a full-rank step of `ddp` on the vision transformer of width 768, with AdamW
and batches of 16 per rank, after the conversion (each k is the shorter side) and with each k cut to a quarter of it; a
basis update of all layers, and one of the first tenth, in steps of the converted network; and the memory of the
optimizer's moments.

With --settings: whole trainings instead of steps on one batch, on digits_cnn and cifar10_cnn7, for each way to load
data (tensors in memory, a DataLoader without and with processes) and for bfloat16, micro-batches, torch.compile and a
moving average of the weights. Ours are trials of `ddp`, with all that the trial's loop does; torch's a plain script
with the same setting. --quick leaves torch.compile out.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from dataclasses import replace

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
        for group in method._optimizer.param_groups:
            group["fused"] = False
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
    """One rank's program; rank 0 returns the figures."""
    import torch
    import torch.distributed
    from mpi4py import MPI

    from atoll.communication.mpi import MpiFamily

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


def measure_low_rank(num_rounds: int) -> dict | None:
    """OIALR's costs; rank 0 returns the figures."""
    import torch
    from mpi4py import MPI

    from atoll.communication.mpi import MpiFamily
    from atoll.methods.low_rank.factored import factor, shape_of
    from atoll.platform.workloads.cifar10 import Cifar10MiniVit

    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batch, family = Cifar10MiniVit().model(), make_batch((3, 32, 32), 16), MpiFamily()
    settings = {"optimizer": "adamw", "learning_rate": 1e-5}

    def seconds(function, *arguments) -> float:
        world.Barrier()
        started = time.perf_counter()
        function(*arguments)
        return world.allreduce(time.perf_counter() - started, MPI.MAX)

    def oialr(name: str, alpha: float):
        given = {"delay": 1.0, "update_period": 1.0, "beta": 0.0, "alpha": alpha, "full_rank_last": True}
        return build("oialr", given, copy.deepcopy(model), connect(world, family, name), settings)

    methods = {
        "full rank (ddp)": build("ddp", {}, copy.deepcopy(model), connect(world, family, "ddp"), settings),
        "converted": oialr("converted", 1.0),
        "k = min/4": oialr("cut", 0.1),
    }
    converting = seconds(methods["converted"]._convert)
    methods["k = min/4"]._convert()
    for layer in methods["k = min/4"]._layers.values():
        k = min(shape_of(layer)) // 4
        parts = {"U": layer.U[:, :k], "S": layer.S[:k, :k], "Vt": layer.Vt[:k]}
        factor(layer, {name: part.detach().clone() for name, part in parts.items()}, trained=["S"])
    methods["k = min/4"]._adopt()
    times: dict[str, list[float]] = {form: [] for form in methods}
    updates: dict[str, list[float]] = {"all layers": [], "a tenth of the layers": []}
    for round_number in range(num_rounds + 1):
        row = {form: seconds(method.step, batch) for form, method in methods.items()}
        methods["converted"]._hyperparameters = replace(methods["converted"]._hyperparameters, alpha=1.0)
        update = {"all layers": seconds(methods["converted"]._update_bases)}
        methods["converted"]._num_updates = 0
        methods["converted"]._hyperparameters = replace(methods["converted"]._hyperparameters, alpha=0.1)
        update["a tenth of the layers"] = seconds(methods["converted"]._update_bases)
        if round_number > 0:  # the first warms up
            for kept, new in ((times, row), (updates, update)):
                for form, value in new.items():
                    kept[form].append(value)
    costs = {"batch_size": 16, "rounds": num_rounds} | _low_rank_figures(methods, times, updates, converting)
    return {"cifar10_mini_vit": costs} if world.rank == 0 else None


def _low_rank_figures(
    methods: dict, times: dict[str, list[float]], updates: dict[str, list[float]], converting: float
) -> dict:
    from atoll.methods.common.optimizers import state_bytes

    full = times["full rank (ddp)"]
    step = statistics.median(times["converted"])
    return {
        "milliseconds_per_step": {form: 1e3 * statistics.median(t) for form, t in times.items()},
        "median_ratio_to_full_rank": {
            form: statistics.median(a / b for a, b in zip(t, full, strict=True)) for form, t in times.items()
        },
        "milliseconds_per_basis_update": {name: 1e3 * statistics.median(t) for name, t in updates.items()},
        "basis_update_in_steps": {name: statistics.median(t) / step for name, t in updates.items()},
        "milliseconds_of_conversion": 1e3 * converting,
        "trained_parameters": {form: method._flat.parameters.numel() for form, method in methods.items()},
        "optimizer_mebibytes": {form: state_bytes(method._optimizer) / 2**20 for form, method in methods.items()},
    }


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
    options = parse(
        __doc__.splitlines()[0], quick="3 rounds of short blocks instead of 15", flags=["--low-rank", "--settings"]
    )
    quick = options.quick
    if options.low_rank:
        figures = measured(options, lambda: measure_low_rank(2 if quick else 9))
        print(json.dumps(figures, indent=1) if figures else "", end="")
        return
    if options.settings:
        import step_settings

        def measure_settings() -> dict | None:
            return step_settings.measure(2 if quick else 15, 0.1 if quick else 0.5, compiles=not quick)

        step_settings.show(measured(options, measure_settings) or {})
        return
    show(measured(options, lambda: measure(3 if quick else 15, 0.1 if quick else 0.5)) or {})


if __name__ == "__main__":
    main()
