"""The page that exports configurations."""

import boards
import pytest

from atoll.dashboard.context import Context
from atoll.dashboard.pages import export
from atoll.storage.store import StoreError


def test_exports_are_those_of_the_command(tmp_path):
    context = Context(boards.study(tmp_path, [0.5, 0.7, None]))
    row = context.store.study()
    first, both = (context.boards.of("s").best(number) for number in (1, 2))
    assert "objective: 0.7" in export.content(context, row, first, alone=True)
    assert export.content(context, row, both, alone=False).startswith("configurations:")
    assert export.command(context, row, 2) == f"atoll export s --best 2 -o best.yaml --store {context.store}"
    assert export.shortened(200, "do") is None
    assert "The first 200 of 1,234; do." in str(export.shortened(1234, "do"))
    for best in (0, 101, None, "x", 1.5):
        with pytest.raises(StoreError, match="choose 1 to 100"):
            export._number(best)
