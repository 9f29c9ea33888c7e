"""The traps of mapping the folders at the root onto subpackages, and the layers."""

import ast
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAYERS = {
    "atoll": {"communication", "methods", "platform", "results", "searchspaces", "storage"},
    "communication": set(),
    "methods": {"communication"},
    "storage": set(),
    "analysis": {"storage"},
    "searchspaces": set(),
    "dashboard": {"analysis", "storage"},
    "results": {"dashboard", "analysis", "storage"},
    "testing": {"communication", "methods", "platform"},
    "platform": {"searchspaces", "communication", "methods", "analysis", "storage"},
}
# Inside platform each level imports only those below it.
LEVELS = ["cli", "commands", "batch", "benchmark", "launch", "ranks", "search", "trial", "study", "workloads"]
LEAVES = {"exit_codes", "rank_guard", "stop_signals"}
FOLDERS = [name for name in LAYERS if (ROOT / name).is_dir()]


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "atoll")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_down_only(folder):
    for path in sources(folder):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "atoll" and len(parts) > 1:
                allowed = LAYERS[folder] | {folder}
                if path.parent == ROOT / "platform" / "commands":
                    allowed |= {"dashboard", "results"}
                assert parts[1] in allowed, f"{path} imports {name}"


def test_platform_imports_the_dashboard_for_two_commands_only():
    found = {name for path in sources("platform") for name in imports(path) if name.startswith("atoll.dashboard")}
    assert found == {"atoll.dashboard", "atoll.dashboard.app"}


@pytest.mark.parametrize("level", LEVELS)
def test_the_levels_of_platform_import_down_only(level):
    allowed = {level, *LEVELS[LEVELS.index(level) + 1 :], *LEAVES}
    paths = [ROOT / "platform/cli.py"] if level == "cli" else sources(f"platform/{level}")
    assert paths
    for path in paths:
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["atoll", "platform"] and len(parts) > 2:
                assert parts[2] in allowed, f"{path} imports {name}"


def test_the_families_of_methods_share_only_what_is_below_them():
    """Itself, common and the interface; replicas of the parameter server descend as the sequential methods do."""
    for family in ("data_parallel", "parameter_server", "sequential", "low_rank", "layer_parallel", "common"):
        allowed = {family, "common", "method"} | ({"sequential"} if family == "parameter_server" else set())
        for path in sources(f"methods/{family}"):
            used = {name.split(".")[2] for name in imports(path) if name.startswith("atoll.methods.")}
            assert used <= allowed, f"{path} imports {used - allowed}"


def test_no_module_imports_itself_through_others():
    """What is imported when a module is loaded makes no circle."""
    graph = {}
    for folder in FOLDERS:
        for path in sources(folder):
            parts = ("atoll", *path.relative_to(ROOT).with_suffix("").parts)
            module = ".".join(parts[1:] if parts[:2] == ("atoll", "atoll") else parts).removesuffix(".__init__")
            body = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
            names = {node.module for node in body if node.module}
            graph[module] = names | {f"{node.module}.{alias.name}" for node in body for alias in node.names}
    graph = {module: {name for name in names if name in graph} for module, names in graph.items()}
    while leaves := [module for module, names in graph.items() if not names & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"in or above a circle: {sorted(graph)}"


def test_the_package_list_is_complete():
    found = {"atoll." + ".".join(p.parent.relative_to(ROOT).parts) for folder in FOLDERS for p in sources(folder)}
    found = {name.removeprefix("atoll.") if name == "atoll.atoll" else name for name in found}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found
    assert set(PYPROJECT["tool"]["setuptools"]["package-dir"]) == {
        f"atoll.{folder}".removesuffix(".atoll") for folder in FOLDERS
    }


def test_mypy_follows_every_folder():
    assert {link.name for link in (ROOT / ".mypy_path/atoll").iterdir()} == {*FOLDERS, "__init__.py"} - {"atoll"}


def test_the_standard_platform_module_is_unharmed_at_the_root():
    assert not (ROOT / "platform" / "__init__.py").exists()
    for program in ("import platform; print(platform.python_version())", "import uuid, platform; platform.system()"):
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-m", "atoll.platform.cli", "--help"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0


def test_tests_have_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_console_script_and_module_are_the_same_program(tmp_path):
    outputs = {
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.replace("__main__", "")
        for command in (
            [sys.executable, "-m", "atoll.platform.cli", "study-schema"],
            [f"{sys.prefix}/bin/atoll", "study-schema"],
        )
    }
    assert len(outputs) == 1


def test_a_wheel_works(tmp_path):
    """From the wheel: the command line, the migrations and the dashboard, without the source tree."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("atoll-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {"atoll/py.typed", "atoll/platform/workloads/data/digits.npz"} <= packed
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    program = (
        f"import atoll.storage.store as s; assert s.__file__.startswith({str(site)!r}), s.__file__\n"
        "store = s.Store('sqlite:///x.db'); store.studies()\n"
        "from atoll.platform.benchmark import benchmark_file; assert benchmark_file.load('tiny').name == 'tiny'\n"
        "from atoll.analysis import clusters; assert clusters.cluster('laptop').name == 'laptop'\n"
        "import importlib.resources as r; r.files('atoll.dashboard').joinpath('templates/report.html').read_text()\n"
        "from atoll.dashboard.app import create_app\n"
        "print(create_app(store).server.test_client().get('/').status_code)"
    )
    # -S leaves the editable installation out; the libraries come back by path, after the wheel.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    program = f"import sys; sys.path[:0] = {[str(site), *libraries]!r}\n" + program
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "200", done.stderr
