"""The traps of mapping the folders at the root onto subpackages, and the layers."""

import ast
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAYERS = {
    "methods": set(),
    "storage": set(),
    "analysis": {"storage"},
    "searchspaces": {"methods"},
    "dashboard": {"analysis", "storage"},
    "platform": {"searchspaces", "methods", "analysis", "storage"},
}
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
                if path == ROOT / "platform" / "cli.py":
                    allowed |= {"dashboard"}
                assert parts[1] in allowed, f"{path} imports {name}"


def test_the_cli_imports_the_dashboard_in_two_lines():
    lines = [
        line for line in (ROOT / "platform/cli.py").read_text().splitlines() if "import" in line and "dashboard" in line
    ]
    assert {line.strip() for line in lines} == {
        "from atoll.dashboard.app import serve",
        "from atoll.dashboard import report as reporting",
    }


def test_the_package_list_is_complete():
    found = {"atoll." + ".".join(p.parent.relative_to(ROOT).parts) for folder in FOLDERS for p in sources(folder)}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found
    assert set(PYPROJECT["tool"]["setuptools"]["package-dir"]) == {f"atoll.{folder}" for folder in FOLDERS}


def test_mypy_follows_every_folder():
    assert {link.name for link in (ROOT / ".mypy_path/atoll").iterdir()} == set(FOLDERS)


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
        for command in ([sys.executable, "-m", "atoll.platform.cli", "methods"], [f"{sys.prefix}/bin/atoll", "methods"])
    }
    assert len(outputs) == 1


def test_a_wheel_works(tmp_path):
    """From the wheel: the command line, the migrations and the dashboard, without the source tree."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("atoll-*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    program = (
        f"import atoll.storage.store as s; assert s.__file__.startswith({str(site)!r}), s.__file__\n"
        "store = s.Store('sqlite:///x.db'); store.studies()\n"
        "from atoll.platform import benchmark; assert benchmark.load('tiny').name == 'tiny'\n"
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
