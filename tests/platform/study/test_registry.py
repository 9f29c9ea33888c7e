"""Files that users name."""

import sys

import pytest

from atoll.platform.study import registry


def test_a_file_that_fails_fails_the_same_way_again(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = 1\nraise SystemExit(3)\n")
    for _ in range(2):
        with pytest.raises(SystemExit):
            registry.workload(f"{file}:Broken")


def test_a_file_may_import_its_neighbors_which_hide_none_of_pythons_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbor_of_w.py").write_text("NUMBER = 3\n")
    (tmp_path / "json.py").write_text("raise ImportError\n")
    (tmp_path / "w.py").write_text(
        "import json, neighbor_of_w\nfrom atoll.platform.workloads.digits import DigitsMlp\n"
        "class W(DigitsMlp):\n    number = neighbor_of_w.NUMBER\n    dumps = json.dumps\n"
    )
    assert type(registry.workload(f"{tmp_path / 'w.py'}:W")).number == 3
