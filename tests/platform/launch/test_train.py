"""`atoll train`: exported configurations reproduce their objective. Its ranks are threads, but in one test."""

import json
import re

import own_code
import pytest
import torch
import yaml
from commands import FAILING, atoll_json, called, called_json
from safetensors.torch import load_file

from atoll.methods.low_rank.factored import load
from atoll.platform.launch import train
from atoll.platform.study import registry

THREADS = pytest.mark.usefixtures("trains_on_threads")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    flags = ("--ranks", "2", "--ranks-per-node", "1")
    study = {
        "space": {"warmup_epochs": 0, "cooldown_epochs": 0},
        "name": "s",
        "workload": "digits_mlp",
        "method": "daso",
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))  # so that the trained model comes out of cycling
    called("search", "study.yaml", "--in-process", *flags, "--trials", "5", "--epochs", "4", cwd=folder)
    called("export", "s", "--best", "3", "-o", "best.yaml", cwd=folder)
    return folder


@pytest.mark.slow
def test_an_export_is_complete(searched):
    best = yaml.safe_load((searched / "best.yaml").read_text())["configurations"][0]
    assert (best["ranks"], best["ranks_per_node"], best["device"], best["epochs"]) == (2, 1, "cpu", 4)
    assert best["threads"] >= 1
    assert {"B", "S", "wire", "learning_rate", "momentum", "optimizer", "plateau_patience"} <= set(
        best["hyperparameters"]
    )
    assert {"atoll", "torch", "mpi4py"} <= set(best["versions"])
    assert best["origin"]["study"] == "s"


def _without_seconds(metrics):
    """What training again reproduces."""
    return {name: value for name, value in metrics.items() if not name.startswith("seconds_")}


def check_reproduces(train, searched, place):
    expected = yaml.safe_load((searched / "best.yaml").read_text())["configurations"][place - 1]["origin"]
    result = train("train", "best.yaml", "--place", str(place), cwd=searched)
    assert result["objective"] == expected["objective"]
    assert _without_seconds(result["metrics"]) == _without_seconds(expected["metrics"])
    assert "schedules" not in result


@pytest.mark.mpi
def test_an_export_reproduces_its_objective_exactly_over_mpi(searched):
    check_reproduces(atoll_json, searched, 1)


@pytest.mark.slow
@THREADS
def test_an_export_reproduces_its_objective_exactly_on_threads(searched):
    check_reproduces(called_json, searched, 2)


@pytest.mark.slow
@THREADS
def test_train_says_so_and_measures_the_test_data_when_asked(searched):
    text = called("train", "best.yaml", "--test", cwd=searched).stdout
    assert "this reproduces the exported objective" in text
    assert "test_accuracy" in text
    assert "epoch   4" in text


@pytest.mark.slow
@THREADS
def test_other_ranks_are_another_training(searched):
    result = called_json("train", "best.yaml", "--ranks", "1", cwd=searched)
    assert result["state"] == "complete"
    assert result["wire_bytes"] == 0
    wrong = called("train", "best.yaml", "--place", "9", cwd=searched, code=2)
    assert "--place must be at most 3, the number of its configurations; got 9" in wrong.stderr


@pytest.mark.slow
@THREADS
def test_a_failure_is_told_with_its_cause(tmp_path):
    configuration = {"workload": "digits_mlp", "method": "ddp", "hyperparameters": {"learning_rate": 1e30}, "ranks": 2}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration | {"epochs": 2}))
    done = called("train", "c.yaml", cwd=tmp_path, code=1)
    assert "failed: Diverged: diverged at step " in done.stdout


@pytest.mark.slow
@THREADS
def test_it_prints_where_time_went_what_was_sent_and_what_the_method_notes(tmp_path):
    configuration = {"workload": "digits_mlp", "method": "easgd_tree", "ranks": 2, "epochs": 1}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration))
    out = called("train", "c.yaml", cwd=tmp_path).stdout
    assert re.search(r"time, mean over ranks: compute .* \(\d+%\), waiting .* \(\d+%\), data .* \(\d+%\)", out)
    assert re.search(r"sent: send \(overlapped\), node, \d+ x 35.9 kB", out)
    assert "note: easgd_tree of degree 16 on 2 ranks: the leaves' parent is the root" in out
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration | {"method": "msgd", "ranks": 1}))
    assert "sent: nothing" in called("train", "c.yaml", cwd=tmp_path).stdout


def test_wrong_configurations_are_refused(tmp_path):
    for content, message in (
        ({"workload": "digits_mlp"}, "method: required"),
        ({"workload": "digits_mlp", "method": "ddp", "hyperparameters": {"B": 2}}, "ddp has no hyperparameter B"),
        ({"workload": "digits_mlp", "method": "daso", "hyperparameters": {"B": 2, "S": 3}}, "S must be in 0..B"),
        ({"workload": "digits_mlp", "method": "sgd", "ranks": 2}, "sgd is sequential: it trains on 1 rank"),
        (
            {"workload": "digits_mlp", "method": "eamsgd", "hyperparameters": {"optimizer": "adamw"}},
            "which adamw does not have; optimizer must be sgd",
        ),
        ({"workload": "digits_mlp", "method": "easgd", "hyperparameters": {"tau": 0}}, "tau must be at least 1; got 0"),
        (
            {"workload": "digits_mlp", "method": "easgd", "hyperparameters": {"alpha": "x"}},
            "alpha must be of type float",
        ),
        ({"workload": "digits_mlp", "method": "ddp", "ranks": 3, "ranks_per_node": 2}, "divisible by ranks_per_node"),
    ):
        (tmp_path / "c.json").write_text(json.dumps(content))
        assert message in called("train", "c.json", cwd=tmp_path, code=2).stderr


@pytest.mark.slow
@THREADS
def test_a_schedule_is_trained_whole_each_report_once(tmp_path):
    """A constant rate that is halved after epochs 2 and 3 of 4 is the schedule that halves it."""
    common = {"workload": "digits_mlp", "method": "local_sgd", "ranks": 2, "epochs": 4, "seed": 3}
    halved = {"schedule": "step", "milestones": "0.5,0.75", "decay_rate": 0.5, "learning_rate": 0.2, "batch_size": 60}
    steps = {"learning_rate": {0: 0.2, 20: 0.1, 30: 0.05}}
    constant = {"schedule": "constant", "learning_rate": 0.05, "batch_size": 60}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(common | {"hyperparameters": halved}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(common | {"hyperparameters": constant, "schedule": steps}))
    curves = []
    for name in ("a.yaml", "b.yaml"):
        lines = called("train", name, cwd=tmp_path).stdout.splitlines()
        curves.append([line.split("  ")[:5] for line in lines if line.startswith("epoch")])
    assert len(curves[0]) == 4
    assert curves[1] == curves[0]
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(common | {"schedule": {"H": {0: 1, 5: 2}}, "hyperparameters": {}}))
    assert "hyperparameters.H must be the last value" in called("train", "b.yaml", cwd=tmp_path, code=2).stderr


@pytest.mark.slow
@THREADS
def test_the_same_configuration_twice_gives_the_same_curve(tmp_path):
    configuration = {"workload": "digits_cnn", "method": "local_sgd", "ranks": 2, "epochs": 2, "seed": 3}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration))

    def curve():
        lines = called("train", "c.yaml", cwd=tmp_path).stdout.splitlines()
        # the time spent differs
        return [line.split("  ")[:5] for line in lines if line.startswith("epoch")]

    first = curve()
    assert len(first) == 2
    assert curve() == first


@pytest.mark.slow
@THREADS
def test_a_users_own_workload(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"workload": FAILING, "method": "ddp", "epochs": 1}))
    refused = called("train", "c.yaml", cwd=tmp_path, code=2).stderr
    assert "code must be in the file's folder" in refused
    assert "use --outside if you trust it" in refused
    assert called_json("train", "c.yaml", "--outside", cwd=tmp_path)["state"] == "complete"


@pytest.mark.cpu_limit(40, reason="it searches, and trains again, with many small decompositions")
@pytest.mark.slow
@THREADS
@pytest.mark.parametrize("method", ["oialr", "ab"])
def test_a_search_over_a_low_rank_method_is_exported_and_trained_again(tmp_path, method):
    flags = ("--ranks", "4", "--ranks-per-node", "2", "--trials", "4", "--epochs", "3")
    called(
        "search", "--in-process", "--method", method, "--workload", "digits_mlp", "--name", "s", *flags, cwd=tmp_path
    )
    called("export", "s", "-o", "best.yaml", cwd=tmp_path)
    out = called("train", "best.yaml", cwd=tmp_path).stdout
    assert re.search(r"this reproduces the exported objective .* exactly", out)


OIALR = {"delay": 0.3, "update_period": 0.1, "beta": 0.5, "learning_rate": 0.01}
AB = {"warmup": 0.3, "group_steps": 0.2, "group_size": 1, "cutoff": 0.2, "learning_rate": 0.01, "low_rank_result": True}


@pytest.mark.slow
@THREADS
@pytest.mark.parametrize(
    ("method", "hyperparameters", "names"),
    [("oialr", OIALR, {"0.U", "0.S", "0.Vt", "0.bias", "4.weight"}), ("ab", AB, {"0.weight", "2.A", "2.B", "2.bias"})],
    ids=["oialr", "ab"],
)
def test_a_trained_model_is_saved_with_its_factors_or_merged(tmp_path, method, hyperparameters, names):
    """Accuracy and compression are those of the model that is saved."""
    configuration = {"workload": "digits_mlp", "method": method, "hyperparameters": hyperparameters}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration | {"epochs": 4, "ranks": 2, "device": "cpu"}))
    out = called("train", "c.yaml", "--save", "factors.pt", cwd=tmp_path).stdout
    assert "wrote factors.pt" in out
    flags = ("--save", "merged.pt", "--merged", "--observe", "1", "--evaluate-train", "0.5")
    result = called_json("train", "c.yaml", *flags, cwd=tmp_path)
    assert result["metrics"]["evaluated_train_loss"] > 0
    factors, merged = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("factors", "merged"))
    assert names < set(factors)
    sizes = [sum(tensor.numel() for tensor in state.values()) for state in (merged, factors)]
    assert result["metrics"]["compression"] == pytest.approx(sizes[0] / sizes[1], rel=1e-6)
    workload = registry.workload("digits_mlp")
    full, low = workload.model(), workload.model()
    full.load_state_dict(merged)
    load(low, factors)
    data = workload.load(None).validation
    with torch.no_grad():
        accuracies = [float(workload.measure(model(data.inputs), data.targets)) for model in (full, low)]
    assert accuracies == [result["objective"]] * 2
    assert 0 < result["metrics"]["stability"] < 1
    assert result["metrics"]["trainable_share"] < 1
    wrong = called("train", "c.yaml", "--save", "nowhere/m.pt", cwd=tmp_path, code=1)
    assert "--save must be in an existing folder" in wrong.stderr
    assert "--merged needs --save FILE" in called("train", "c.yaml", "--merged", cwd=tmp_path, code=2).stderr


@pytest.mark.slow
@THREADS
def test_a_training_has_a_folder_on_request_and_continues_from_it(tmp_path):
    configuration = {"workload": "digits_mlp", "method": "ddp", "epochs": 2, "device": "cpu"}
    configuration |= {"checkpoint": {"every": "1 epochs", "keep": "last", "weights": "best"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration))
    out = called("train", "c.yaml", "--save", "model.safetensors", "--folder", "mine", cwd=tmp_path).stdout
    assert "continued" not in out
    saved, kept = (load_file(tmp_path / name) for name in ("model.safetensors", "mine/weights.safetensors"))
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[name], kept[name]) for name in saved)
    assert "continued from the checkpoint of step" in called("train", "c.yaml", "--folder", "mine", cwd=tmp_path).stdout


@pytest.mark.parametrize("several", [False, True])
def test_code_outside_the_files_folder_is_not_trained_unless_trusted(tmp_path, several):
    evil, folder = tmp_path / "evil.py", tmp_path / "received"
    evil.write_text("print('run')\nclass Evil: pass\n")
    folder.mkdir()
    (folder / "inside.py").write_text("raise ValueError('run as it may')\n")
    file = folder / "c.yaml"
    for workload, method in ((f"{evil}:Evil", "ddp"), ("../evil.py:Evil", "ddp"), ("digits_mlp", "../evil.py:Evil")):
        content = {"workload": workload, "method": method}
        file.write_text(yaml.safe_dump({"configurations": [content]} if several else content))
        done = called("train", "received/c.yaml", cwd=tmp_path, code=2)
        assert "code must be in the file's folder" in done.stderr
        assert "run" not in done.stdout.split()
    file.write_text(yaml.safe_dump({"workload": "inside.py:Mine", "method": "ddp"}))
    with pytest.raises(ValueError, match="run as it may"):
        train.read(file, inside=True)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A folder with a user's code, and with best.yaml of a search with it."""
    own_code.write(tmp_path, monkeypatch)
    called("search", "s.yaml", "--in-process", cwd=tmp_path)
    called("export", "s", "-o", "best.yaml", cwd=tmp_path)
    return tmp_path


@pytest.mark.slow
@THREADS
def test_an_export_moves_with_its_code(exported, tmp_path_factory):
    content = yaml.safe_load((exported / "best.yaml").read_text())
    assert content["workload"] == "w.py:Mine"
    assert [file["path"] for file in content["code"]] == ["helper.py", "w.py"]
    assert list(content["data_files"]) == ["x.txt"]
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "sub"
    elsewhere.mkdir()
    for name in ("best.yaml", "w.py", "helper.py"):
        (exported / name).rename(elsewhere / name)
    done = called("train", "sub/best.yaml", cwd=elsewhere.parent)
    assert "this reproduces the exported objective" in done.stdout
    assert done.stderr == ""
    assert called_json("train", "best.yaml", cwd=elsewhere)["differences"] == []


@pytest.mark.slow
@THREADS
def test_a_training_says_how_it_differs_from_the_exported_trial(exported, monkeypatch):
    with (exported / "helper.py").open("a") as file:
        file.write("# a comment\n")
    (exported / "data/x.txt").write_text("0.50\n")
    content = yaml.safe_load((exported / "best.yaml").read_text())
    content["versions"] |= {"torch": "1.0", "MPI": "Open MPI 1.0"}
    (exported / "best.yaml").write_text(yaml.safe_dump(content))
    done = called("train", "best.yaml", cwd=exported)
    phrases = [
        "helper.py changed (sha256 ",
        "data x.txt changed (4 → 5 bytes)",
        "MPI Open MPI 1.0 → MPICH ",
        "torch 1.0 → ",
    ]
    for phrase in phrases:
        assert f"unlike the exported trial: {phrase}" in done.stderr
    told = called_json("train", "best.yaml", cwd=exported)["differences"]
    assert len(told) == len(phrases)
    assert all(one.startswith(phrase) for one, phrase in zip(told, phrases, strict=True))


@pytest.mark.slow
@THREADS
def test_an_export_without_hashes_and_with_absolute_paths_is_trained(exported):
    content = yaml.safe_load((exported / "best.yaml").read_text())
    for name in ("code", "data_files"):
        del content[name]
    content["workload"] = f"{exported}/w.py:Mine"
    (exported / "best.yaml").write_text(yaml.safe_dump(content))
    assert called_json("train", "best.yaml", cwd=exported)["differences"] == []


@pytest.mark.slow
def test_paths_are_relative_to_the_file_and_absolute_without_one(exported):
    called("export", "s", "-o", "deep/er/best.json", cwd=exported)
    content = json.loads((exported / "deep/er/best.json").read_text())
    assert (content["workload"], content["code"][0]["path"]) == ("../../w.py:Mine", "../../helper.py")
    refused = called("train", "deep/er/best.json", cwd=exported, code=2)
    assert "use --outside if you trust it" in refused.stderr
    assert train.read(exported / "deep/er/best.json").workload == f"{exported}/w.py:Mine"
    printed = yaml.safe_load(called("export", "s", cwd=exported).stdout)
    assert (printed["workload"], printed["code"][1]["path"]) == (f"{exported}/w.py:Mine", f"{exported}/w.py")
