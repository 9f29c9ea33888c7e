"""The benchmark file: its parts and studies, its bundled files, and what cannot be."""

import re
from pathlib import Path

import pytest
import yaml
from with_propulate import NEEDS_PROPULATE

from atoll.platform.benchmark import benchmark_file as benchmarks
from atoll.platform.benchmark import bundled
from atoll.platform.benchmark.benchmark_file import SEEDS_PER_REPEAT, Benchmark
from atoll.platform.benchmark.entries import FIRST_CONFIRMATION_SEED, with_defaults
from atoll.platform.benchmark.resolved import resolve
from atoll.platform.launch import checks
from atoll.platform.study.plan import Plan, search_space, workload_of
from atoll.storage import yamlfile
from atoll.storage.yamlfile import FileError

SMALL = {
    "name": "b",
    "methods": ["ddp", {"method": "daso", "space": {"B": {"low": 1, "high": 2}}}],
    "workloads": [{"workload": "digits_mlp", "target": 0.9, "epochs": 2}, "digits_cnn"],
    "tuning": {"trials": 4, "repeats": 2},
    "confirmation": {"best": 2, "seeds": 3},
    "space": {"batch_size": 32},
}


def make(**changes):
    return Benchmark.model_validate(SMALL | changes)


def load(tmp_path, content, **more):
    file = tmp_path / "b.yaml"
    file.write_text(yaml.safe_dump(content))
    return benchmarks.load(str(file), **more)


def test_tuning_comes_first_and_methods_take_turns():
    names = [part.name for part in make().parts()]
    assert len(names) == 2 * 2 * 2 * 2
    assert names[:5] == [
        "digits_mlp.ddp.tune-0",
        "digits_mlp.daso.tune-0",
        "digits_mlp.ddp.tune-1",
        "digits_mlp.daso.tune-1",
        "digits_cnn.ddp.tune-0",
    ]
    assert all(".tune-" in name for name in names[:8])
    assert all(".confirm-" in name for name in names[8:])


def test_every_method_gets_the_same_but_for_its_own_space(tmp_path):
    studies = {p.name: make().study(p, tmp_path) for p in make().parts() if p.stage == "tune"}
    ddp, daso = studies["digits_mlp.ddp.tune-0"], studies["digits_mlp.daso.tune-0"]
    for field in ("trials", "sampler", "seed", "topology", "epochs", "target", "pruning", "objectives"):
        assert getattr(ddp, field) == getattr(daso, field), field
    assert ddp.default_first
    assert "B" in search_space(daso).limits()
    assert "batch_size" not in {*search_space(ddp).limits(), *search_space(daso).limits()}
    assert dict(search_space(daso).fixed)["batch_size"] == dict(search_space(ddp).fixed)["batch_size"] == 32
    assert workload_of(ddp).target == 0.9
    assert workload_of(studies["digits_cnn.ddp.tune-0"]).target == 0.98  # the workload's own
    assert studies["digits_mlp.ddp.tune-1"].seed == ddp.seed + SEEDS_PER_REPEAT


@pytest.mark.parametrize("objective", ["compression", {"compression": "maximize"}, {"name": "compression"}])
def test_a_methods_metric_may_be_tuned(tmp_path, objective):
    some = make(methods=["oialr", "ab"], ranks=2, tuning={"trials": 1, "objective": objective})
    for part in some.parts():
        if part.stage == "tune":
            assert Plan.of(some.study(part, tmp_path)).aim == ("compression", "maximize")


def test_a_sampler_that_finds_schedules_tunes_nothing():
    with pytest.raises(ValueError, match="a benchmark confirms constant configurations, and pbt finds schedules"):
        make(tuning={"trials": 4, "sampler": {"name": "pbt"}})


def test_a_method_may_be_a_comparator_on_fewer_ranks_or_without_tuning(tmp_path):
    entries = ["ddp", {"method": "msgd", "ranks": 1}, {"method": "ddp", "name": "as-it-is", "untuned": True}]
    some = make(methods=entries, ranks=4, ranks_per_node=2)
    parts = list(some.parts())
    ddp, msgd, untuned = (some.study(part, tmp_path) for part in parts[:3])
    assert [study.topology.ranks for study in (ddp, msgd, untuned)] == [4, 1, 4]
    assert [study.topology.ranks_per_node for study in (ddp, msgd, untuned)] == [2, 1, 2]
    assert [study.trials for study in (ddp, msgd, untuned)] == [4, 4, 1]
    confirm = next(p for p in parts if p.stage == "confirm" and p.method.name == "msgd")
    assert some.study(confirm, tmp_path, [{}]).topology.ranks == 1


def test_a_method_may_have_a_length_of_its_own_and_settings_on_single_workloads(tmp_path):
    own = {
        "method": "ddp",
        "name": "own",
        "epochs": 9,
        "space": {"batch_size": 8},
        "by_workload": {"wide": {"batch_size": 16}},
    }
    wide = {"workload": "digits_cnn", "name": "wide", "space": {"momentum": 0.5}}
    some = make(methods=["ddp", own], workloads=["digits_mlp", wide], patience=3)
    studies = {part.name: some.study(part, tmp_path) for part in some.parts() if part.stage == "tune"}
    studies["confirmed"] = some.study(list(some.parts())[-1], tmp_path, [{}])
    assert studies["digits_mlp.own.tune-0"].epochs == studies["wide.own.tune-0"].epochs == 9
    assert studies["wide.ddp.tune-0"].epochs is None  # the workload's
    batches = {name: study.space["batch_size"] for name, study in studies.items()}
    assert (batches["digits_mlp.own.tune-0"], batches["wide.own.tune-0"], batches["confirmed"]) == (8, 16, 16)
    assert batches["wide.ddp.tune-0"] == 32
    assert studies["wide.own.tune-0"].space["momentum"] == 0.5
    assert {study.patience for study in studies.values()} == {3}


def test_a_workload_may_be_compared_by_the_training_loss(tmp_path):
    """Its target is of the loss then; that of the metric is the workload's, and nobody's aim."""
    of_loss = {"workload": "digits_mlp", "compared": "evaluated_train_loss", "target": 0.5}
    with pytest.raises(ValueError, match=r"methods on digits_mlp are compared by .* evaluate_train only: set it"):
        make(workloads=[of_loss])
    some = make(workloads=[of_loss, {"workload": "digits_mlp", "name": "usual", "target": 0.9}], evaluate_train=0.5)
    parts = {part.name: part for part in some.parts() if part.method == some.methods[0]}
    confirmed = some.study(parts["digits_mlp.ddp.confirm-0"], tmp_path, [{}])
    assert (confirmed.confirm.compared, confirmed.confirm.target) == ("evaluated_train_loss", 0.5)
    assert (confirmed.target, confirmed.evaluate_train) == (None, 0.5)
    usual = some.study(parts["usual.ddp.confirm-0"], tmp_path, [{}])
    assert (usual.confirm.compared, usual.confirm.target, usual.target) == (None, None, 0.9)
    shown = {entry.workload: (entry.metric, entry.direction, entry.target) for entry in resolve(some)}
    assert shown == {"digits_mlp": ("evaluated_train_loss", "minimize", 0.5), "usual": ("accuracy", "maximize", 0.9)}


def test_a_benchmark_of_before_these_settings_can_be_resumed():
    now = make().model_dump(mode="json")
    before = now | {
        "methods": [{k: v for k, v in m.items() if k not in ("epochs", "by_workload")} for m in now["methods"]],
        "workloads": [{k: v for k, v in w.items() if k != "compared"} for w in now["workloads"]],
    }
    assert with_defaults(before) == now
    longer = make(methods=[{"method": "ddp", "epochs": 3}]).model_dump(mode="json")
    assert with_defaults(longer) == longer


def test_a_confirmation_trains_every_configuration_with_seeds_that_tuning_did_not_use(tmp_path):
    part = next(part for part in make().parts() if part.stage == "confirm")
    found = [{"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": 0.2, "momentum": 0.9}]
    study = make().study(part, tmp_path, found)
    assert study.trials == 6
    assert study.seed == FIRST_CONFIRMATION_SEED
    assert study.confirm.trials() == found * 3
    assert study.topology.shape().world_size == 2  # nothing trains beside it
    seeds = {study.seed + number for number in range(study.trials)}
    tuned = next(make().study(p, tmp_path) for p in make().parts() if p.stage == "tune")
    first = Plan.of(study).configuration(found[0], 0, 1, "cpu"), Plan.of(study).configuration(found[1], 1, 1, "cpu")
    assert first[0].seed == first[1].seed == FIRST_CONFIRMATION_SEED
    assert Plan.of(study).configuration(found[0], 2, 1, "cpu").seed == FIRST_CONFIRMATION_SEED + 1
    assert not seeds & {tuned.seed + number for number in range(tuned.trials)}


def test_optimizer_settings_that_mean_nothing_to_a_method_are_left_out_of_it(tmp_path):
    some = make(methods=["ddp", "mac"], workloads=["digits_mlp"], space={"momentum": 0.5})
    ddp, mac = (some.study(part, tmp_path) for part in list(some.parts())[:2])
    assert dict(search_space(ddp).fixed)["momentum"] == 0.5
    assert "momentum" not in mac.space


# Those of Coquelin 2024 search with Propulate, as there.
OF_PROPULATE = ("bigearthnet_table_6_1", "oialr_table_4_3", "oialr_table_4_4")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[NEEDS_PROPULATE] if name in OF_PROPULATE else [])
        for name in yamlfile.names(bundled.BENCHMARKS)
    ],
)
def test_bundled_benchmarks_can_run(name, tmp_path):
    """All but the data is checked, of every study; each but the smallest has a small form that needs no data."""
    for scale in (None, "small") if name != "tiny" else (None,):
        found = benchmarks.load(name, scale)
        assert found.name == name
        for part in found.parts():
            if part.stage == "tune":
                study = found.study(part, tmp_path)
                search_space(study)
                if scale == "small" or name == "tiny":
                    checks.check(study)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": []}, "at least 1 item"),
        ({"methods": ["ddp", "ddp"]}, "names must be unique; set a different `name` for each of: ddp"),
        ({"methods": ["dddp"]}, "method must be one of .* got 'dddp'"),
        (
            {"workloads": [{"workload": "digits_mlp", "variant_of": "x"}]},
            "variant_of of digits_mlp must be one of none; got x",
        ),
        (
            {"ranks": 4, "ranks_per_node": 4, "methods": [{"method": "ddp", "ranks": 6}]},
            r"ranks must be divisible by ranks_per_node .4.; got 6",
        ),
        ({"tuning": {"trials": 10**6}}, "trials: .* less than or equal to 500000"),
        ({"name": "a/b"}, r"a benchmark's name must have 1 to 28 letters, .*; got 'a/b'"),
        ({"name": "a.b"}, "a benchmark's name must have 1 to 28 letters"),
        ({"methods": [{"method": "ddp", "name": "a.b"}]}, "method 'ddp' needs a `name` of 1 to 28 .* got 'a.b'"),
        (
            {
                "workloads": [
                    "digits_mlp",
                    {"workload": "digits_cnn", "name": "v", "variant_of": "digits_mlp"},
                    {"workload": "digits_cnn", "name": "u", "variant_of": "digits_mlp"},
                ]
            },
            "digits_mlp must have at most one variant; got v and u",
        ),
        ({"workloads": [{"workload": "digits_mlp", "target": 0}]}, "target: .* greater than 0"),
        (
            {"methods": [{"method": "ddp", "by_workload": {"cnn": {"batch_size": 8}}}]},
            "`by_workload` of ddp must name workloads of this file, digits_mlp, digits_cnn; got cnn",
        ),
        ({"budget": 3}, "budget"),
    ],
)
def test_what_cannot_be(tmp_path, changes, message):
    with pytest.raises(FileError, match=message):
        load(tmp_path, SMALL | changes)


def test_files_that_are_not_there():
    with pytest.raises(FileError, match=r"a benchmark must be a file, or one of the bundled .*tiny.*; got tinny"):
        benchmarks.load("tinny")
    with pytest.raises(FileError, match=r"no-such\.yaml: No such file"):
        benchmarks.load("no-such.yaml")


def test_a_scale_changes_what_it_names(tmp_path):
    content = SMALL | {"scales": {"small": {"tuning": {"repeats": 1}, "workloads": ["digits_cnn"]}}}
    small = load(tmp_path, content, scale="small")
    assert (small.tuning.trials, small.tuning.repeats) == (4, 1)
    assert [entry.name for entry in small.workloads] == ["digits_cnn"]
    assert len(load(tmp_path, content).workloads) == 2
    with pytest.raises(FileError, match="the scale must be one of small; got 'large'"):
        load(tmp_path, content, scale="large")


def test_ranges_are_replaced_and_not_joined(tmp_path):
    content = SMALL | {"space": {"batch_size": {"low": 8, "high": 64}}}
    content["scales"] = {"small": {"space": {"batch_size": {"choices": [8]}}}}
    assert load(tmp_path, content, scale="small").space["batch_size"].choices == [8]


def test_without_a_word_on_tuning_there_are_twenty_trials(tmp_path):
    some = Benchmark.model_validate({name: value for name, value in SMALL.items() if name != "tuning"})
    assert some.tuning.trials == 20
    assert some.study(next(some.parts()), tmp_path).trials == 20
    assert make(tuning={"busy_seconds": 5}).tuning.trials is None


def test_a_file_that_is_no_yaml_says_so(tmp_path):
    (tmp_path / "b.yaml").write_text("a: [")
    with pytest.raises(FileError, match="not valid YAML"):
        benchmarks.load(str(tmp_path / "b.yaml"))
    (tmp_path / "b.yaml").write_text("name: b\nmethods: 3\nworkloads: [digits_mlp]\n")
    with pytest.raises(FileError, match=r"line 2: methods"):
        benchmarks.load(str(tmp_path / "b.yaml"))


def test_the_file_in_the_documents_is_valid(tmp_path):
    from conftest import ROOT

    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/benchmark.md").read_text(), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    assert len(list(benchmarks.load(str(tmp_path / "mine.yaml"), "small").parts())) == 2 * 3 * 2 * 3


def test_code_must_lie_in_the_files_folder(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "own.py").write_text("")
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(FileError, match=r"own\.py"):
        load(inner, SMALL | {"methods": [f"{other / 'own.py'}:Own"]}, inside=True)


def test_a_study_that_cannot_be_names_its_part(tmp_path):
    wrong = make(methods=[{"method": "daso", "space": {"wurst": 3}}])
    with pytest.raises(ValueError, match="wurst"):
        checks.check(wrong.study(next(wrong.parts()), Path(tmp_path)))


def test_a_shared_range_is_left_out_where_the_optimizer_of_a_method_has_no_use_for_it(tmp_path):
    adamw = {"method": "ddp", "name": "adamw", "space": {"optimizer": "adamw"}}
    ranges = {"momentum": {"low": 0.1, "high": 0.9}}
    some = make(methods=["ddp", adamw], workloads=["digits_mlp"], space=ranges)
    sgd, other = (some.study(part, tmp_path) for part in list(some.parts())[:2])
    assert "momentum" in search_space(sgd).limits()
    assert "momentum" not in search_space(other).names()


def test_a_shared_setting_is_kept_where_one_of_the_searched_optimizers_has_use_for_it(tmp_path):
    space = {"optimizer": {"choices": ["adamw", "sgd"]}, "momentum": 0.5, "trust": 0.01}
    some = make(methods=["ddp"], workloads=["digits_mlp"], space=space)
    study = some.study(next(some.parts()), tmp_path)
    assert study.space.keys() == {"optimizer", "momentum"}


def test_an_untuned_entry_may_have_nothing_left_to_search(tmp_path):
    space = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "schedule": "constant", "wire": "float32"}
    fixed = {"method": "ddp", "space": space}
    some = make(methods=[fixed | {"untuned": True}], workloads=["digits_mlp"])
    assert search_space(some.study(next(some.parts()), tmp_path)).parameters == ()
    tuned = make(methods=[fixed], workloads=["digits_mlp"])
    with pytest.raises(ValueError, match="space must leave a hyperparameter to search"):
        search_space(tuned.study(next(tuned.parts()), tmp_path))


def test_a_part_of_a_benchmark_is_some_of_its_workloads():
    wide = {"workload": "digits_mlp", "name": "wide", "target": 0.9, "variant_of": "digits_cnn"}
    methods = [{"method": "ddp", "by_workload": {"wide": {"momentum": 0.5}, "digits_mlp": {"momentum": 0.9}}}]
    whole = make(workloads=[*SMALL["workloads"], wide], methods=methods)
    part = whole.only(["digits_mlp"])
    assert [entry.name for entry in part.workloads] == ["digits_mlp"]
    assert part.methods[0].by_workload.keys() == {"digits_mlp"}
    assert [p.name for p in part.parts()] == [p.name for p in whole.parts() if p.workload.name == "digits_mlp"]
    study = whole.only(["wide", "digits_cnn"]).study(next(whole.parts()), Path("f"))
    assert study == whole.study(next(whole.parts()), Path("f"))
    with pytest.raises(ValueError, match="--only must name workloads of b, digits_mlp, digits_cnn, wide; got cnn"):
        whole.only(["digits_mlp", "cnn"])
    with pytest.raises(ValueError, match="got only the variant wide of digits_cnn"):
        whole.only(["wide"])
