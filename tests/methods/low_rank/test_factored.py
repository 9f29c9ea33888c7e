"""Layers with factored weights: the same outputs and gradients as in full rank, and networks that can be saved."""

import copy
from unittest import mock

import pytest
import torch
from torch import nn

from atoll.methods.low_rank.factored import (
    eligible_layers,
    factor,
    load,
    low_rank_layers,
    merged_state_dict,
    restore_layer,
    shape_of,
    weight_of,
)
from atoll.methods.low_rank.factored_layers import Factored
from atoll.platform.workloads.cifar10 import cnn7, mini_vit, vgg16

# Products of a few matrices of norm about 1 in another order.
FLOAT64 = 1e-12


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, **options)

    def forward(self, x):
        return self.attention(x, x, x)[0]


LAYERS = {
    "linear": (lambda: nn.Linear(9, 14), (5, 9)),
    "linear, tokens, no bias": (lambda: nn.Linear(14, 9, bias=False), (5, 3, 14)),
    "conv1d": (lambda: nn.Conv1d(4, 10, 3, stride=2, padding=1), (2, 4, 11)),
    "conv1d, circular": (lambda: nn.Conv1d(4, 10, 3, padding=1, padding_mode="circular"), (2, 4, 11)),
    "conv2d": (lambda: nn.Conv2d(3, 8, (3, 2), dilation=2), (2, 3, 9, 9)),
    "conv2d, same": (lambda: nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect", bias=False), (2, 3, 9, 9)),
    "attention": (lambda: Attention(batch_first=True), (2, 5, 12)),
    "attention, length first": (lambda: Attention(bias=False), (5, 2, 12)),
    "attention, no batch": (Attention, (5, 12)),
    "encoder": (lambda: nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True), (2, 5, 12)),
}


def svd_factors(weight, k=None):
    u, s, vt = torch.linalg.svd(weight.detach(), full_matrices=False)
    return {"U": u[:, :k], "S": torch.diag(s[:k]), "Vt": vt[:k]}


def factored(model, k=None, trained=("U", "S", "Vt")):
    made = copy.deepcopy(model)
    for layer in low_rank_layers(made).values():
        factor(layer, svd_factors(weight_of(layer), k), trained)
    return made


@pytest.fixture(params=LAYERS)
def case(request):
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    return make().double(), torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("is_formed", [False, True])
@pytest.mark.parametrize("k", [None, 2])
def test_outputs_and_gradients_are_those_of_the_product(case, k, is_formed):
    model, inputs = case
    low = factored(model, k)
    full = copy.deepcopy(model)
    full.load_state_dict(merged_state_dict(low))
    results = []
    with mock.patch.object(Factored, "is_formed", return_value=is_formed):
        for made in (full, low):
            x = inputs.clone().requires_grad_()
            made(x).square().sum().backward()
            results.append((made(inputs), x.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=FLOAT64, atol=FLOAT64)
    # dL/dS = U^T dL/dW V (4.12)
    for name, layer in low_rank_layers(low).items():
        plain = dict(full.named_modules())[name]
        gradient = getattr(plain, layer.weight_name).grad.flatten(1)
        torch.testing.assert_close(layer.S.grad, layer.U.T @ gradient @ layer.Vt.T, rtol=1e-10, atol=1e-10)


def test_evaluation_takes_the_factors_too(case):
    """nn.TransformerEncoderLayer has a path for evaluation that takes weights."""
    model, inputs = case
    low = factored(model, 2).eval()
    full = copy.deepcopy(model).eval()
    full.load_state_dict(merged_state_dict(low))
    with (
        torch.no_grad(),
        mock.patch.object(Factored, "merged", side_effect=AssertionError("formed")),
        mock.patch.object(Factored, "is_formed", return_value=False),
    ):
        outputs = low(inputs)
    torch.testing.assert_close(outputs, full(inputs), rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("masks", ["none", "causal", "padding", "both", "per head"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_obeys_masks_and_other_keys(masks, need_weights):
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(12, 3, batch_first=True).double()
    low = copy.deepcopy(plain)
    factor(low, svd_factors(low.in_proj_weight), ["S"])
    query, key = torch.randn(2, 4, 12, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    causal = torch.ones(4, 5, dtype=torch.bool).triu(1)
    arguments = {
        "none": {},
        "causal": {"attn_mask": causal},
        "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False, False, False, True, True]])},
        "both": {"attn_mask": causal, "key_padding_mask": torch.tensor([[False] * 5, [False] * 4 + [True]])},
        "per head": {"attn_mask": torch.randn(6, 4, 5, dtype=torch.float64)},
    }[masks]
    results = [m(query, key, key + 1, need_weights=need_weights, **arguments) for m in (plain, low)]
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-10, atol=1e-10)
    if need_weights:
        torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("m", "n", "k", "formed"), [(768, 768, 383, False), (768, 768, 768, True), (768, 3072, 192, False)]
)
def test_the_product_is_not_formed_below_half_the_full_rank(m, n, k, formed):
    layer = nn.Linear(n, m)
    factor(layer, {"U": torch.zeros(m, k), "S": torch.zeros(k, k), "Vt": torch.zeros(k, n)}, ["S"])
    assert layer.is_formed(10**6) == formed
    # with few inputs it is dearer to form it, whatever the rank
    assert not layer.is_formed(1)


def test_saving_and_loading(case, tmp_path):
    model, inputs = case
    low = factored(model, 2, trained=["S"])
    torch.save(low.state_dict(), tmp_path / "factors.pt")
    torch.save(merged_state_dict(low), tmp_path / "merged.pt")
    again, full = copy.deepcopy(model), copy.deepcopy(model)
    load(again, torch.load(tmp_path / "factors.pt", weights_only=True))
    full.load_state_dict(torch.load(tmp_path / "merged.pt", weights_only=True))
    assert {name.rpartition(".")[2] for name in again.state_dict()} >= {"U", "S", "Vt"}
    assert torch.equal(again(inputs), low(inputs))
    torch.testing.assert_close(full(inputs), low(inputs), rtol=FLOAT64, atol=FLOAT64)
    # and back to full rank, names, order and classes included
    load(again, merged_state_dict(low))
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(again(inputs), full(inputs))


def test_a_layer_keeps_its_bias_and_its_place(case):
    model, _ = case
    for layer in low_rank_layers(model).values():
        before = dict(layer.named_parameters(recurse=False))
        factor(layer, svd_factors(weight_of(layer)), ["S"])
        after = dict(layer.named_parameters(recurse=False))
        assert all(after[name] is p for name, p in before.items() if name != layer.weight_name)
        assert [name for name, p in after.items() if not p.requires_grad] == ["U", "Vt"]
        restore_layer(layer)
        assert list(dict(layer.named_parameters(recurse=False))) == list(before)


class Standardised(nn.Conv2d):
    """Computes something else with its weight, so that a product of factors would not do."""

    def _conv_forward(self, inputs, weight, bias):
        return super()._conv_forward(inputs, weight - weight.mean(), bias)


def test_an_encoder_evaluates_with_padding():
    """nn.TransformerEncoder makes a nested tensor of it for its layers' fused path, which factored ones do not take."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True)
    full = nn.TransformerEncoder(layer, 2).double()
    low = copy.deepcopy(full)
    load(
        low,
        {f"{name}.{n}": p for name, m in low_rank_layers(full).items() for n, p in svd_factors(weight_of(m)).items()}
        | {n: p for n, p in full.state_dict().items() if not n.endswith("weight") or "norm" in n},
    )
    x, mask = torch.randn(2, 5, 12, dtype=torch.float64), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        results = [model.eval()(x, src_key_padding_mask=mask) for model in (full, low)]
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(results[1][1, :3], results[0][1, :3], rtol=1e-10, atol=1e-10)


def test_a_causal_hint_needs_its_mask():
    low = nn.MultiheadAttention(12, 3, batch_first=True)
    factor(low, svd_factors(low.in_proj_weight), ["S"])
    x = torch.zeros(1, 2, 12)
    with pytest.raises(RuntimeError, match="needs attn_mask"):
        low(x, x, x, is_causal=True)


def test_the_workloads_networks_multiply_through():
    networks = ((vgg16(2), 32, 0), (mini_vit(12), 32, 1), (cnn7(8, 8, 8, 16), 28, 0))
    for model, side, num_formed in networks:
        for layer in low_rank_layers(model).values():
            factor(layer, svd_factors(weight_of(layer), max(1, min(shape_of(layer)) // 4)), ["S"])
        with mock.patch.object(Factored, "merged", autospec=True, side_effect=Factored.merged) as merged:
            model(torch.zeros(2, 3, side, side))
        # transformers' ViT looks at the dtype of its first weight
        assert merged.call_count == num_formed


def test_what_is_eligible():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 16, 3)
            self.grouped = nn.Conv2d(16, 16, 3, groups=4)
            self.thin = nn.Linear(40, 4)
            self.wide = nn.Linear(39, 4)
            self.tied = nn.Linear(8, 8)
            self.tie = nn.Linear(8, 8)
            self.tie.weight = self.tied.weight
            self.norm = nn.BatchNorm1d(8)
            self.frozen = nn.Linear(8, 8)
            self.frozen.weight.requires_grad_(False)
            self.own = Standardised(8, 8, 3)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16)
            self.last = nn.Linear(8, 10)

    net = Net()
    inner = ["wide", "encoder.self_attn", "encoder.self_attn.out_proj", "encoder.linear1", "encoder.linear2"]
    assert list(eligible_layers(net, full_rank_first=True, full_rank_last=True)) == inner
    assert list(eligible_layers(net, full_rank_first=False, full_rank_last=False)) == ["first", *inner, "last"]
