"""The user's code is found by reading its imports: whatever is not installed, however it is imported."""

import sys

import pytest

from atoll.platform.study import sources


def write(folder, /, **files):
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(folder, start="w.py"):
    traced = sources.trace([folder / start])
    return {str(path.relative_to(folder)) for path in traced.files}


@pytest.mark.parametrize(
    "statement",
    [
        "import helper",
        "import helper as h, os",
        "from helper import x",
        "def late():\n    from helper import x",
        "from importlib import import_module\nimport_module('helper')",
        "import importlib\nimportlib.import_module('helper')",
        "__import__('helper')",
        "try:\n    import helper\nexcept ImportError:\n    pass",
    ],
)
def test_a_module_of_the_folder_is_found(tmp_path, statement):
    write(tmp_path, w=statement, helper="x = 1", unused="")
    assert found(tmp_path) == {"w.py", "helper.py"}


def test_what_imports_import_is_found_in_circles_too(tmp_path):
    write(tmp_path, w="import a", a="import b", b="import w, c", c="")
    assert found(tmp_path) == {"w.py", "a.py", "b.py", "c.py"}


def test_packages_are_found_with_the_packages_that_hold_them(tmp_path):
    write(tmp_path, w="import p.q.r\nfrom p import s\nfrom n.deep import t", n__deep__t="", n__deep__u="")
    (tmp_path / "p/q").mkdir(parents=True)
    for name in ("p/__init__", "p/q/__init__", "p/q/r", "p/s", "p/unused"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "p/q/r.py").write_text("from . import z\nfrom ..s import y")
    (tmp_path / "p/q/z.py").write_text("")
    assert found(tmp_path) == {
        "w.py", "p/__init__.py", "p/q/__init__.py", "p/q/r.py", "p/q/z.py", "p/s.py", "n/deep/t.py",
    }  # fmt: skip


def test_a_relative_import_runs_the_package(tmp_path):
    write(tmp_path, p__w="from .x import y", p__x="", z="")
    (tmp_path / "p/__init__.py").write_text("import z")
    assert found(tmp_path, "p/w.py") == {"p/w.py", "p/x.py", "p/__init__.py", "z.py"}


def test_a_file_in_a_package_may_name_the_package(tmp_path):
    for name in ("p/__init__", "p/helper"):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "p/w.py").write_text("from p.helper import x")
    assert found(tmp_path, "p/w.py") == {"p/w.py", "p/__init__.py", "p/helper.py"}


def test_code_elsewhere_on_the_path_is_found_unless_it_is_installed(tmp_path, monkeypatch):
    for folder in ("lib", "site-packages", "mine"):
        (tmp_path / folder).mkdir()
        monkeypatch.syspath_prepend(tmp_path / folder)
    (tmp_path / "lib/elsewhere.py").write_text("import further")
    (tmp_path / "lib/further.py").write_text("")
    (tmp_path / "site-packages/installed.py").write_text("import not_followed")
    (tmp_path / "mine/w.py").write_text(
        "import elsewhere, installed, torch.nn, json, nowhere\nfrom atoll import Method"
    )
    traced = sources.trace([tmp_path / "mine/w.py"])
    assert {path.name for path in traced.files} == {"w.py", "elsewhere.py", "further.py"}
    assert traced.libraries == {"installed", "torch"}


def test_an_installed_plugin_is_code_and_its_neighbors_are_libraries(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    (site / "plugin").mkdir(parents=True)
    monkeypatch.syspath_prepend(site)
    for name, text in {
        "plugin/__init__": "",
        "plugin/w": "import plugin.x, other",
        "plugin/x": "",
        "other": "",
    }.items():
        (site / f"{name}.py").write_text(text)
    traced = sources.trace([site / "plugin/w.py"])
    assert {path.relative_to(site).as_posix() for path in traced.files} == {
        "plugin/__init__.py",
        "plugin/w.py",
        "plugin/x.py",
    }
    assert traced.libraries == {"other"}


def test_what_cannot_be_parsed_is_told(tmp_path):
    write(tmp_path, w="import old", old="print 'two'")
    traced = sources.trace([tmp_path / "w.py"])
    assert {path.name for path in traced.files} == {"w.py", "old.py"}
    assert {path.name for path in traced.not_read} == {"old.py"}


def test_nothing_is_run(tmp_path):
    write(tmp_path, w="import helper", helper="raise SystemExit")
    assert found(tmp_path) == {"w.py", "helper.py"}
    assert "helper" not in sys.modules


def test_the_libraries_of_atolls_own_modules(tmp_path):
    text = '"""Text\n\nfrom the launcher\n"""\nimport torch.nn as nn\n\ndef f():\n    from transformers import X\n'
    (tmp_path / "m.py").write_text(text + "from atoll.methods import METHODS\nimport json\n")
    assert sources.libraries_of([tmp_path / "m.py"]) == {"torch", "transformers"}
