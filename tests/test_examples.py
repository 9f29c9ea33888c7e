"""Every study file in examples/ runs: in one process, and a plugin's in a process of its own."""

import importlib.util
import itertools
import random
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import atoll, called, called_json
from conftest import ROOT
from torch.utils.data import DataLoader

from atoll.communication.threads import single_rank
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.loader import Loader
from atoll.platform.study.plan import search_space
from atoll.platform.study.study import Study
from atoll.platform.trial.loaders import LoadedBatches
from atoll.platform.trial.shares import Share
from atoll.platform.trial.trial import Trial
from atoll.results import reading

EXAMPLES = ROOT / "examples"
NEEDS_DATA = {"spoken_digits.yaml"}
# More than 15 CPU seconds each; a few short trials of each are exported and trained again below.
LARGE = {"admm_dual.yaml", "dni.yaml", "mac.yaml"}
STUDIES = sorted({path.name for path in EXAMPLES.glob("*.yaml")} - NEEDS_DATA)


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.yaml")} > NEEDS_DATA


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        *(
            pytest.param(name, ("--epochs", "2"), id=name, marks=pytest.mark.slow)
            for name in STUDIES
            if name not in LARGE
        ),
        *(
            pytest.param(name, (), id=f"{name}-whole", marks=pytest.mark.soak if name in LARGE else pytest.mark.long)
            for name in STUDIES
        ),
    ],
)
def test_example(name, flags, tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    called("search", f"examples/{name}", *flags, "--in-process", cwd=tmp_path)
    (study,) = called_json("studies", cwd=tmp_path)
    assert study["state"] == "complete"
    counts = study["counts"]
    # the highest learning rates may diverge, which is a result
    assert counts["complete"] + counts.get("failed", 0) + counts.get("pruned", 0) == study["num_trials"]
    assert counts["complete"] + counts.get("pruned", 0) > study["num_trials"] / 2
    assert ("pruned" in counts) == (name == "own_pruning.yaml")


@pytest.mark.long  # it searches on the real recordings
def test_spoken_digits(tmp_path, shared_data, monkeypatch):
    monkeypatch.setenv("ATOLL_DATA", str(shared_data))
    example = EXAMPLES / "spoken_digits.yaml"
    called("search", example, "--trials", "3", "--in-process", cwd=tmp_path)
    best = called_json("leaderboard", cwd=tmp_path)[0]
    # ten digits: chance is 0.1 of the frames; the held-out speaker is a stranger
    assert best["objective"] > 0.2


@pytest.mark.slow
def test_stability_regions_are_drawn(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("stability", ROOT / "benchmarks/stability.py")
    stability = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stability)
    monkeypatch.setattr(stability, "NUM_POINTS", 12)
    stability.main(str(tmp_path / "stability.html"))
    assert "wrote" in capsys.readouterr().out
    page = (tmp_path / "stability.html").read_text()
    for title in ("ADMM, p = 3", "ADMM, p = 8", "EASGD, p = 3"):
        assert title in page


@pytest.mark.slow
def test_the_own_workload_is_minimized(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    flags = ("--trials", "4", "--islands", "1", "--in-process")
    called("search", "examples/own_workload.yaml", *flags, cwd=tmp_path)
    objectives = [trial["objective"] for trial in called_json("leaderboard", cwd=tmp_path)]
    assert objectives == sorted(objectives)


def processes_of(folder):
    """The command lines of processes that name a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.long
@pytest.mark.mpi
def test_a_program_with_an_mpiexec_of_its_own(tmp_path):
    folder = tmp_path / "mpi_program"
    shutil.copytree(EXAMPLES / "mpi_program", folder)
    done = subprocess.run([sys.executable, "search.py"], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    trials = reading.open(folder / "atoll.db").study("program").trials()
    assert trials["state"].tolist() == ["complete"] * 8
    for _, trial in trials.iterrows():  # the program computes on both ranks: |goal| (1 - 2 rate)^steps, goals 1 and 2
        left = 1.5 * abs(1 - 2 * trial["hp.rate"]) ** trial["hp.steps"]
        assert trial["objective.value"] == pytest.approx(left, rel=1e-9, abs=1e-15)


@pytest.mark.long
@pytest.mark.mpi
def test_a_timeout_ends_all_ranks_of_a_program(tmp_path):
    folder = tmp_path / "mpi_program"
    shutil.copytree(EXAMPLES / "mpi_program", folder)
    program, script = folder / "program.py", folder / "search.py"
    program.write_text("import time\n" + program.read_text() + "time.sleep(1000)\n")
    text = script.read_text()
    assert "trials=8" in text
    assert "trial_timeout=60" in text
    script.write_text(text.replace("trials=8", "trials=2").replace("trial_timeout=60", "trial_timeout=6"))
    done = subprocess.run([sys.executable, "search.py"], cwd=folder, capture_output=True, text=True, timeout=240)
    assert "all 2 trials failed" in done.stderr, done.stderr
    trials = reading.open(folder / "atoll.db").study("program").trials()
    assert trials["reason"].str.startswith("TrialTimeout").all()
    assert trials["attempt"].tolist() == [0, 0]  # no rank was lost
    assert processes_of(program) == []


@pytest.mark.long
@pytest.mark.process
def test_a_package_with_entry_points(tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-q", "--target", site]
    shutil.copytree(EXAMPLES / "plugin", tmp_path / "plugin")
    subprocess.run([*install, tmp_path / "plugin"], check=True, capture_output=True, timeout=120)
    env = {"PYTHONPATH": str(site)}
    listed = atoll("workloads", cwd=tmp_path, env=env).stdout
    assert "two_moons            two interleaved half circles" in listed
    assert "half_ddp" in atoll("methods", cwd=tmp_path, env=env).stdout
    flags = ("--method", "half_ddp", "--workload", "two_moons", "--trials", "3", "--ranks", "2")
    atoll("search", "--in-process", *flags, cwd=tmp_path, env=env)
    assert len(called_json("leaderboard", cwd=tmp_path)) == 3


@pytest.mark.slow
def test_the_templates_run_as_they_are(tmp_path):
    shutil.copytree(EXAMPLES / "templates", tmp_path / "templates")
    without_data = called("search", "templates/study.yaml", "--in-process", cwd=tmp_path, code=1)
    assert "It holds inputs float32" in without_data.stderr
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, 600)
    inputs = (random.normal(size=(600, 4)) + 3 * targets[:, None]).astype(np.float32)
    (tmp_path / "templates/data").mkdir()
    np.savez(tmp_path / "templates/data/my_data.npz", inputs=inputs, targets=targets)
    called("search", "templates/study.yaml", "--in-process", cwd=tmp_path)
    trials = called_json("leaderboard", cwd=tmp_path)
    assert len(trials) == 4
    assert trials[0]["objective"] > 0.6  # chance is a third


PORTED = EXAMPLES / "port_a_script"


class AsALoader:
    """The batches of a trial, for a script's loop over a DataLoader: the same order and augmentation."""

    def __init__(self, batches):
        self.batches, self.epochs = batches, itertools.count()

    def __len__(self):
        return self.batches.num_batches

    def __iter__(self):
        for batch in self.batches.epoch(next(self.epochs)):
            yield batch.inputs, batch.targets


@pytest.mark.slow
def test_the_ported_script_trains_as_the_script():
    """On the same batches; sums in another order make differences of 1e-7, which 60 steps let grow."""
    workload = registry.workload(f"{PORTED / 'work.py'}:ShapesWorkload")
    script = sys.modules["train"]
    assert Path(script.__file__) == PORTED / "train.py"
    own = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.05, "gradient_clipping": 1.0}
    own |= {"schedule": "one_cycle", "lr_warmup": 0.3, "warmup_lr": 0.01 / 25, "min_lr": 0.01 / 25 / 1e4}
    configuration = Configuration(
        workload=f"{PORTED / 'work.py'}:ShapesWorkload", method="ddp", epochs=3, seed=5, hyperparameters=own
    )
    reports = list(Trial(configuration, single_rank(), "cpu").train())

    data = workload.load(None)
    batches = LoadedBatches(data.train, Share(32, 0, 1), 5, workload, Loader(), workload.transform)
    args = Namespace(epochs=3, lr=0.01, weight_decay=0.05, smoothing=0.1, clip=1.0)
    torch.manual_seed(5)
    history, _ = script.fit(script.Net(8), AsALoader(batches), DataLoader(data.validation, 256), args)
    assert [report.train_loss for report in reports] == pytest.approx([loss for loss, _ in history], abs=1e-5)
    assert [report.metric for report in reports] == pytest.approx([f1 for _, f1 in history], abs=1e-12)


@pytest.mark.slow
def test_the_ported_script_is_searched(tmp_path, monkeypatch):
    shutil.copytree(PORTED, tmp_path / "ported")
    study = tmp_path / "ported/study.yaml"
    assert "loader: {workers: 2}" in study.read_text()
    study.write_text(study.read_text().replace("loader: {workers: 2}\n", ""))  # they would import torch, too
    flags = ("--trials", "2", "--epochs", "2", "--islands", "1", "--in-process")
    called("search", "ported/study.yaml", *flags, cwd=tmp_path)
    best = called_json("leaderboard", cwd=tmp_path)[0]
    assert best["objective"] > 0.2  # macro F1; 1/6 for a network that knows one class only
    lines = (PORTED / "work.py").read_text().splitlines()
    assert len(lines) <= 40


@pytest.mark.long
@pytest.mark.process
def test_the_script_and_its_search_run_as_the_readme_says(tmp_path):
    shutil.copytree(PORTED, tmp_path / "ported")
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path / "ported", capture_output=True, text=True, check=True
    )
    assert "best macro F1 0.9" in done.stdout
    atoll("search", "study.yaml", "--trials", "3", cwd=tmp_path / "ported")
    assert called_json("leaderboard", cwd=tmp_path / "ported")[0]["objective"] > 0.5


# The exported network's macro F1, with the script's own functions, in a process that cannot import atoll.
PLAIN_F1 = """
import runpy, sys, torch
sys.modules["atoll"] = None
model = runpy.run_path("best/load.py")["model"]
from train import DataLoader, Shapes, confusion, macro_f1
with torch.no_grad():
    print(macro_f1(sum(confusion(model(images), labels) for images, labels in DataLoader(Shapes(160, 1), 256))))
"""


@pytest.mark.mpi
@pytest.mark.parametrize(
    "method",
    [
        pytest.param("daso", marks=pytest.mark.long),
        pytest.param("local_sgd", marks=pytest.mark.soak),
        pytest.param("easgd", marks=pytest.mark.soak),
    ],
)
def test_the_ported_script_is_searched_with_pruning_and_its_weights_load_in_plain_pytorch(tmp_path, method):
    shutil.copytree(PORTED, tmp_path / "ported")
    study = yaml.safe_load((tmp_path / "ported/study.yaml").read_text())
    study |= {"name": "shapes", "method": method, "trials": 4, "epochs": 4, "checkpoint": {"weights": "best"}}
    if method == "easgd":
        study["space"] |= {"optimizer": "sgd", "learning_rate": {"low": 0.01, "high": 0.1, "log": True}}
    study |= {"topology": {"islands": 2, "workers": 1, "ranks": 2, "ranks_per_node": 1, "device": "cpu", "threads": 1}}
    study |= {"pruning": {"rule": "median", "grace": 2, "startup": 2}, "loader": {"workers": 1}}
    (tmp_path / "ported/study.yaml").write_text(yaml.safe_dump(study))
    atoll("search", "ported/study.yaml", cwd=tmp_path)
    best = called_json("leaderboard", cwd=tmp_path)[0]
    assert best["objective"] > 0.2  # macro F1; 1/6 for a network that knows one class only
    called("export", "shapes", "--weights", "best", cwd=tmp_path)
    measured = subprocess.run(
        [sys.executable, "-c", PLAIN_F1], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    # Its counts are whole numbers, of ranks' shares or of all samples.
    assert float(measured) == pytest.approx(best["objective"], abs=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("trains_on_threads")
@pytest.mark.parametrize("name", ["mac", "admm_dual", "dni"])
def test_the_best_of_a_layer_parallel_search_is_exported_and_trained_again(name, tmp_path):
    called("search", EXAMPLES / f"{name}.yaml", "--in-process", "--trials", "3", "--epochs", "3", cwd=tmp_path)
    best = called_json("leaderboard", cwd=tmp_path)[0]
    study = called_json("studies", cwd=tmp_path)[0]["name"]
    called("export", study, "-o", "best.yaml", cwd=tmp_path)
    said = called("train", "best.yaml", cwd=tmp_path).stdout
    # dni's synthesizers learn when gradients arrive, which differs from one time to the next
    assert name == "dni" or "reproduces the exported objective" in said
    assert "grouping" in said
    assert best["objective"] > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("trains_on_threads")
def test_the_readme_of_the_language_model_runs_with_a_text_of_ones_own(tmp_path):
    shutil.copytree(EXAMPLES / "text", tmp_path / "examples/text", ignore=shutil.ignore_patterns("data"))
    draw = random.Random(0)
    words = " ".join(draw.choice(["der", "die", "das", "Über", "und"]) for _ in range(4000))
    (tmp_path / "MY_TEXT.txt").write_text(words, encoding="utf-8")
    readme = (EXAMPLES / "text/README.md").read_text()
    copy, *commands = re.findall(r"^ {4}(.+)$", readme, re.MULTILINE)
    subprocess.run(copy, shell=True, check=True, cwd=tmp_path)
    assert [command.split()[:2] for command in commands] == [
        ["atoll", name] for name in ("search", "leaderboard", "export", "train")
    ]
    for command in commands:
        small = ("--in-process", "--trials", "2", "--steps", "4") if "search" in command else ()
        said = called(*shlex.split(command)[1:], *small, cwd=tmp_path).stdout
    # Not that it reproduces the objective: ranks that are threads draw their dropout from one random state.
    assert "exported objective" in said
    assert "test_bits_per_byte" in said
    assert (tmp_path / "model.pt").is_file()
    assert all(trial["objective"] < 8 for trial in called_json("leaderboard", cwd=tmp_path))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        *((name, {}) for name in ("local_sgd", "diloco", "oialr", "ab")),
        ("easgd", {"optimizer": "sgd", "momentum": 0.0}),
        *((name, {"precision": "float32", "accumulate": 1}) for name in ("dni", "mac")),
    ],
)
def test_the_study_of_the_language_model_fits_the_methods_that_its_readme_names(method, changes):
    assert f"`{method}`" in (EXAMPLES / "text/README.md").read_text()
    content = yaml.safe_load((EXAMPLES / "text/study.yaml").read_text()) | {"method": method}
    del content["space"]["wire"]
    content["space"] |= changes
    assert "learning_rate" in search_space(Study.model_validate(content)).names()
