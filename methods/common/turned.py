"""An optimizer's state after a change of basis: a matrix S (m, n) becomes L^T S R, with orthonormal columns in L and R.

Its gradients turn alike, G -> L^T G R. What an optimizer keeps follows from that:

    linear    sums of gradients and averages of the parameter:   x -> L^T x R, exactly
    squares   sums of squared gradients:                         v -> (L*L)^T v (R*R), elementwise squares

The latter are the squares of turned gradients if a gradient's elements are uncorrelated. They are nonnegative, keep
their sum if L and R are square, and do not depend on the signs of the columns: so no step of an optimizer depends on
the signs that a decomposition happens to give to singular vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Turned:
    """Where a parameter (k, l) comes from.

    Attributes:
        source: the parameter (m, n) before.
        left: L (m, k).
        right: R (n, l).
    """

    source: nn.Parameter
    left: Tensor
    right: Tensor

    def linear(self, value: Tensor) -> Tensor:
        """Of a sum of gradients, or an average of the parameter (m, n)."""
        return self.left.T @ value @ self.right

    def squares(self, value: Tensor) -> Tensor:
        """Of a sum of squared gradients (m, n)."""
        return self.left.square().T @ value @ self.right.square()

    def largest(self, value: Tensor) -> Tensor:
        """Of a norm of the gradients (m, n), as Adamax keeps it."""
        return self.squares(value.square()).sqrt_()

    def rows(self, value: Tensor) -> Tensor:
        """Of the rows' mean squares (m, 1), as Adafactor keeps them."""
        return self.left.square().T @ value

    def columns(self, value: Tensor) -> Tensor:
        """Of the columns' mean squares (1, n)."""
        return value @ self.right.square()

    def state(self, before: dict[str, Any]) -> dict[str, Any]:
        """The state of the parameter, from that of the one before.

        Counters stay. FTRL makes anew what it derives from the weights. A state with a tensor of another name is empty:
        the parameter starts without moments.
        """
        tensors = {name for name, value in before.items() if isinstance(value, Tensor) and value.dim()}
        if not tensors <= _RULES.keys() | _DERIVED:
            return {}
        return {
            name: _RULES[name](self, value) if name in tensors else value
            for name, value in before.items()
            if name not in _DERIVED
        }


_RULES: dict[str, Callable[[Turned, Tensor], Tensor]] = {
    **dict.fromkeys(("momentum_buffer", "exp_avg", "ax"), Turned.linear),
    **dict.fromkeys(("exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "n"), Turned.squares),
    "exp_inf": Turned.largest,
    "row_var": Turned.rows,
    "col_var": Turned.columns,
}
_DERIVED = {"inverse", "z"}
