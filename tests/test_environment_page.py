"""docs/environment.md has every environment variable of the source, and names no other as atoll's.

A variable is found where the source uses a mapping that is called environ or environment, as Typer's `envvar`, and as
any text that is a name of a known family. Write names out: one that is computed is not found, so it is refused.
"""

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = (
    "analysis", "atoll", "communication", "dashboard", "methods", "platform", "results", "searchspaces", "storage",
    "testing",
)  # fmt: skip
FAMILY = re.compile(
    r"(ATOLL|SLURM|SBATCH|SRUN|PBS|LSB|LSF|OMPI|ORTE|PRTE|PMI|PMIX|HYDRA|HYDI|MPI|MPICH|MPIR|I_MPI|PALS|FLUX|OMP|MKL"
    r"|FI|UCX|NCCL|CUDA|TORCH|TORCHINDUCTOR|MLFLOW|XDG|SSH|PG)_[A-Za-z0-9_]*|NO_COLOR|FORCE_COLOR|COLUMNS|TMPDIR"
)
PAGE = (ROOT / "docs/environment.md").read_text()
OF_LIBRARIES = "Read by the libraries that atoll uses"


OF_SYSTEM = ("environ", "environb", "getenv")


def is_environment(node):
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in ("environ", "environb", "environment", "_environment", "variables")


def keys(node):
    """The expressions by which a node takes variables from an environment."""
    if isinstance(node, ast.Subscript) and is_environment(node.value):
        yield node.slice
    if isinstance(node, ast.Compare) and any(map(is_environment, node.comparators)):
        yield node.left
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if is_environment(node.func.value) and node.func.attr in ("get", "pop", "setdefault"):
            yield node.args[0]
        if node.func.attr == "getenv":
            yield node.args[0]
    if isinstance(node, ast.keyword) and node.arg == "envvar":
        yield from node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]


def texts(node):
    """The texts in an expression."""
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def named(tree, name):
    """What a name stands for: the texts of a constant, or those over which a loop goes; None if that is unknown."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return texts(node.value) or None
        if isinstance(node, ast.comprehension | ast.For) and name in {
            target.id for target in ast.walk(node.target) if isinstance(target, ast.Name)
        }:
            if any(map(is_environment, ast.walk(node.iter))):  # all variables, of which some are chosen elsewhere
                return set()
            if isinstance(node.iter, ast.Name):
                return named(tree, node.iter.id)
            return texts(node.iter) or None
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            file = ROOT / f"{str(node.module).removeprefix('atoll.').replace('.', '/')}.py"
            return named(ast.parse(file.read_text()), name) if file.exists() else None
    return None


def variables_of(source, path="file.py"):
    """The variables that a source reads or sets, and the beginnings of names, such as PMI_, that stand for several."""
    tree, found = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and FAMILY.fullmatch(node.value):
            found.add(node.value)
        for key in keys(node):
            meant = texts(key) if isinstance(key, ast.Constant) else named(tree, getattr(key, "id", None))
            is_of_system = any(isinstance(one, ast.Attribute) and one.attr in OF_SYSTEM for one in ast.walk(node))
            assert meant is not None or not is_of_system, (
                f"{path}, line {node.lineno}: write the name of this environment variable out"
            )
            found |= {name for name in meant or () if is_of_system or re.fullmatch("[A-Z][A-Z0-9_]*", name)}
    return found


def in_source(folders):
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in variables_of(path.read_text(), path):
                found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return found


def rows(page):
    """The rows of the page's tables, by section: names, and the cell that says where."""
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        for line in section.splitlines():
            if line.startswith("| `"):
                cells = [cell.strip() for cell in line.strip("|").split(" | ")]
                assert len(cells) == 4, line
                yield section.splitlines()[0], re.findall(r"`([A-Z][A-Za-z0-9_]*\*?)`", cells[0]), cells


def documented(*, of_tests):
    return {
        name.rstrip("*")
        for section, names, _ in rows(PAGE)
        for name in names
        if section != OF_LIBRARIES and section.startswith("For atoll's own") == of_tests
    }


def test_every_variable_of_the_source_has_its_line_and_no_other_has_one():
    found = in_source(PACKAGES)
    missing = {name: sorted(files) for name, files in found.items() if name not in documented(of_tests=False)}
    assert missing == {}, "add them to docs/environment.md"
    assert documented(of_tests=False) - set(found) == set(), "the source does not have them any more"


def test_every_variable_of_the_tests_and_benchmarks_has_its_line():
    of_product = documented(of_tests=False)
    sources = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = {
        name
        for path in (*sources, ROOT / ".ci/run")
        if path != Path(__file__)
        for name in re.findall(r"\bATOLL_[A-Z]+(?:_[A-Z]+)*\b", path.read_text())
    }
    assert found - of_product == documented(of_tests=True)


def test_the_files_have_the_variables():
    for section, names, cells in rows(PAGE):
        if section == OF_LIBRARIES:
            continue
        files = re.findall(r"`([\w/.]+\.py)`", cells[3])
        assert files, cells
        text = "\n".join((ROOT / file).read_text() for file in files)
        assert {name for name in names if name.rstrip("*") not in text} == set(), files


def test_the_lines_say_something():
    every = [name for _, names, _ in rows(PAGE) for name in names]
    assert len(set(every)) == len(every)
    for _, names, cells in rows(PAGE):
        assert names, cells
        assert cells[1].endswith("."), cells


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("os.environ.get('A_B')", {"A_B"}),
        ("os.environ['A_B'] = '1'", {"A_B"}),
        ("os.environ.setdefault('A_B', '1')", {"A_B"}),
        ("os.getenv('A_B', '')", {"A_B"}),
        ("'A_B' in os.environ", {"A_B"}),
        ("from atoll.storage.files import SHARE\nos.environ[SHARE]", {"ATOLL_SHARE"}),
        ("def f(environment): return environment.get('A_B')", {"A_B"}),
        ("NAME = 'A_B'\ndel os.environ[NAME]", {"A_B"}),
        ("NAMES = ('A_B', 'C')\n[os.environ[name] for name in NAMES if name in os.environ]", {"A_B", "C"}),
        ("for name in ('A_B', 'C'):\n    os.environ.pop(name, None)", {"A_B", "C"}),
        ("[name for name in os.environ if name.startswith('PMI_')]", {"PMI_"}),
        ("versions = {'Python': environment['Python']}", set()),
        ("typer.Option(envvar=['A_B', 'C'])", {"A_B", "C"}),
        ("variables = {'ATOLL_NEW': '1'}", {"ATOLL_NEW"}),
        ("print('a text about ATOLL_STORE')", set()),
    ],
)
def test_variables_are_found(source, names):
    assert variables_of(source) == names


def test_a_computed_name_is_refused():
    with pytest.raises(AssertionError, match="line 1: write the name of this environment variable out"):
        variables_of("os.environ.get('ATOLL_' + name)")
