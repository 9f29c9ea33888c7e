"""What `atoll export --weights` writes: weights that plain PyTorch loads, with the objective of their trial."""

import contextlib
import importlib
import itertools
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from commands import called, called_json
from safetensors.torch import load_file
from torch import nn

from atoll.platform.launch.exported_weights import Call, export_weights, made, weights_file
from atoll.platform.study import registry
from atoll.platform.workloads.digits import DigitsCnn
from atoll.storage.store import Store, StoreError

pytestmark = pytest.mark.slow

NUMBERS = itertools.count()  # one process imports the modules of all tests
MEASURE = """
import sys, runpy, torch
sys.modules["atoll"] = None
loaded = runpy.run_path("out/load.py")
inputs, targets = torch.load("validation.pt")
print(float((loaded["model"](inputs).argmax(1) == targets).double().mean()))
"""
OWN = """
import torch
from torch import nn
from net_NUMBER import Net
from atoll import Classification, Data, Samples

class Mine(Classification):
    epochs = 2

    def load(self, folder):
        torch.manual_seed(0)
        inputs = torch.randn(600, 8)
        targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
        return Data(*(Samples(inputs[part], targets[part]) for part in (slice(400), slice(400, 500), slice(500, 600))))

    def model(self):
        return Net(width, depth=2)

width = 16
"""
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, depth=1):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, inputs):
        return self.layers(inputs)
"""


def search(folder, **content):
    study = {"name": "s", "method": "ddp", "trials": 4, "topology": {"threads": 1}, "checkpoint": {"weights": "best"}}
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))
    called("search", "s.yaml", "--in-process", cwd=folder)


def measured(folder, workload):
    """The accuracy of the exported model, in a process without atoll."""
    validation = workload.load(None).validation
    torch.save((validation.inputs, validation.targets), folder / "validation.pt")
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=folder, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A folder with a search of one trial, which is only read, and the name of its workload."""
    folder = tmp_path_factory.mktemp("searched")
    workload = own_workload(folder)
    search(folder, workload=workload, trials=1)
    return folder, workload


@pytest.fixture
def stored(searched):
    """The rows of the study and its trial."""
    store = Store(f"sqlite:///{searched[0]}/atoll.db", create=False)
    row = store.study("s")
    (trial,) = store.trials(row)
    return row, trial


def own_workload(folder, further=""):
    """A workload in a file, whose network is in another one; returns the workload's name."""
    number = next(NUMBERS)
    (folder / f"net_{number}.py").write_text(NET + further)
    (folder / f"work_{number}.py").write_text(OWN.replace("NUMBER", str(number)))
    return f"work_{number}.py:Mine"


@pytest.mark.process
@pytest.mark.parametrize(
    ("method", "factors"),
    [
        ("ddp", False),
        pytest.param("ddp", True, marks=pytest.mark.long),
        pytest.param("oialr", False, marks=pytest.mark.long),
        ("oialr", True),
    ],
)
def test_a_network_of_the_users_loads_without_atoll(tmp_path, method, factors):
    workload = own_workload(tmp_path)
    space = {"delay": 0.1, "update_period": 0.05, "full_rank_first": False, "full_rank_last": False}
    search(tmp_path, workload=workload, method=method, trials=2, space=space if method == "oialr" else {})
    called("export", "s", "--weights", "out", *(["--factors"] if factors else []), cwd=tmp_path)
    script = (tmp_path / "out/load.py").read_text()
    assert f"from {workload.replace('work', 'net').partition('.')[0]} import Net\n" in script
    assert "model = Net(16, depth=2)\n" in script
    assert len([line for line in script.splitlines() if line and "multi_dot" not in line]) <= 13
    stored = load_file(tmp_path / "out/weights.safetensors")
    assert ("layers.0.U" in stored) == (factors and method == "oialr")
    best = called_json("leaderboard", cwd=tmp_path)[0]
    tolerance = 0.01 if method == "oialr" else 1e-12  # the product of factors is rounded in another order
    assert measured(tmp_path, registry.workload(str(tmp_path / workload))) == pytest.approx(
        best["objective"], abs=tolerance
    )
    exported = yaml.safe_load((tmp_path / "out/configuration.yaml").read_text())
    assert exported["origin"]["trial"] == best["number"]


@pytest.mark.long
@pytest.mark.process
def test_a_network_of_atolls_is_a_program_of_torch(tmp_path):
    search(tmp_path, workload="digits_cnn", trials=1, epochs=1)
    assert called_json("export", "s", "--weights", "out", cwd=tmp_path) == {
        "written": [{"trial": 0, "folder": "out", "notes": []}],
        "without_weights": [],
    }
    assert "torch.export.load(here / 'model.pt2')" in (tmp_path / "out/load.py").read_text()
    assert "# It needs torch, and" in (tmp_path / "out/load.py").read_text()
    best = called_json("leaderboard", cwd=tmp_path)[0]
    assert measured(tmp_path, DigitsCnn()) == pytest.approx(best["objective"], abs=1e-12)


def test_incumbents_weights_stay_and_several_are_exported(tmp_path):
    search(
        tmp_path,
        workload=own_workload(tmp_path),
        trials=8,
        topology={"threads": 1, "islands": 2},
        migration={"probability": 0.0},
    )
    leaders = called_json("leaderboard", cwd=tmp_path)
    trials = sorted(leaders, key=lambda trial: trial["finished"])
    incumbents, best = [], {0: -1.0, 1: -1.0}
    for trial in trials:
        if trial["objective"] > best[trial["island"]]:
            incumbents.append(trial["number"])
            best[trial["island"]] = trial["objective"]
    kept = sorted(int(file.parent.name) for file in tmp_path.glob("atoll-studies/s/trials/*/weights.safetensors"))
    assert kept == sorted(incumbents)
    without_weights = {trial["number"] for trial in trials} - set(kept)
    num = next(place for place, trial in enumerate(leaders, 1) if trial["number"] in without_weights)
    result = called("export", "s", "--weights", "out", "--best", str(max(2, num)), cwd=tmp_path)
    asked = {trial["number"] for trial in leaders[: max(2, num)]}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"trial-{n:06d}" for n in asked & set(kept)}
    for without in asked - set(kept):
        numbers = ", ".join(map(str, kept))
        assert f"trial {without} of s has no weights; trials with weights: {numbers}" in result.stderr
    called("export", "s", "--weights", "x", "--trial", str(min(without_weights)), cwd=tmp_path, code=1)


def test_all_weights_stay_on_request_and_none_of_failed_trials(tmp_path):
    rates = {"learning_rate": {"choices": [0.1, 1e30]}, "optimizer": "sgd", "gradient_clipping": 0.0}
    search(tmp_path, workload=own_workload(tmp_path), trials=6, checkpoint={"weights": "all"}, space=rates)
    complete = {trial["number"] for trial in called_json("leaderboard", cwd=tmp_path)}
    kept = {int(file.parent.name) for file in tmp_path.glob("atoll-studies/s/trials/*/weights.safetensors")}
    assert kept == complete
    assert 0 < len(complete) < 6


def test_what_cannot_be_exported_is_told(tmp_path):
    search(tmp_path, workload=own_workload(tmp_path), trials=1, checkpoint=None)
    error = called("export", "s", "--weights", "out", cwd=tmp_path, code=1).stderr
    assert "a study keeps them with `checkpoint: {weights: best}`" in error
    error = called("export", "s", "--weights", "out", "-o", "x.yaml", cwd=tmp_path, code=2).stderr
    assert "--weights writes a folder, and -o a file" in error
    error = called("export", "s", "--factors", cwd=tmp_path, code=2).stderr
    assert "--factors and --outside need --weights DIR" in error


def test_code_outside_the_working_directory_does_not_run_unasked(tmp_path):
    (tmp_path / "code").mkdir()
    search(tmp_path, workload=f"code/{own_workload(tmp_path / 'code')}", trials=1)
    (tmp_path / "elsewhere").mkdir()
    store = f"sqlite:///{tmp_path}/atoll.db"
    error = called("export", "s", "--weights", "out", "--store", store, cwd=tmp_path / "elsewhere", code=2).stderr
    assert "use --outside if you trust it" in error
    called("export", "s", "--weights", "out", "--store", store, "--outside", cwd=tmp_path / "elsewhere")


def test_a_network_that_has_changed_is_told(tmp_path):
    workload = own_workload(tmp_path)
    search(tmp_path, workload=workload, trials=1)
    vars(sys.modules[workload.partition(".")[0]])["width"] = 17
    error = called("export", "s", "--weights", "out", cwd=tmp_path, code=1).stderr
    assert "does not fit the network that the workload makes now" in error


def test_a_workload_that_is_gone_is_told(tmp_path):
    workload = own_workload(tmp_path)
    search(tmp_path, workload=workload, trials=1)
    (tmp_path / workload.partition(":")[0]).unlink()
    (written,) = called_json("export", "s", "--weights", "out", cwd=tmp_path)["written"]
    (note,) = written["notes"]
    assert note.startswith(
        "load.py does not make the network, and low-rank factors stay as they are: the workload does"
    )
    assert "does not exist" in note
    assert len(load_file(tmp_path / "out/weights.safetensors")) == 4


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """A module of networks, in a folder that can be imported from."""
    name = f"networks_{next(NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(name)


NETWORKS = (
    NET
    + """

class Mutates(Net):
    def __init__(self, sizes):
        super().__init__(sizes[0])
        sizes.append(10)
"""
)


def test_a_call_is_recorded_as_it_was(networks):
    assert made(lambda: networks.Net(3, depth=2))[1] == Call(("3",), {"depth": "2"})
    assert made(lambda: networks.Mutates([4]))[1] == Call(("[4]",), {})
    assert made(lambda: nn.Linear(3, 2))[1] == Call(("3", "2"), {})
    assert made(lambda: nn.Sequential(nn.Linear(1, 1)))[1] is None

    def tries_several():
        for width in range(3, 12):
            net = networks.Net(width)
        return net

    assert made(tries_several)[1] == Call(("11",), {})
    assert "__init__" in vars(networks.Net)
    assert type(networks.Net(2)) is networks.Net


CHANGED = {
    "another_activation": "net = Net(width); net.layers[1] = nn.Tanh(); return net",
    "another_layer": "net = Net(width); net.layers[2] = nn.Linear(width, 3, bias=False); return net",
    "another_number": "net = Net(width); net.scale = 2.0; return net",
}


@pytest.mark.process
@pytest.mark.parametrize(
    "change", [c if c == "another_number" else pytest.param(c, marks=pytest.mark.long) for c in CHANGED]
)
def test_a_network_that_its_call_does_not_give_again_is_a_program(tmp_path, change):
    number = next(NUMBERS)
    scaled = NET.replace("return self.layers(inputs)", "return self.layers(inputs) * getattr(self, 'scale', 1.0)")
    (tmp_path / f"net_{number}.py").write_text(scaled)
    work = OWN.replace("NUMBER", str(number)).replace("return Net(width, depth=2)", CHANGED[change])
    (tmp_path / f"work_{number}.py").write_text(work)
    search(tmp_path, workload=f"work_{number}.py:Mine", trials=1)
    called("export", "s", "--weights", "out", cwd=tmp_path)
    assert "torch.export.load(here / 'model.pt2')" in (tmp_path / "out/load.py").read_text()
    best = called_json("leaderboard", cwd=tmp_path)[0]
    workload = registry.workload(str(tmp_path / f"work_{number}.py:Mine"))
    assert measured(tmp_path, workload) == pytest.approx(best["objective"], abs=1e-12)


@pytest.mark.process
def test_without_data_the_outputs_are_not_compared_and_that_is_told(tmp_path):
    workload = own_workload(tmp_path)
    search(tmp_path, workload=workload, trials=1)
    vars(sys.modules[workload.partition(".")[0]])["Data"] = _exits_with_an_error
    (written,) = called_json("export", "s", "--weights", "out", cwd=tmp_path)["written"]
    (note,) = written["notes"]
    assert note.startswith("load.py: the network's outputs were not compared, as there is no validation batch (OSError")


def _exits_with_an_error(*_):
    raise OSError("no data here")


@pytest.mark.long
@pytest.mark.process
def test_a_class_that_needs_atoll_somewhere_is_a_program(tmp_path):
    number = next(NUMBERS)
    (tmp_path / f"helper_{number}.py").write_text("import atoll")
    workload = own_workload(tmp_path, further=f"\nimport helper_{number}\n")
    search(tmp_path, workload=workload, trials=1)
    called("export", "s", "--weights", "out", cwd=tmp_path)
    assert (tmp_path / "out/model.pt2").exists()


@pytest.mark.long
@pytest.mark.process
def test_a_class_in_a_package_is_imported_from_beside_it(tmp_path):
    number = next(NUMBERS)
    (tmp_path / f"net_{number}").mkdir()
    (tmp_path / f"net_{number}/__init__.py").write_text(NET)
    (tmp_path / f"work_{number}.py").write_text(OWN.replace("NUMBER", str(number)))
    search(tmp_path, workload=f"work_{number}.py:Mine", trials=1)
    called("export", "s", "--weights", "out", cwd=tmp_path)
    assert "sys.path.insert(0, str(here / '..'))" in (tmp_path / "out/load.py").read_text()


@pytest.mark.long
@pytest.mark.process
def test_a_workload_whose_network_follows_its_data_is_made_as_it_was(tmp_path):
    workload = own_workload(tmp_path)
    file = tmp_path / workload.partition(":")[0]
    content = file.read_text().replace("torch.manual_seed(0)", "torch.manual_seed(0); self.width = 12")
    file.write_text(content.replace("Net(width, depth=2)", "Net(self.width, depth=2)"))
    search(tmp_path, workload=workload, trials=1)
    assert called_json("export", "s", "--weights", "out", cwd=tmp_path)["written"][0]["notes"] == []
    assert "model = Net(12, depth=2)" in (tmp_path / "out/load.py").read_text()
    assert "# It needs torch and safetensors, and" in (tmp_path / "out/load.py").read_text()


def test_an_export_replaces_no_files_but_those_of_an_export(searched):
    folder, _ = searched
    called("export", "s", "--weights", "out", cwd=folder)
    (folder / "out/model.pt2").touch()
    called("export", "s", "--weights", "out", cwd=folder)  # again
    assert sorted(file.name for file in (folder / "out").iterdir()) == [
        "configuration.yaml", "load.py", "weights.safetensors"
    ]  # fmt: skip
    for name in ("load.py", "configuration.yaml"):
        (folder / f"mine-{name}").mkdir()
        (folder / f"mine-{name}" / name).write_text("mine")
        error = called("export", "s", "--weights", f"mine-{name}", cwd=folder, code=1).stderr
        assert f"mine-{name} holds {name}, which an export would replace, and which no export has written" in error
        assert (folder / f"mine-{name}" / name).read_text() == "mine"
    (folder / "file").touch()
    assert "file is a file" in called("export", "s", "--weights", "file", cwd=folder, code=1).stderr


def test_a_damaged_file_of_weights_leaves_an_earlier_export_as_it_was(searched):
    folder, _ = searched
    called("export", "s", "--weights", "earlier", cwd=folder)
    before = {file.name: file.read_bytes() for file in (folder / "earlier").iterdir()}
    (stored,) = folder.glob("atoll-studies/s/trials/*/weights.safetensors")
    content = stored.read_bytes()
    stored.write_bytes(content[:-8])
    assert "is not a file of weights" in called("export", "s", "--weights", "earlier", cwd=folder, code=2).stderr
    assert {file.name: file.read_bytes() for file in (folder / "earlier").iterdir()} == before
    stored.write_bytes(content)


def test_a_workload_that_exits_is_told(tmp_path):
    workload = own_workload(tmp_path)
    search(tmp_path, workload=workload, trials=1)
    vars(sys.modules[workload.partition(".")[0]])["Net"] = _exits
    (written,) = called_json("export", "s", "--weights", "out", cwd=tmp_path)["written"]
    assert "the workload does not make it here (SystemExit: 0)" in written["notes"][0]


def _exits(*_, **__):
    raise SystemExit(0)


class Odd:
    def __repr__(self):
        raise RuntimeError


def test_an_argument_that_cannot_be_shown_is_no_literal():
    assert made(lambda: nn.Flatten(Odd()))[1] is None


def test_nothing_in_a_store_becomes_code(tmp_path, searched, stored):
    row, trial = stored
    row.metric = row.curve_metric = 'x"""\nraise SystemExit(3)\n"""'
    with contextlib.chdir(searched[0]):
        export_weights(row, trial, tmp_path / "o'\"ut")
    subprocess.run([sys.executable, tmp_path / "o'\"ut/load.py"], check=True)


def test_methods_outside_the_working_directory_do_not_run_unasked(tmp_path, searched, stored):
    (row, trial), (folder, workload) = stored, searched
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/evil.py").write_text("open('ran', 'w')")
    evil = f"{tmp_path}/elsewhere/evil.py:M"
    (tmp_path / "here").mkdir()
    shutil.copy(folder / workload.partition(":")[0], tmp_path / "here/work.py")
    for change in ({"method": evil}, {"hyperparameters": trial.configuration["hyperparameters"] | {"optimizer": evil}}):
        trial.configuration = trial.configuration | {"workload": f"{tmp_path}/here/work.py:Mine"} | change
        with contextlib.chdir(tmp_path / "here"), pytest.raises(ValueError, match="use --outside if you trust it"):
            export_weights(row, trial, tmp_path / "out")
    assert not list(tmp_path.rglob("ran"))


def test_weights_of_another_attempt_are_not_taken(stored):
    row, trial = stored
    assert weights_file(row, trial).exists()
    trial.objective += 0.01
    with pytest.raises(StoreError, match="the weights of trial 0 of s are of another attempt"):
        weights_file(row, trial)
    trial.state = "lost"
    with pytest.raises(StoreError, match="trial 0 of s has no weights, as it is lost"):
        weights_file(row, trial)
