"""The names that users import from `atoll`: documented, lazy, typed, and the only ones that the examples use."""

import ast
import doctest
import subprocess
import sys
from importlib.metadata import version

import pytest
from conftest import ROOT

import atoll

NAMES = sorted(set(atoll.__all__) - {"__version__"})


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_an_example_that_runs(name):
    """The example is self-contained: it imports what it uses."""
    docstring = getattr(atoll, name).__doc__ or ""
    example = doctest.DocTestParser().get_doctest(docstring, {"__name__": "__main__"}, f"atoll.{name}", None, None)
    assert "Example" in docstring
    assert example.examples
    report = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert outcome.failed == 0, "".join(report)


@pytest.mark.process
def test_importing_atoll_loads_no_heavy_library():
    loaded = run("-c", "import atoll, sys; print(*sys.modules)").split()
    assert not {"torch", "mpi4py", "sqlalchemy", "numpy", "optuna"} & set(loaded)


def test_the_version_is_that_of_the_distribution():
    assert atoll.__version__ == version("atoll")


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(AttributeError, match="no attribute 'Wrokload'") as raised:
        _ = atoll.Wrokload
    for name in NAMES:
        assert name in str(raised.value)


def test_dir_lists_the_names():
    assert set(atoll.__all__) <= set(dir(atoll))


@pytest.mark.process
def test_the_command_line_prints_the_version():
    expected = f"atoll {version('atoll')}\n"
    assert run("-m", "atoll", "--version") == expected
    assert run(f"{sys.prefix}/bin/atoll", "--version") == expected


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_examples_import_only_the_public_face(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "atoll":
            assert node.module == "atoll", f"line {node.lineno} imports from {node.module}"
            assert {alias.name for alias in node.names} <= set(atoll.__all__)
        elif isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("atoll.")]
