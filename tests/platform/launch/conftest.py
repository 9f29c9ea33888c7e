"""Fixtures of the tests of launchers."""

import pytest

from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study


@pytest.fixture
def plan_of(tmp_path):
    """Resolves a study of three trials, with the content that a test gives."""

    def plan(**content):
        study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 3, "folder": str(tmp_path / "s")}
        return Plan.of(Study(**study | content))

    return plan
