"""Constraints between hyperparameters as text, such as `S <= B` or `batch_size * tau <= 1024`.

Comparisons, arithmetic and `and`, `or`, `not`, `in` over names and constants: a study file must not run code.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from types import CodeType
from typing import Any

_ALLOWED = (
    ast.Expression,
    ast.Compare,
    ast.cmpop,
    ast.BoolOp,
    ast.boolop,
    ast.UnaryOp,
    ast.unaryop,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.FloorDiv,
    ast.Mod,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.Tuple,
    ast.List,
)


def names(constraint: str) -> set[str]:
    """The hyperparameters that a constraint refers to. Raises ValueError for a text that is no constraint."""
    return set(_compiled(constraint)[1])


def holds(constraint: str, values: Mapping[str, Any]) -> bool:
    """Whether `values` satisfy a constraint; one that refers to an absent hyperparameter is satisfied."""
    code, needed = _compiled(constraint)
    if any(name not in values for name in needed):
        return True
    try:
        return bool(eval(code, {"__builtins__": {}}, {name: values[name] for name in needed}))
    except (TypeError, ZeroDivisionError) as error:
        raise ValueError(f"the constraint {constraint!r} cannot be computed with {dict(values)}: {error}") from None


@cache
def _compiled(constraint: str) -> tuple[CodeType, tuple[str, ...]]:
    try:
        tree = ast.parse(constraint.strip(), mode="eval")
    except SyntaxError:
        tree = None
    nodes = [] if tree is None else list(ast.walk(tree))
    names_ = sorted({node.id for node in nodes if isinstance(node, ast.Name)})
    compares = any(isinstance(node, ast.Compare) for node in nodes)
    if tree is None or not compares or not names_ or not all(isinstance(node, _ALLOWED) for node in nodes):
        raise ValueError(
            "a constraint compares hyperparameters with + - * / // %, and, or, not, in, such as 'S <= B'; "
            f"got {constraint!r}"
        )
    return compile(tree, "<constraint>", "eval"), tuple(names_)
