"""The bundled tables hold their sources' settings: numbers as printed there, against the resolved ones.

Coquelin 2024: tables 3.2, A.1 to A.9; Zhang 2016: tables 4.1, 4.2, section 4.2; Martin 2024: tables 4.3, 4.4, C.1.
"""

from functools import cache
from pathlib import Path

import pytest

from atoll.platform.benchmark import benchmark_file, bundled
from atoll.platform.benchmark.resolved import Entry, resolve
from atoll.storage import yamlfile


@cache
def entries(name: str, scale: str | None = None) -> dict[tuple[str, str], Entry]:
    return {(one.workload, one.method): one for one in resolve(benchmark_file.load(name, scale))}


def settings(one: Entry) -> dict[str, object]:
    return {name: value for of_owner in one.settings.values() for name, value in of_owner.items()}


def differing(one: Entry, expected: dict[str, object]) -> dict[str, tuple[object, object]]:
    """The settings that are not as expected, with both values; rounded shares count as equal."""
    found = settings(one)
    return {name: (found[name], value) for name, value in expected.items() if not is_equal(found[name], value)}


def is_equal(found: object, expected: object) -> bool:
    is_number = isinstance(expected, int | float) and not isinstance(expected, bool)
    return found == (pytest.approx(expected, rel=2e-6) if is_number else expected)


def ranges(one: Entry) -> dict[str, str]:
    return {searched.name: searched.domain for searched in one.searched}


def by_name(name: str, part: str) -> list[Entry]:
    found = [one for (_, method), one in entries(name).items() if method.startswith(part)]
    assert found, part
    return found


# Coquelin 2024, chapter 3.

GRID = {1: (0, 1), 2: (0, 1, 2), 4: (0, 1, 2, 4), 8: (0, 4, 8), 16: (0, 4, 8, 16), 32: (0, 4, 16, 32)}  # table 3.1
TABLE_3_2 = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False, "batch_size": 32}
WARMUP = {"lr_warmup": 5 / 90, "warmup_lr": 0.1}  # 5 epochs, from Goyal et al.'s rate of one machine


@pytest.mark.parametrize(("scale", "ranks"), [(None, 32), ("128-gpus", 128)])
def test_daso_table_3_1(scale, ranks):
    found = entries("daso_table_3_1", scale)
    assert len(found) == 20
    goyal = {
        "schedule": "step",
        "decay_rate": 0.1,
        "milestones": "1/3,2/3,8/9",
        "learning_rate": 0.1 * ranks * 32 / 256,
    }
    constant = {"adaptive": False, "warmup_epochs": 0, "cooldown_epochs": 0}
    assert [(settings(one)["B"], settings(one)["S"]) for one in found.values()] == [
        (b, s) for b in GRID for s in GRID[b]
    ]
    for one in found.values():
        assert differing(one, TABLE_3_2 | WARMUP | goyal | constant) == {}
        assert (one.ranks, one.ranks_per_node, one.length, one.is_tuned) == (ranks, 4, 90, False)


@pytest.mark.parametrize("ranks", [16, 32, 64, 128, 256])
def test_daso_figure_3_6(ranks):
    forms = {
        "daso": {"B": 4, "S": 1, "adaptive": True, "wire": "bfloat16", "blocking_wire": "bfloat16"},
        "horovod": {"wire": "float16", "overlap": True},
        "classic": {"wire": "float32", "overlap": False},
    }
    plateau = {"schedule": "plateau", "lr_patience": 5, "decay_rate": 0.5, "learning_rate": 0.1 * ranks * 32 / 256}
    for name, form in forms.items():
        one = entries("daso_figure_3_6")["imagenet_resnet50", f"{name}-{ranks}"]
        assert differing(one, TABLE_3_2 | WARMUP | plateau | form) == {}
        assert (one.ranks, one.ranks_per_node, one.length) == (ranks, 4, 90)


# Coquelin 2024, chapter 4.

TABLE_A_1 = {
    "optimizer": "adamw", "learning_rate": 0.001, "min_lr": 1e-5, "warmup_lr": 1e-5, "lr_k_decay": 1,
    "lr_warmup": 10 / 125, "schedule": "cosine", "precision": "bfloat16", "label_smoothing": 0.1,
    "random_erasing": 0.25, "image_size": 160,
    "rand_augment": 10,  # 15 there, which is more than there is here
    "weight_decay": 0.01,  # not listed: torch's default
}  # fmt: skip
STEPS_A_1, STEPS_A_2, STEPS_A_4 = (
    125 * 1251,
    200 * 49,
    20 * 1074,
)  # of the whole training part, in batches of 1,024 and 32
OIALR_A_1 = {"delay": 25_000 / STEPS_A_1, "update_period": 1000 / STEPS_A_1, "beta": 0.1}
FIRST_LOW = {"full_rank_first": False, "full_rank_last": True, "full_rank_warmup": True}


@pytest.mark.parametrize(
    ("name", "workload"), [("oialr_table_4_1", "imagenet_vit_b16"), ("oialr_table_4_2", "imagenet_resnet50")]
)
def test_oialr_tables_4_1_and_4_2_on_imagenet(name, workload):
    baseline, oialr = (entries(name)[workload, method] for method in ("baseline", "oialr"))
    synchronized = {"sync_batch_norm": workload == "imagenet_resnet50"}
    assert differing(baseline, TABLE_A_1 | synchronized) == {}
    assert differing(oialr, TABLE_A_1 | synchronized | OIALR_A_1 | FIRST_LOW) == {}
    for one in (baseline, oialr):
        assert (one.batch, one.batch // one.ranks, one.length, one.is_tuned) == (1024, 128, 125, False)


GENERAL_A_2 = {
    "optimizer": "adamw",
    "precision": "bfloat16",
    "label_smoothing": 0.1,
    "weight_decay": 0.01,
    "schedule": "cosine",
}
BASELINE_A_2 = {"learning_rate": 1e-4, "min_lr": 1e-5, "warmup_lr": 1e-5, "lr_k_decay": 1}
OIALR_A_2 = {"delay": 4000 / STEPS_A_2, "update_period": 1000 / STEPS_A_2, "beta": 0.2} | FIRST_LOW
IMAGES_A_2 = {"rand_augment": 9, "random_erasing": 0.25, "drop_path": 0.2}


def test_oialr_table_4_2_on_cifar10_takes_the_settings_of_the_other_network_on_cifar10():
    baseline, oialr = (entries("oialr_table_4_2")["cifar10_vgg16", method] for method in ("baseline", "oialr"))
    assert differing(baseline, GENERAL_A_2 | BASELINE_A_2 | {"lr_warmup": 10 / 150}) == {}
    assert differing(oialr, GENERAL_A_2 | BASELINE_A_2 | {"lr_warmup": 10 / 150} | OIALR_A_2) == {}


def test_oialr_table_4_3():
    found = entries("oialr_table_4_3")
    baseline, untuned, tuned = (found["cifar10_mini_vit", name] for name in ("baseline", "oialr-untuned", "oialr"))
    both = GENERAL_A_2 | IMAGES_A_2 | BASELINE_A_2 | {"lr_warmup": 10 / 200}
    assert differing(baseline, both) == {}
    assert differing(untuned, both | OIALR_A_2) == {}
    assert differing(tuned, GENERAL_A_2 | IMAGES_A_2 | FIRST_LOW) == {}
    for one in (baseline, untuned, tuned):
        assert (one.batch, one.batch // one.ranks, one.length) == (1024, 256, 200)
    assert ranges(tuned) == {  # table A.3
        "learning_rate": "5e-05 to 0.001, log",
        "min_lr": "5e-06 to 0.001, log",
        "warmup_lr": "5e-06 to 0.0002, log",
        "lr_k_decay": "0.1 to 2",
        "lr_warmup": f"{1 / 200:g} to {20 / 200:g}",
        "beta": "0.01 to 0.9",
        "update_period": f"{200 / STEPS_A_2:g} to {1000 / STEPS_A_2:g}, log",
        "delay": f"{1000 / STEPS_A_2:g} to 1, log",
    }
    check_propulate("oialr_table_4_3", num_islands=8)


def check_propulate(name: str, num_islands: int) -> None:
    """Tables A.3 and A.5."""
    tuning = benchmark_file.load(name).tuning
    sampler = tuning.sampler.model_dump()
    assert sampler["name"] == "propulate"
    assert (sampler["crossover"], sampler["mutation"], sampler["random"]) == (0.7, 0.4, 0.1)
    assert tuning.islands == num_islands


@pytest.mark.parametrize("length", [96, 192, 336, 720])
def test_oialr_table_4_4(length):
    found = entries("oialr_table_4_4")
    baseline, untuned, tuned = (found[f"ettm2-{length}", name] for name in ("baseline", "oialr-untuned", "oialr"))
    adam = {"optimizer": "adam", "weight_decay": 0}
    default = adam | {"schedule": "type1", "decay_rate": 0.5, "learning_rate": 4e-4, "lr_warmup": 0}
    oialr = {"delay": 600 / STEPS_A_4, "update_period": 400 / STEPS_A_4, "beta": 0.4}
    ends = {"full_rank_first": True, "full_rank_last": True, "full_rank_warmup": False}
    assert differing(baseline, default) == {}
    assert differing(untuned, default | oialr | ends) == {}
    assert differing(tuned, adam | {"schedule": "cosine", "full_rank_warmup": False}) == {}
    for one in (baseline, untuned, tuned):
        assert (one.batch, one.length, one.patience) == (32, 20, 3)
    assert ranges(tuned) == {  # table A.5
        "learning_rate": "1e-05 to 0.005, log",
        "min_lr": "5e-06 to 0.001, log",
        "warmup_lr": "5e-06 to 0.0002, log",
        "lr_k_decay": "0.001 to 2",
        "lr_warmup": f"{2 / 20:g} to {10 / 20:g}",
        "beta": "0.01 to 0.9",
        "update_period": f"{50 / STEPS_A_4:g} to {2000 / STEPS_A_4:g}, log",
        "delay": f"{250 / STEPS_A_4:g} to {2500 / STEPS_A_4:g}, log",
        "full_rank_first": "{False, True}",
        "full_rank_last": "{False, True}",
    }
    check_propulate("oialr_table_4_4", num_islands=4)


# Coquelin 2024, chapter 5. By global batch: warmupSteps, numABSteps, fullRankReboundSteps, LR rebound steps, and
# iterations per epoch.

TABLE_A_7 = {
    2048: (24000, 6000, 600, 1500, 600),
    4096: (9300, 3000, 300, 750, 300),
    8192: (6150, 1500, 150, 325, 150),
    16384: (3750, 600, 75, 188, 75),
    32768: (1900, 400, 38, 94, 38),
}
TABLE_A_8 = {
    2048: (24000, 4360, 600, 1500, 600),
    4096: (12300, 2180, 300, 750, 300),
    8192: (6150, 1500, 150, 325, 150),
    16384: (3750, 750, 75, 188, 75),
    32768: (1520, 270, 38, 94, 38),
}
TABLE_A_6 = {
    "optimizer": "adamw", "schedule": "cosine", "lr_warmup": 10 / 150, "gradient_clipping": 1.0, "label_smoothing": 0.1,
    "orthogonal": True, "precision": "bfloat16",
}  # fmt: skip
IMAGENET_A_2 = {"learning_rate": 0.0035, "image_size": 224}  # the section
NETWORKS = {
    "imagenet_resnet50": (TABLE_A_7, {"dropout": 0.1, "weight_decay": 0.01}),
    "imagenet_vit_b16": (TABLE_A_8, {"drop_path": 0.1, "weight_decay": 0.1}),
}
MERGES = {"ab": "with_stale", "ab-no-groups": "only_b"}


def check_ab(
    found: dict[tuple[str, str], Entry], workload: str, label: str, steps: tuple[int, ...], common: dict
) -> None:
    """A row of a table: data parallelism, AB and AB without groups."""
    *expected, per_epoch = steps
    total = 150 * per_epoch
    assert differing(found[workload, f"ddp{label}"], common) == {}
    for name, merge in MERGES.items():
        one = found[workload, f"{name}{label}"]
        assert differing(one, common | {"cutoff": 0.15, "group_size": 4, "merge": merge}) == {}
        made = settings(one)
        group = made["group_steps"] * total
        in_steps = [made["warmup"] * total, group, made["rebound"] * group, made["lr_rebound"] * group]
        assert in_steps == pytest.approx(expected, abs=0.02)
        assert one.length == 150


@pytest.mark.parametrize("workload", NETWORKS)
@pytest.mark.parametrize(("label", "ranks"), [("2k", 8), ("4k", 16), ("8k", 32), ("16k", 64), ("32k", 128)])
def test_ab_table_5_1(workload, label, ranks):
    steps, of_network = NETWORKS[workload]
    found = entries("ab_table_5_1")
    check_ab(found, workload, f"-{label}", steps[256 * ranks], TABLE_A_6 | IMAGENET_A_2 | of_network)
    for name in ("ddp", *MERGES):
        one = found[workload, f"{name}-{label}"]
        assert (one.ranks, one.batch, one.ranks_per_node) == (ranks, 256 * ranks, 4)


@pytest.mark.parametrize("workload", NETWORKS)
@pytest.mark.parametrize(("nodes", "local"), [(4, 256), (8, 128), (16, 64), (32, 32)])  # section A.2
def test_ab_table_5_2(workload, nodes, local):
    steps, of_network = NETWORKS[workload]
    found = entries("ab_table_5_2")
    check_ab(found, workload, f"-{nodes}-nodes", steps[4096], TABLE_A_6 | IMAGENET_A_2 | of_network)
    for name in ("ddp", *MERGES):
        one = found[workload, f"{name}-{nodes}-nodes"]
        assert (one.ranks, one.batch, settings(one)["batch_size"]) == (4 * nodes, 4096, local)


def test_ab_table_5_3():
    found = entries("ab_table_5_3")
    table_a_9 = {"learning_rate": 0.003, "weight_decay": 0.1}
    check_ab(found, "cifar10_vgg16", "", (4330, 759, 60, 267, 49), TABLE_A_6 | table_a_9)
    assert {one.batch for one in found.values()} == {1024}


# Coquelin 2024, chapter 6.


def test_bigearthnet_table_6_1():
    found = entries("bigearthnet_table_6_1")
    searched = ranges(found["bigearthnet", "search"])
    assert searched["optimizer"] == "{adadelta, adagrad, amsgrad, ftrl, sgd}"
    apart = {
        settings(found["bigearthnet", f"search-{name}"])["optimizer"] for name in ("adam", "adamax", "nadam", "rmsprop")
    }
    assert apart == {"adam", "adamax", "nadam", "rmsprop"}  # section 6.2
    for one in found.values():
        assert (one.target, one.patience) == (0.7711, 10)
    assert searched["activation"].count(",") == 11
    assert searched["order"].count(",") == 4
    assert searched["loss"].count(",") == 5
    assert searched["schedule"] == "{exponential, inverse_time, polynomial}"
    assert searched["filters"].startswith("integer 2 to 256")
    sumbul = {"optimizer": "adam", "learning_rate": 0.001, "loss": "binary_crossentropy"}  # section 6.1.2
    assert differing(found["bigearthnet", "resnet50-sumbul"], sumbul) == {}


# Zhang 2016, tables 4.1 and 4.2, and section 4.2.

RATES = {
    "easgd": (0.05, 0.01, 0.005),
    "eamsgd": (0.01, 0.005, 0.001),
    "downpour": (0.005, 0.001, 0.0005),
    "adownpour": (0.005, 0.001, 0.0005),
    "mvadownpour": (0.005, 0.001, 0.0005),
    "mdownpour": (0.00005, 0.00001, 0.000005),
    "sgd": (0.05, 0.01, 0.005),
    "asgd": (0.05, 0.01, 0.005),
    "mvasgd": (0.05, 0.01, 0.005),
    "msgd": (0.001, 0.0005, 0.0001),
}
OF_METHOD = {
    "easgd": {"beta": 0.9, "alpha": None, "momentum": 0},
    "eamsgd": {"beta": 0.9, "alpha": None, "momentum": 0.99, "momentum_form": "nesterov"},
    "mdownpour": {"momentum": 0.99},
    "mvadownpour": {"moving_rate": 0.001},
    "mvasgd": {"moving_rate": 0.001},
    "msgd": {"momentum": 0.99},
}
SEQUENTIAL = ("sgd", "asgd", "mvasgd", "msgd")


@pytest.mark.parametrize("name", ["easgd_figures_4_1_to_4_4", "easgd_figures_4_5_to_4_7"])
def test_easgd_figures(name):
    tuning = benchmark_file.load(name).tuning
    for one in entries(name).values():
        method = one.trains[1]
        assert ranges(one) == {"learning_rate": "{" + ", ".join(map(str, RATES[method])) + "}"}, one.method
        assert one.num_configurations == one.trials == 3  # the whole grid
        common = {"batch_size": 128, "weight_decay": 1e-4, "schedule": "constant", "optimizer": "sgd"}
        assert differing(one, common | OF_METHOD.get(method, {})) == {}
        assert one.ranks == (1 if method in SEQUENTIAL else one.ranks)
        assert one.length == 100 * one.ranks  # as many local steps on every worker
        assert one.target == 0.79
    assert tuning.sampler.name == "grid"
    assert tuning.repeats == 3


def test_easgd_figures_have_their_periods_and_workers():
    periods = [
        (one.trains[1], settings(one)["tau"])
        for one in by_name("easgd_figures_4_1_to_4_4", "")
        if "tau" in settings(one)
    ]
    asynchronous = ("easgd", "eamsgd", "downpour", "adownpour", "mvadownpour")
    assert sorted(periods) == sorted((method, tau) for method in asynchronous for tau in (1, 4, 16, 64))
    assert {one.ranks for one in by_name("easgd_figures_4_1_to_4_4", "easgd")} == {4}
    for ranks in (4, 8, 16):
        for method, tau in (("easgd", 10), ("eamsgd", 10), ("downpour", 1), ("mdownpour", None)):
            one = entries("easgd_figures_4_5_to_4_7")["cifar10_cnn7", f"{method}-p{ranks}"]
            assert one.ranks == ranks
            assert settings(one).get("tau") == tau


# Martin 2024: table 4.4 by variant and workload (rate and passes of W1, of W2, and of Z), and table C.1.

TABLE_4_4 = {
    ("one-term", "timit-mlp"): (2.8e-2, 67, 2.5e-3, 67, 1.4e-5, 1),  # (1,5)
    ("one-term", "timit-transformer"): (1.2e-4, 100, 1.5e-4, 67, 1.0e-4, 1),  # (3,3)
    ("two-term", "timit-mlp"): (3.4e-4, 67, 6.7e-3, 67, 3.0e-5, 1),
    ("two-term", "timit-transformer"): (2.8e-4, 34, 9.2e-4, 67, 1.4e-5, 1),
}
MAC_NAMES = ("w_lr", "w_iterations", "learning_rate", "w_iterations_last", "z_lr", "z_iterations")
TABLE_C_1 = {
    ("sgd", "timit-mlp"): 2.7,
    ("adam", "timit-mlp"): 5.0e-3,
    ("sgd", "timit-transformer"): 1.7e-1,
    ("adam", "timit-transformer"): 7.9e-4,
}
BATCHES = {"timit-mlp": 512, "timit-transformer": 40}  # figure 4.1, all optimizers
GROUPINGS = {"timit-mlp": "first", "timit-transformer": "even"}  # (1,5) and (3,3)


def test_mac_figure_4_1_compares_the_training_loss():
    """As the source; its only number that both variants reach with (1,5) is table 4.4's of the worse one."""
    aims = {one.workload: (one.metric, one.direction, one.target) for one in entries("mac_figure_4_1").values()}
    assert aims["timit-mlp"] == ("evaluated_train_loss", "minimize", max(1.4, 1.6))
    assert aims["timit-transformer"] == ("evaluated_train_loss", "minimize", None)
    figure = benchmark_file.load("mac_figure_4_1")
    assert (figure.tuning.objective.name, figure.evaluate_train) == ("evaluated_train_loss", 1.0)


@pytest.mark.parametrize(("optimizer", "workload"), TABLE_C_1)
def test_mac_figure_4_1_sgd_and_adam(optimizer, workload):
    tuned, published = (entries("mac_figure_4_1")[workload, f"{optimizer}{end}"] for end in ("", "-published"))
    assert ranges(tuned) == {"learning_rate": "1e-05 to 100, log"}  # appendix C
    plain = {"optimizer": optimizer, "schedule": "constant", "weight_decay": 0}
    plain |= {"momentum": 0} if optimizer == "sgd" else {}
    assert differing(tuned, plain) == {}
    assert differing(published, plain | {"learning_rate": TABLE_C_1[optimizer, workload]}) == {}
    for one in (tuned, published):
        assert (one.ranks, one.length, one.batch) == (1, 500, BATCHES[workload])


@pytest.mark.parametrize(("variant", "workload"), TABLE_4_4)
def test_mac_figure_4_1_mac(variant, workload):
    tuned, published = (entries("mac_figure_4_1")[workload, f"mac-{variant}{end}"] for end in ("", "-published"))
    common = {
        "variant": variant.replace("-", "_"),
        "grouping": GROUPINGS[workload],
        "mu": 1,
        "mu_factor": 10,
        "weight_decay": 0,
    }
    best = dict(zip(MAC_NAMES, TABLE_4_4[variant, workload], strict=True))
    assert differing(published, common | best) == {}
    assert differing(tuned, common | {"w_iterations": 67, "w_iterations_last": 67, "z_iterations": 1}) == {}
    assert ranges(tuned) == {  # table 4.3
        "w_lr": "0.0001 to 10, log",
        "learning_rate": "0.0001 to 10, log",
        "z_lr": "1e-05 to 1, log",
    }
    for one in (tuned, published):
        assert (one.ranks, one.batch) == (2, BATCHES[workload])
    assert 0.9 * 500 < tuned.length * (67 + 1) <= 500  # as many passes as SGD, to a whole epoch


# The comparisons of all methods.


@pytest.mark.parametrize("name", ["data_parallel", "all_methods"])
@pytest.mark.parametrize("scale", [None, "small"])
def test_methods_that_work_with_any_optimizer_search_it_alike(name, scale):
    found = [one for one in entries(name, scale).values() if one.workload == "digits_mlp"]
    free = [one for one in found if "optimizer" in ranges(one)]
    assert {one.trains[1] for one in free} >= {"ddp", "local_sgd", "diloco", "powersgd", "daso", "oialr", "ab"}
    names = ("optimizer", "learning_rate", "lr_warmup", "min_lr", "weight_decay", "batch_size")
    alike = {tuple(ranges(one)[n] for n in names) for one in free if one.trains[1] != "mac"}
    assert len(alike) == 1
    held = {"momentum": 0.9, "warmup_lr": 1e-5, "lr_k_decay": 1, "schedule": "cosine"}
    assert all(differing(one, held) == {} for one in free if one.trains[1] != "mac")
    assert {settings(one)["optimizer"] for one in found if one not in free} == {"sgd"}  # which defines these methods


def test_every_bundled_benchmark_is_tested_here():
    text = Path(__file__).read_text()
    assert [name for name in yamlfile.names(bundled.BENCHMARKS) if f'"{name}"' not in text and name != "tiny"] == []
