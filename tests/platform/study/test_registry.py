"""Files that users name."""

import sys

import pytest

from atoll.methods import METHODS
from atoll.platform.study import registry
from atoll.platform.study.registry import UserFileError
from atoll.platform.workloads import WORKLOADS


def test_a_file_that_fails_fails_the_same_way_again(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = 1\nraise SystemExit(3)\n")
    for _ in range(2):
        with pytest.raises(UserFileError, match=r"broken.py cannot be imported: SystemExit: 3, at .*broken.py, line 2"):
            registry.workload(f"{file}:Broken")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "import helper_of_mine\n",
            r"own.py cannot be imported: ZeroDivisionError: .*, at .*helper_of_mine.py, line 3",
        ),
        ("x = (\n", r"own.py cannot be imported: SyntaxError: '\(' was never closed, at .*own.py, line 1"),
        ("import no_such_module\n", r"own.py cannot be imported: ModuleNotFoundError: .*, at .*own.py, line 1"),
        ("import json\njson.loads('[')\n", r"own.py cannot be imported: JSONDecodeError: .*, at .*own.py, line 2"),
    ],
    ids=["in a neighbor", "no Python", "missing module", "in a library"],
)
def test_an_error_in_a_file_is_one_line_with_its_place(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "helper_of_mine.py").write_text("def f():\n    pass\n1 / 0\n")
    (tmp_path / "own.py").write_text(content)
    with pytest.raises(UserFileError, match=message) as caught:
        registry.workload(f"{tmp_path / 'own.py'}:W")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_file_has_its_own_name_unless_that_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    content = "from atoll.platform.workloads.digits import DigitsMlp\nclass W(DigitsMlp):\n    pass\n"
    names = []
    for folder, name in (("a", "mine_alone"), ("b", "mine_alone"), ("a", "json"), ("a", "not-a-name")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(content)
        names.append(type(registry.workload(f"{tmp_path / folder / name}.py:W")).__module__)
    assert names[0] == "mine_alone"
    assert all(name.startswith("_atoll_user_") for name in names[1:])
    assert len(set(names)) == 4


def test_a_file_may_import_its_neighbors_which_hide_none_of_pythons_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbor_of_w.py").write_text("NUMBER = 3\n")
    (tmp_path / "json.py").write_text("raise ImportError\n")
    (tmp_path / "w.py").write_text(
        "import json, neighbor_of_w\nfrom atoll.platform.workloads.digits import DigitsMlp\n"
        "class W(DigitsMlp):\n    number = neighbor_of_w.NUMBER\n    dumps = json.dumps\n"
    )
    assert type(registry.workload(f"{tmp_path / 'w.py'}:W")).number == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizers", [[], ["adamw"], ["sgd", "adamw"]], ids=["default", "one", "two"])
def test_every_method_has_a_space_on_every_workload(method, optimizers):
    for workload in WORKLOADS:
        names = registry.whole_space(method, workload, optimizers).names()
        assert len(names) == len(set(names))
        assert "optimizer" in names
