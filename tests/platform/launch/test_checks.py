"""Checks of a study before anything starts; most are tested with what they check."""

import pytest

from atoll.platform.launch import extras
from atoll.platform.launch.checks import check
from atoll.platform.study.study import Study


def test_propulates_sampler_needs_its_package(monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "propulate")
    content = {"name": "s", "workload": "digits_mlp", "method": "ddp"}
    check(Study(**content))
    samplers = [{"name": "propulate"}, {"name": "random"}]
    with pytest.raises(ValueError, match=r"needs the package propulate .*, which is not installed .*use evolution"):
        check(Study(**content, sampler={"name": "mixed", "samplers": samplers}))
