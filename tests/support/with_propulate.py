"""The mark of tests that need Propulate, which cannot be installed from Python 3.13 on."""

import importlib.util

import pytest

NEEDS_PROPULATE = pytest.mark.skipif(
    importlib.util.find_spec("propulate") is None, reason="needs propulate, which needs Python below 3.13"
)
PROPULATE = pytest.param("propulate", marks=NEEDS_PROPULATE)
