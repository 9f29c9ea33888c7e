"""Label smoothing, drop path and the orthogonal start."""

import pytest
import torch
from torch import nn

from atoll.communication.threads import run_virtual_ranks
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.trial import Trial
from atoll.platform.workloads.cifar10 import Cifar10MiniVit, Cifar10MiniVitSmall, Cifar10Vgg16
from atoll.platform.workloads.regularization import (
    DropPath,
    ImageHyperparameters,
    VitHyperparameters,
    add_drop_path,
    make_orthogonal,
)

SMOOTHED = """
from dataclasses import dataclass

from atoll.platform.workloads.digits import DigitsMlp


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    label_smoothing: float = 0.0


class Smoothed(DigitsMlp):
    Hyperparameters = Hyperparameters
"""


def test_labels_are_smoothed_in_training_only(tmp_path):
    """With a rate next to 0 the network stays: the validation loss is the same, the training loss is not."""
    (tmp_path / "work.py").write_text(SMOOTHED)
    losses = []
    for smoothing in (0.0, 0.3):
        given = {"learning_rate": 1e-300, "label_smoothing": smoothing}
        content = {"workload": "work.py:Smoothed", "method": "ddp", "epochs": 1, "hyperparameters": given}
        config = Configuration.model_validate(content, context={"folder": tmp_path})
        (progress,) = run_virtual_ranks(lambda c, config=config: [*Trial(config, c, "cpu").train()], [0])[0]
        losses.append((progress.train_loss, progress.validation_loss))
    assert losses[0][1] == losses[1][1]
    assert losses[0][0] != losses[1][0]
    logits, labels = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0])
    workload = Cifar10Vgg16(ImageHyperparameters(label_smoothing=0.3))
    logs = logits.log_softmax(1)[0]
    expected = -(0.7 * logs[0] + 0.3 * logs.mean())
    torch.testing.assert_close(workload.training_loss(logits, labels), expected)
    torch.testing.assert_close(workload.loss(logits, labels), -logs[0])


def test_drop_path_drops_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    layer, branch = DropPath(0.4), torch.ones(5000, 3)
    found = layer(branch)
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()}
    assert (found[:, 0] == found[:, 1]).all()
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)  # 4 standard errors
    assert torch.equal(layer.eval()(branch), branch)


def test_drop_path_of_a_vision_transformer_skips_whole_branches():
    """With probability next to 1 at the last layer, that layer is the identity; none are dropped in evaluation."""
    pytest.importorskip("transformers")
    model = Cifar10MiniVitSmall().model().train()
    layers = model.network.vit.layers
    inputs = torch.randn(4, 17, 96)
    plain = layers[5](inputs)
    add_drop_path(layers, 1 - 1e-7)
    assert [layer.dropout[1].probability for layer in layers] == pytest.approx([k / 5 for k in range(6)])
    assert torch.equal(layers[5](inputs), inputs)
    torch.testing.assert_close(layers[5].eval()(inputs), plain, rtol=0, atol=0)


def test_an_orthogonal_start():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.MultiheadAttention(6, 2))
    bias, norm = model[0].bias.clone(), model[2].weight.clone()
    make_orthogonal(model)
    for weight in (model[0].weight, model[1].weight.flatten(1)):
        torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), rtol=0, atol=1e-5)
    wide = model[3].in_proj_weight
    torch.testing.assert_close(wide.T @ wide, torch.eye(6), rtol=0, atol=1e-5)
    assert torch.equal(model[0].bias, bias)
    assert torch.equal(model[2].weight, norm)


def test_the_mini_vit_is_regularized_as_in_table_a_2_and_the_small_one_not():
    h = Cifar10MiniVit().hyperparameters
    assert (h.label_smoothing, h.rand_augment, h.random_erasing, h.drop_path) == (0.1, 9.0, 0.25, 0.2)
    assert Cifar10MiniVitSmall().hyperparameters == VitHyperparameters()
    assert registry.workload("imagenet_vit_b16").hyperparameters.label_smoothing == 0.1


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\); got 1.0"),
        ({"rand_augment": 11.0}, r"rand_augment must be in \[0, 10\]; got 11.0"),
        ({"random_erasing": -0.1}, r"random_erasing must be in \[0, 1\]; got -0.1"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\); got 1.0"),
    ],
)
def test_wrong_values_are_refused(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        VitHyperparameters(**hyperparameters)
