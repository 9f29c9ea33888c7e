"""Layers whose weight is a product of matrices (Coquelin 2024, eqs. 4.1 and 5.3); `factored.py` makes them.

The forward pass multiplies its inputs by one factor after the other, the last one first. It forms the product W only if
the rank k is at least min(m, n)/2 and forming W takes fewer multiplications.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Factored(nn.Module):
    """Base of the factored layers, which `factor` makes from full-rank ones; never constructed.

    Attributes:
        factor_names: names of the factors, leftmost first.
        weight_shape: shape of the product.
        full_rank_class: class of the layer before it was factored.
    """

    weight_name = "weight"
    factor_names: tuple[str, ...]
    weight_shape: torch.Size
    full_rank_class: type[nn.Module]

    def factors(self) -> list[Tensor]:
        """The factors (m, k), ..., (k, n), leftmost first."""
        return [getattr(self, name) for name in self.factor_names]

    @property
    def inner_rank(self) -> int:
        """The rank k."""
        return self.factors()[0].shape[1]

    def merged(self) -> Tensor:
        """The product, in the weight's shape."""
        product: Tensor = torch.linalg.multi_dot(self.factors())
        return product.view(self.weight_shape)

    def is_formed(self, num_rows: int) -> bool:
        """Whether a forward pass with `num_rows` inputs forms the product first."""
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
        # torch's own implementation handles the padding modes.
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
        """As in nn.MultiheadAttention; `is_causal` is a hint about `attn_mask`, which it requires."""
        if is_causal and attn_mask is None:
            raise RuntimeError("attention needs attn_mask if is_causal is true")
        is_batched = query.dim() == 3
        inputs = [query, key, value]
        if not is_batched:
            inputs = [x.unsqueeze(0) for x in inputs]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = (self._heads(x) for x in self._project(inputs))
        mask = self._mask(attn_mask, key_padding_mask, q.dtype)
        outputs, weights = self._attend(q, k, v, mask, need_weights)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not is_batched:
            return outputs.squeeze(0), None if weights is None else weights.squeeze(0)
        return outputs if self.batch_first else outputs.transpose(0, 1), weights

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The outputs (b, length, d), and if needed the weights (b, heads, length, length)."""
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = functional.dropout(weights, dropout)
            attended = weights @ v
        else:
            attended = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), weights

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """The sum of both masks, in a shape that broadcasts to the scores (b, heads, length, length)."""
        mask, padding = _additive(attn_mask, dtype), _additive(key_padding_mask, dtype)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(-1, self.num_heads, *mask.shape[1:])
        if padding is None:
            return mask
        padding = padding[:, None, None]
        return padding if mask is None else mask + padding

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
    """A mask in the form that is added to scores; boolean masks exclude the positions that are true."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
