"""The architecture search: residual blocks in five orders, losses, BigEarthNet's reader, failures by choice."""

import json

import numpy as np
import pytest
import torch
from commands import called, journal_lines
from PIL import Image
from torch import nn

from atoll.analysis.failures import by_choice
from atoll.platform.study import registry
from atoll.platform.study.configuration import ExportedConfiguration, split_hyperparameters
from atoll.platform.trial.evaluator import Evaluator
from atoll.platform.workloads import bigearthnet, packing
from atoll.platform.workloads.architecture import ArchitectureHyperparameters
from atoll.platform.workloads.residual import ACTIVATIONS, LOSSES, ORDERS, Block, resnet
from atoll.platform.workloads.workload import DataMissing
from atoll.searchspaces import bigearthnet_nas as nas
from atoll.storage.models import TrialRow


def kinds(module):
    short = {nn.Conv2d: "conv", nn.BatchNorm2d: "BN", nn.ReLU: "act"}
    return [short[type(layer)] for layer in module]


@pytest.mark.parametrize(
    ("order", "branch", "after"),
    [
        ("original", ["conv", "BN", "act", "conv", "BN"], ["act"]),
        ("bn_after_addition", ["conv", "BN", "act", "conv"], ["BN", "act"]),
        ("activation_before_addition", ["conv", "BN", "act", "conv", "BN", "act"], []),
        ("activation_only_preactivation", ["act", "conv", "BN", "act", "conv", "BN"], []),
        ("full_preactivation", ["BN", "act", "conv", "BN", "act", "conv"], []),
    ],
)
def test_the_five_orders_of_figure_6_2(order, branch, after):
    block = Block([(4, 4, 3, 1), (4, 4, 3, 1)], order, "relu")
    assert kinds(block.branch) == branch
    assert kinds(block.after) == after
    # with nothing in the branch the shortcut is the identity, but for what comes after the addition
    for parameter in block.branch.parameters():
        nn.init.zeros_(parameter)
    images = torch.rand(2, 4, 6, 6)
    block.eval()
    torch.testing.assert_close(block(images), images, rtol=1e-5, atol=1e-5)  # BN divides by sqrt(1 + 1e-5)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_shapes_and_gradients(order, bottleneck):
    shape = {"num_in": 3, "num_out": 7, "filters": 4, "depths": (1, 2), "large": True}
    network = resnet(order=order, activation="swish", bottleneck=bottleneck, **shape)
    outputs = network(torch.randn(2, 3, 32, 32))
    assert outputs.shape == (2, 7)
    outputs.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_resnet_50_has_the_size_of_resnet_50():
    workload = registry.workload("bigearthnet")
    assert workload.hyperparameters.filters == 64
    # torchvision's resnet50 has 25,557,032 parameters; here 10 bands and 19 classes
    expected = 25_557_032 + 64 * (10 - 3) * 49 - (2048 * 1000 + 1000) + (2048 * 19 + 19)
    assert sum(p.numel() for p in workload.model().parameters()) == expected


def test_losses_against_their_formulas():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    one_hot = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    classes = one_hot.argmax(dim=1)
    torch.testing.assert_close(
        LOSSES["categorical_crossentropy"](logits, one_hot), nn.functional.cross_entropy(logits, classes)
    )
    # one class a sample: the divergence is the cross-entropy, as the targets have no entropy
    torch.testing.assert_close(LOSSES["kl_divergence"](logits, one_hot), nn.functional.cross_entropy(logits, classes))
    torch.testing.assert_close(
        LOSSES["categorical_hinge"](logits, one_hot), torch.tensor((max(0, 1 + 0.5 - 2) + (1 + 3 + 2)) / 2)
    )
    hinges = torch.tensor([[0.0, 0.0, 1.5], [1.0, 4.0, 3.0]])
    torch.testing.assert_close(LOSSES["hinge"](logits, one_hot), hinges.mean())
    torch.testing.assert_close(LOSSES["squared_hinge"](logits, one_hot), hinges.square().mean())
    both = torch.tensor([[1.0, 1.0]])
    assert LOSSES["kl_divergence"](torch.zeros(1, 2), both) == pytest.approx(0.0, abs=1e-7)
    for name, loss in LOSSES.items():
        assert torch.isfinite(loss(logits, torch.zeros(2, 3))), name  # a patch may have none of the classes


def test_the_space_is_table_6_1_and_every_choice_of_it_exists():
    space = registry.whole_space("ddp", "cifar10_nas")
    sizes = {p.name: len(p.distribution.choices) for p in space.parameters if hasattr(p.distribution, "choices")}
    expected = {"optimizer": 9, "activation": 12, "order": 5, "loss": 6, "schedule": 3}
    assert sizes == expected | {"wire": sizes["wire"]}
    assert (set(nas.ACTIVATIONS), tuple(nas.ORDERS), set(nas.LOSSES)) == (set(ACTIVATIONS), ORDERS, set(LOSSES))
    filters = next(p for p in space.parameters if p.name == "filters").distribution
    assert (filters.low, filters.high, filters.log) == (2, 256, True)
    for hyperparameters in space.extremes():
        split_hyperparameters("ddp", "cifar10_nas", hyperparameters, 1)
    defaults = {p.name: p.default for p in nas.SPACE.parameters}
    for name in ("activation", "order", "loss", "filters"):
        assert defaults[name] == getattr(ArchitectureHyperparameters(), name)


def test_hyperparameters_of_workload_method_and_optimizer_are_told_apart():
    hyperparameters = {"filters": 4, "activation": "elu", "learning_rate": 0.5}
    _, settings, of_workload = split_hyperparameters("ddp", "cifar10_nas", hyperparameters, 1)
    assert (settings.learning_rate, of_workload.filters, of_workload.activation) == (0.5, 4, "elu")
    with pytest.raises(ValueError, match="activation, filters, loss, order of the workload, and"):
        split_hyperparameters("ddp", "cifar10_nas", {"depth": 3}, 1)
    with pytest.raises(ValueError, match="has no hyperparameter filters"):
        split_hyperparameters("ddp", "digits_mlp", {"filters": 3}, 1)
    with pytest.raises(ValueError, match="activation must be one of elu, exponential"):
        split_hyperparameters("ddp", "cifar10_nas", {"activation": "gelu"}, 1)


# BigEarthNet


def write_patch(root, name, labels, value):
    folder = root / name
    folder.mkdir(parents=True)
    for band in bigearthnet.BANDS:
        side = 120 if band in ("B02", "B03", "B04", "B08") else 60
        image = np.full((side, side), value, dtype=np.uint16)
        Image.fromarray(image).save(folder / f"{name}_{band}.tif")
    (folder / f"{name}_labels_metadata.json").write_text(json.dumps({"labels": labels}))


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "bigearthnet"
    labels = [["Pastures", "Rice fields"], ["Sea and ocean"], ["Airports"], ["Peatbogs", "Inland marshes"]]
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        names = [f"{split}{number}" for number in range(count)]
        for number, name in enumerate(names):
            write_patch(root, name, labels[number], 100 + 300 * number)
        (root / f"{split}.csv").write_text("".join(f"{name}\n" for name in names))
    return tmp_path


def test_the_nomenclature_has_43_corine_classes_and_19_of_ours():
    assert len(bigearthnet.CLASSES) == 19
    assert sum(map(len, bigearthnet.NOMENCLATURE.values())) + len(bigearthnet.DROPPED) == 43
    with pytest.raises(ValueError, match="p: 'Moon' is none of the 43 CORINE classes"):
        bigearthnet.targets_of(["Moon"], "p")


def test_patches_are_read_and_packing_changes_nothing(dataset):
    root = dataset / "bigearthnet"
    read = bigearthnet.read_split(root, "train")
    assert read.inputs.shape == (4, 10, 120, 120)
    assert [int(patch.min()) for patch in read.inputs.to(torch.int64)] == [100, 400, 700, 1000]
    named = [[bigearthnet.CLASSES[c] for c in row.nonzero().flatten()] for row in read.targets]
    assert named == [["Arable land", "Pastures"], ["Marine waters"], [], ["Inland wetlands"]]
    bigearthnet.pack(root)
    packed = bigearthnet.read_split(root, "train")
    assert torch.equal(packed.inputs, read.inputs)
    assert torch.equal(packed.targets, read.targets)


def test_what_is_missing_is_named(dataset, monkeypatch):
    workload = registry.workload("bigearthnet")
    workload.check_data(dataset)
    monkeypatch.setattr(packing, "MAX_UNPACKED", 3)
    with pytest.raises(DataMissing, match=r"has 4 patches for train: pack them once, `python -m atoll\.platform"):
        bigearthnet.read_split(dataset / "bigearthnet", "train")
    (dataset / "bigearthnet" / "val.csv").unlink()
    with pytest.raises(DataMissing, match=r"val\.csv is missing; the official splits"):
        workload.check_data(dataset)


def test_f1_is_of_all_samples_and_not_a_mean_of_batches(dataset):
    workload = registry.workload("bigearthnet")
    targets = torch.zeros(5, 19)
    targets[:, 0], targets[0, 1] = 1, 1
    outputs = torch.full((5, 19), -1.0)
    outputs[:3, 0], outputs[4, 1] = 1, 1
    whole = workload.scores(workload.totals(outputs, targets))
    assert whole["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 3))  # 3 hits, 1 false, 2 + 1 missed
    assert whole["macro_f1"] == pytest.approx((2 * 3 / (2 * 3 + 2) + 0) / 19)
    parts = workload.totals(outputs[:2], targets[:2]) + workload.totals(outputs[2:], targets[2:])
    assert workload.scores(parts) == pytest.approx(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("trains_on_threads")
def test_bigearthnet_trains(dataset, tmp_path):
    hyperparameters = {"filters": 2, "batch_size": 2, "optimizer": "adam", "learning_rate": 0.001}
    content = {"workload": "bigearthnet", "method": "ddp", "hyperparameters": hyperparameters, "epochs": 1}
    (tmp_path / "c.json").write_text(json.dumps(content | {"data": str(dataset)}))
    result = json.loads(called("train", "c.json", "--test", "--json", cwd=tmp_path).stdout)
    assert result["state"] == "complete"
    assert 0 <= result["objective"] <= 1
    assert {"macro_f1", "test_micro_f1", "test_macro_f1"} <= set(result["metrics"])


# Failures


def trial(state, optimizer, reason=None, rate=0.1):
    hyperparameters = {"optimizer": optimizer, "learning_rate": rate, "schedule": "constant"}
    return TrialRow(state=state, hyperparameters=hyperparameters, reason=reason)


def test_failures_are_counted_by_choice():
    trials = [trial("failed", "adam", "Diverged: at step 3"), trial("complete", "adam"), trial("complete", "sgd")]
    trials += [trial("lost", "sgd"), trial("pruned", "sgd"), trial("failed", "ftrl", "TrialTimeout: 3 s")]
    found = [(c.name, c.value, c.num_failed, c.num_trials, c.reason) for c in by_choice(trials)]
    assert found == [
        ("optimizer", "ftrl", 1, 1, "TrialTimeout"),
        ("optimizer", "adam", 1, 2, "Diverged"),
        ("optimizer", "sgd", 0, 2, ""),
    ]


@pytest.mark.slow
def test_the_space_is_searched_on_cifar10_and_says_which_choices_failed(tmp_path):
    colors = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(300) % 10
    parts = {"x_train": colors[:200], "y_train": labels[:200], "x_test": colors[200:], "y_test": labels[200:]}
    np.savez(tmp_path / "cifar10_subset.npz", **parts)
    study = {
        "name": "nas",
        "workload": "cifar10_nas",
        "method": "ddp",
        "data": str(tmp_path),
        "trials": 10,
        "epochs": 1,
        "topology": {"workers": 2, "threads": 1},
        "space": {"filters": {"low": 2, "high": 4}, "learning_rate": {"low": 0.5, "high": 1.0}, "batch_size": 64},
    }
    (tmp_path / "s.json").write_text(json.dumps(study))
    called("search", "s.json", "--in-process", cwd=tmp_path)
    lines = journal_lines(tmp_path / "atoll-studies" / "nas", "trial_ended")
    assert len(lines) == 10
    rows = json.loads(called("failures", "nas", "--json", cwd=tmp_path).stdout)["choices"]
    optimizers = [row for row in rows if row["name"] == "optimizer"]
    assert sum(row["num_trials"] for row in optimizers) == 10
    assert sum(row["num_failed"] for row in optimizers) == sum(line["state"] == "failed" for line in lines)
    assert "failures by choice" in called("failures", "nas", cwd=tmp_path).stdout
    configuration = json.loads(called("export", "nas", "--json", cwd=tmp_path).stdout)
    assert ExportedConfiguration.model_validate(configuration).hyperparameters["filters"] in (2, 3, 4)


def test_a_rank_without_samples_evaluates_nothing():
    from atoll.platform.workloads.workload import Samples

    workload = registry.workload("digits_mlp")
    shares = []

    class Communicator:
        rank, size = 1, 2

        def sum(self, totals):
            shares.append(totals.clone())
            totals += torch.tensor([3.0, 1.0, 1.0])

    samples = Samples(torch.zeros(1, 64), torch.zeros(1, dtype=torch.int64))
    assert Evaluator(workload, samples, Communicator())(workload.model()) == {"loss": 3.0, "accuracy": 1.0}
    assert torch.equal(shares[0], torch.zeros(3, dtype=torch.float64))
