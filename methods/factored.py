"""Layers whose weight is a product of matrices: the networks that OIALR and AB training train (001, chapters 4 and 5).

A weight W, flattened to (m, n) along its trailing dimensions, becomes U S V^T (equation 4.1; factors U, S, Vt) or A B
(equation 5.3). The layer stays where it is in the network and only changes its class, as torch's own parametrizations
do: so hooks, references and names stay valid, `layer.weight` is the product, and the network's state dict has the
factors beside the biases.

The forward pass multiplies its inputs through the factors, the last one first; only where the rank k is at least
min(m, n)/2, and forming W takes fewer multiplications, is it formed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

FACTORS = (("U", "S", "Vt"), ("A", "B"))


class Factored(nn.Module):
    """What the factored layers share; made by `factor`, never constructed.

    Attributes:
        factor_names: of the factors, the leftmost first.
        weight_shape: of the product.
        full_rank_class: what the layer was.
    """

    weight_name = "weight"
    factor_names: tuple[str, ...]
    weight_shape: torch.Size
    full_rank_class: type[nn.Module]

    def factors(self) -> list[Tensor]:
        """The factors (m, k), ..., (k, n), the leftmost first."""
        return [getattr(self, name) for name in self.factor_names]

    @property
    def inner_rank(self) -> int:
        """k."""
        return self.factors()[0].shape[1]

    def merged(self) -> Tensor:
        """The product, in the weight's shape."""
        product: Tensor = torch.linalg.multi_dot(self.factors())
        return product.view(self.weight_shape)

    def is_formed(self, num_rows: int) -> bool:
        """Whether a forward pass with `num_rows` inputs forms the product, rather than multiplying through."""
        m, n = self.weight_shape[0], self.weight_shape.numel() // self.weight_shape[0]
        k, num_inner = self.inner_rank, len(self.factor_names) - 2
        if 2 * k < min(m, n):
            return False
        through = num_rows * (k * (m + n) + num_inner * k * k)
        return m * n * (num_rows + k) + num_inner * k * k * min(m, n) < through


def _multiply(factors: list[Tensor], inputs: Tensor, bias: Tensor | None) -> Tensor:
    for matrix in reversed(factors[1:]):
        inputs = functional.linear(inputs, matrix)
    return functional.linear(inputs, factors[0], bias)


class FactoredLinear(Factored, nn.Linear):
    """y = U (S (V^T x)) + b."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The product (m, n)."""
        return self.merged()

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., n) -> (..., m)."""
        if self.is_formed(inputs.numel() // inputs.shape[-1]):
            return functional.linear(inputs, self.merged(), self.bias)
        return _multiply(self.factors(), inputs, self.bias)


class _FactoredConv(Factored):
    """The last factor's rows are filters; the others act on channels."""

    @property
    def weight(self) -> Tensor:
        """The product, (m, channels, ...)."""
        return self.merged()

    def forward(self, inputs: Tensor) -> Tensor:
        """(b, channels, ...) -> (b, m, ...)."""
        layer: Any = self
        num_rows = inputs[:, 0].numel()
        for stride in layer.stride:
            num_rows //= stride
        if self.is_formed(num_rows):
            return layer._conv_forward(inputs, self.merged(), layer.bias)  # type: ignore[no-any-return]
        *others, filters = self.factors()
        # torch's own, for its padding modes
        outputs = layer._conv_forward(inputs, filters.view(-1, *self.weight_shape[1:]), None)
        for number, matrix in reversed(list(enumerate(others))):
            bias = layer.bias if number == 0 else None
            kernel = matrix.view(*matrix.shape, *(1 for _ in layer.kernel_size))
            outputs = getattr(functional, f"conv{len(layer.kernel_size)}d")(outputs, kernel, bias)
        return outputs  # type: ignore[no-any-return]


class FactoredConv1d(_FactoredConv, nn.Conv1d):  # type: ignore[override]
    """A one-dimensional convolution."""


class FactoredConv2d(_FactoredConv, nn.Conv2d):  # type: ignore[override]
    """A two-dimensional convolution."""


class FactoredAttention(Factored, nn.MultiheadAttention):
    """Multi-head attention whose projection of queries, keys and values, one weight (3d, d), is factored."""

    weight_name = "in_proj_weight"

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The product (3d, d)."""
        return self.merged()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention's; `is_causal` is a hint about the mask, which must be given, as there."""
        if is_causal and attn_mask is None:
            raise RuntimeError("attention needs attn_mask where is_causal is true")
        is_batched = query.dim() == 3
        inputs = [query, key, value]
        if not is_batched:
            inputs = [x.unsqueeze(0) for x in inputs]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = (self._heads(x) for x in self._project(inputs))
        mask = _additive(attn_mask, q.dtype)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(-1, self.num_heads, *mask.shape[1:])
        padding = _additive(key_padding_mask, q.dtype)
        if padding is not None:
            mask = padding[:, None, None] if mask is None else mask + padding[:, None, None]
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = functional.dropout(weights, dropout)
            attended = weights @ v
        else:
            attended = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        outputs = self.out_proj(attended.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not is_batched:
            return outputs.squeeze(0), None if weights is None else weights.squeeze(0)
        return outputs if self.batch_first else outputs.transpose(0, 1), weights

    def _project(self, inputs: list[Tensor]) -> list[Tensor]:
        """Queries, keys and values (b, length, d)."""
        d, bias = self.embed_dim, self.in_proj_bias
        num_rows = max(x.numel() for x in inputs) // d
        first, *others = [self.merged()] if self.is_formed(num_rows) else self.factors()
        if inputs[0] is inputs[1] is inputs[2]:
            return list(_multiply([first, *others], inputs[0], bias).chunk(3, dim=-1))
        parts = [slice(i * d, (i + 1) * d) for i in range(3)]
        return [
            _multiply([first[part], *others], x, None if bias is None else bias[part])
            for part, x in zip(parts, inputs, strict=True)
        ]

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as what is added to scores; of a boolean one, what is true takes no part."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


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
