"""Networks whose weights are products of matrices, as OIALR and AB training train them (Coquelin 2024, ch. 4 and 5).

A weight W, flattened to (m, n) along its trailing dimensions, becomes U S V^T (eq. 4.1; factors U, S, Vt) or A B
(eq. 5.3). The layer stays the same object in the network and only changes its class, as with torch's parametrizations:
so hooks, references and names stay valid, `layer.weight` is the product, and the network's state dict contains the
factors next to the biases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

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
# Exact classes, as a subclass may use its weight in another way.
_KINDS: dict[type[nn.Module], type[Factored]] = {
    nn.Linear: FactoredLinear,
    NonDynamicallyQuantizableLinear: FactoredLinear,
    nn.Conv1d: FactoredConv1d,
    nn.Conv2d: FactoredConv2d,
    nn.MultiheadAttention: FactoredAttention,
}


def _kind(layer: nn.Module) -> type[Factored] | None:
    """The factored form of a layer's class; None if it has none."""
    is_unsupported = isinstance(layer, nn.MultiheadAttention) and (
        not layer._qkv_same_embed_dim or layer.bias_k is not None or layer.add_zero_attn
    )
    return None if is_unsupported or getattr(layer, "groups", 1) > 1 else _KINDS.get(type(layer))


def weight_of(layer: nn.Module) -> Tensor:
    """The weight, or the product, of a layer in `low_rank_layers` as a matrix (m, n)."""
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
    """Layers with a weight that can be factored, or already is, from input to output.

    These are linear layers, convolutions without groups, and attention's input projection. Layers that share their
    weight with others are excluded.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Factored) or _kind(m) is not None}
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, Factored) or uses[id(getattr(layer, _kind(layer).weight_name))] == 1  # type: ignore[union-attr]
    }


def eligible_layers(model: nn.Module, *, full_rank_first: bool, full_rank_last: bool) -> dict[str, nn.Module]:
    """The layers to be factored.

    These are the low-rank layers without the first or last one if it stays in full rank, without weights whose shorter
    side is at most a tenth of the longer one, and without frozen weights.
    """
    named = list(low_rank_layers(model).items())[1 if full_rank_first else 0 :]
    named = named[:-1] if full_rank_last else named
    return {
        name: layer
        for name, layer in named
        if 10 * min(shape_of(layer)) > max(shape_of(layer)) and weight_of(layer).requires_grad
    }


def forbid_nested_tensors(model: nn.Module) -> None:
    """Keep nn.TransformerEncoder in evaluation from nested tensors, which only its layers' fused path accepts."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def factor(layer: nn.Module, factors: Mapping[str, Tensor], trained: Collection[str]) -> None:
    """Replace a layer's weight by the product of `factors`, leftmost first; factors not in `trained` are frozen."""
    if isinstance(layer, Factored):
        _remove_factors(layer)
    else:
        layer = _without_weight(layer)
    layer.factor_names = tuple(factors)
    for name, matrix in factors.items():
        layer.register_parameter(name, nn.Parameter(matrix.contiguous(), requires_grad=name in trained))


def _without_weight(layer: nn.Module) -> Factored:
    """Turn a layer into its factored class, still without factors; returns the same object."""
    kind, full_rank_class = _kind(layer), type(layer)
    assert kind is not None, layer
    weight_shape = getattr(layer, kind.weight_name).shape
    del layer._parameters[kind.weight_name]
    layer.__class__ = kind
    assert isinstance(layer, Factored)
    layer.weight_shape, layer.full_rank_class = weight_shape, full_rank_class
    if isinstance(layer, FactoredAttention):
        # Keeps nn.TransformerEncoderLayer from its fused path, which would use the product.
        layer._qkv_same_embed_dim = False
    return layer


def _remove_factors(layer: Factored) -> None:
    for name in layer.factor_names:
        del layer._parameters[name]


def restore_layer(layer: nn.Module, weight: Tensor | None = None) -> None:
    """Replace a factored layer's factors by a full-rank weight. Default: their product."""
    assert isinstance(layer, Factored)
    weight = layer.merged().detach() if weight is None else weight
    weight_name, full_rank_class = layer.weight_name, layer.full_rank_class
    _remove_factors(layer)
    if isinstance(layer, FactoredAttention):
        layer._qkv_same_embed_dim = True
    layer.__class__ = full_rank_class  # type: ignore[assignment]
    others = dict(layer._parameters)
    layer._parameters.clear()  # optimizers number parameters, so the weight comes first again
    layer.register_parameter(weight_name, nn.Parameter(weight.contiguous()))
    layer._parameters.update(others)


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The network's state dict with products in place of factors, which the full-rank network can load."""
    state = {name: value.detach() for name, value in model.state_dict().items()}
    for name, layer in low_rank_layers(model).items():
        if isinstance(layer, Factored):
            for factor_name in layer.factor_names:
                del state[join(name, factor_name)]
            state[join(name, layer.weight_name)] = layer.merged().detach()
    return state


def load(model: nn.Module, state: Mapping[str, Tensor], trained: Collection[str] = ()) -> None:
    """Load a state dict with or without factors into a network with the same, other or no factors.

    Factors not in `trained` are frozen.
    """
    forbid_nested_tensors(model)
    for name, layer in low_rank_layers(model).items():
        saved_factors = next((names for names in FACTORS if join(name, names[0]) in state), None)
        if saved_factors is not None:
            example = next(layer.parameters())
            factor(layer, {n: state[join(name, n)].to(example, copy=True) for n in saved_factors}, trained)
        elif isinstance(layer, Factored):
            restore_layer(layer)
    model.load_state_dict(dict(state))


def join(layer: str, name: str) -> str:
    """The key of a layer's tensor in the network's state dict."""
    return f"{layer}.{name}" if layer else name
