"""Networks whose weights are products of matrices: what OIALR and AB training train (001, chapters 4 and 5).

A weight W, flattened to (m, n) along its trailing dimensions, becomes U S V^T (equation 4.1; factors U, S, Vt) or A B
(equation 5.3). The layer stays where it is in the network and only changes its class, as torch's own parametrizations
do: so hooks, references and names stay valid, `layer.weight` is the product, and the network's state dict has the
factors beside the biases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from atoll.methods.low_rank.factored_layers import (
    Factored,
    FactoredAttention,
    FactoredConv1d,
    FactoredConv2d,
    FactoredLinear,
)

FACTORS = (("U", "S", "Vt"), ("A", "B"))
# Of these very classes, as a subclass may compute something else with its weight.
_KINDS: dict[type[nn.Module], type[Factored]] = {
    nn.Linear: FactoredLinear,
    NonDynamicallyQuantizableLinear: FactoredLinear,
    nn.Conv1d: FactoredConv1d,
    nn.Conv2d: FactoredConv2d,
    nn.MultiheadAttention: FactoredAttention,
}


def _kind(layer: nn.Module) -> type[Factored] | None:
    """How a layer would be factored; None for one that cannot be."""
    is_odd = isinstance(layer, nn.MultiheadAttention) and (
        not layer._qkv_same_embed_dim or layer.bias_k is not None or layer.add_zero_attn
    )
    return None if is_odd or getattr(layer, "groups", 1) > 1 else _KINDS.get(type(layer))


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer that `low_rank_layers` names, or its product, as a matrix (m, n)."""
    if isinstance(layer, Factored):
        return layer.merged().flatten(1)
    kind = _kind(layer)
    assert kind is not None, layer
    weight: Tensor = getattr(layer, kind.weight_name)
    return weight.flatten(1)


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """The shape (m, n) of what `weight_of` returns, without forming a product."""
    shape = layer.weight_shape if isinstance(layer, Factored) else weight_of(layer).shape
    return shape[0], shape.numel() // shape[0]


def low_rank_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers with a weight that can be factored, or is, from input to output: linear ones, convolutions without groups,
    attention's projection of its inputs. Weights that several layers share are left out."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Factored) or _kind(m) is not None}
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, Factored) or uses[id(getattr(layer, _kind(layer).weight_name))] == 1  # type: ignore[union-attr]
    }


def eligible_layers(model: nn.Module, *, full_rank_first: bool, full_rank_last: bool) -> dict[str, nn.Module]:
    """The layers to be factored: without the first or last one where it stays in full rank, without those of
    unfavourable shape, whose shorter side is at most a tenth of the longer one, and without those that are frozen."""
    named = list(low_rank_layers(model).items())[1 if full_rank_first else 0 :]
    named = named[:-1] if full_rank_last else named
    return {
        name: layer
        for name, layer in named
        if 10 * min(shape_of(layer)) > max(shape_of(layer)) and weight_of(layer).requires_grad
    }


def forbid_nested_tensors(model: nn.Module) -> None:
    """Keep nn.TransformerEncoder, when it evaluates, from a tensor form that only its layers' fused path takes."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def factor(layer: nn.Module, factors: Mapping[str, Tensor], trained: Collection[str]) -> None:
    """Replace a layer's weight by the product of `factors`, leftmost first; those not in `trained` are frozen."""
    kind = type(layer) if isinstance(layer, Factored) else _kind(layer)
    assert kind is not None, layer
    made: Any = layer
    if isinstance(layer, Factored):
        for name in layer.factor_names:
            del layer._parameters[name]
    else:
        made.weight_shape = getattr(layer, kind.weight_name).shape
        made.full_rank_class = type(layer)
        del layer._parameters[kind.weight_name]
        if kind is FactoredAttention:  # keeps nn.TransformerEncoderLayer from its fused path, which takes the product
            made._qkv_same_embed_dim = False
        layer.__class__ = kind
    made.factor_names = tuple(factors)
    for name, matrix in factors.items():
        layer.register_parameter(name, nn.Parameter(matrix.contiguous(), requires_grad=name in trained))


def restore(layer: nn.Module, weight: Tensor | None = None) -> None:
    """Give a factored layer a weight in place of its factors: their product unless given."""
    assert isinstance(layer, Factored)
    weight, name = layer.merged().detach() if weight is None else weight, layer.weight_name
    for factor_name in layer.factor_names:
        del layer._parameters[factor_name]
    if isinstance(layer, FactoredAttention):
        layer._qkv_same_embed_dim = True
    made: Any = layer
    made.__class__ = layer.full_rank_class
    others = dict(layer._parameters)  # the weight comes first, where it was: optimizers count parameters
    layer._parameters.clear()
    layer.register_parameter(name, nn.Parameter(weight.contiguous()))
    layer._parameters.update(others)


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The network's state dict with every product in place of its factors: what the network had before loads it."""
    state = {name: value.detach() for name, value in model.state_dict().items()}
    for name, layer in low_rank_layers(model).items():
        if isinstance(layer, Factored):
            for factor_name in layer.factor_names:
                del state[join(name, factor_name)]
            state[join(name, layer.weight_name)] = layer.merged().detach()
    return state


def load(model: nn.Module, state: Mapping[str, Tensor], trained: Collection[str] = ()) -> None:
    """Load a state dict that may have factors in place of weights, into a network that may have others, or none.

    Factors other than the `trained` ones are frozen.
    """
    forbid_nested_tensors(model)
    for name, layer in low_rank_layers(model).items():
        found = next((names for names in FACTORS if join(name, names[0]) in state), None)
        if found is None and isinstance(layer, Factored):
            restore(layer)
        elif found is not None:
            example = next(layer.parameters())
            factor(layer, {n: state[join(name, n)].to(example, copy=True) for n in found}, trained)
    model.load_state_dict(dict(state))


def join(layer: str, name: str) -> str:
    """The name of a layer's tensor in the network's state dict."""
    return f"{layer}.{name}" if layer else name
