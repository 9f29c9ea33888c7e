"""What a study's trials depend on is recorded, without reading gigabytes, and each difference has its words."""

import os
import subprocess
import sys
import time

import own_code
import pytest

from atoll.platform.study import provenance, provenance_record, registry
from atoll.platform.study.plan import Plan
from atoll.platform.study.provenance_record import DataFiles, Measured, Provenance
from atoll.platform.study.study import Study
from atoll.storage import yamlfile


@pytest.fixture
def folder(tmp_path, monkeypatch):
    own_code.write(tmp_path, monkeypatch)
    return tmp_path


def record(folder):
    return provenance.of(Plan.of(yamlfile.load(folder / "s.yaml", Study)))


def test_code_data_libraries_and_the_resolved_search_are_recorded(folder):
    found = record(folder)
    assert {os.path.relpath(path, folder) for path in found.measured.code} == {"w.py", "helper.py"}
    assert list(found.measured.data) == ["x.txt"]
    assert (found.measured.data["x.txt"].size, len(found.measured.data["x.txt"].sha256)) == (4, 64)
    assert set(found.measured.libraries) == {"atoll", "torch", "numpy"}
    assert {"Python", "optuna", "mpi4py"} <= set(found.environment)
    ranges = {one["name"]: one["domain"] for one in found.space["parameters"]}
    assert ranges["learning_rate"] == "0.001 to 1, log"
    assert found.space["fixed"] == {"batch_size": 8, "wire": "float32", "optimizer": "sgd"}
    assert [one["name"] for one in found.samplers] == ["random"]
    assert [(one["name"], one["direction"]) for one in found.objectives] == [("accuracy", "maximize")]
    assert Provenance.model_validate(found.model_dump()) == found


@pytest.mark.parametrize(("workload", "library"), [("ett_autoformer", "transformers"), ("timit_mlp", "soundfile")])
def test_libraries_that_a_workload_imports_only_when_it_needs_them(workload, library, monkeypatch):
    monkeypatch.setattr(provenance, "_data_paths", lambda *_: [])
    assert library in provenance.measured(workload, "ddp", None).libraries


def test_the_code_of_a_plugin_is_its_module_with_its_packages(folder, monkeypatch):
    (folder / "own_plugin/deep").mkdir(parents=True)
    for name, text in {"__init__": "", "deep/__init__": "", "deep/x": "", "y": ""}.items():
        (folder / f"own_plugin/{name}.py").write_text(text)
    (folder / "own_plugin/deep/w.py").write_text(own_code.WORKLOAD + "\nfrom . import x\n")
    monkeypatch.setattr(registry, "_entry_points", lambda kind: {"mine": "own_plugin.deep.w:Mine"})
    for name in ("own_plugin", "own_plugin.deep", "own_plugin.deep.w", "own_plugin.deep.x"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    own_code.write_study(folder, workload="mine")
    found = {os.path.relpath(path, folder) for path in record(folder).measured.code}
    package = {f"own_plugin/{name}.py" for name in ("__init__", "deep/__init__", "deep/w", "deep/x")}
    assert found == {"helper.py", *package}


def test_a_librarys_package_may_have_another_name(folder):
    (folder / "helper.py").write_text("import sklearn\nSHIFT = 0.1\n")
    assert "scikit-learn" in record(folder).measured.libraries


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda f: (f / "helper.py").write_text("SHIFT = 0.2\n"), "helper.py changed (sha256 "),
        (lambda f: (f / "w.py").write_text("import further\n" + own_code.WORKLOAD), "w.py changed (sha256 "),
        (lambda f: (f / "data/x.txt").write_text("0.6\n"), "data x.txt changed (sha256 "),
        (lambda f: (f / "data/x.txt").write_text("0.65\n"), "data x.txt changed (4 → 5 bytes)"),
        (lambda f: os.utime(f / "data/x.txt", (1, 1)), None),
        (lambda f: os.utime(f / "w.py", (1, 1)), None),
        (lambda f: (f / "unused.py").write_text("x = 1\n"), None),
    ],
)
def test_a_difference_is_told_by_name(folder, change, phrase):
    before = record(folder)
    change(folder)
    phrases = provenance_record.differences(before, record(folder)).measured
    assert len(phrases) == (phrase is not None)
    assert phrase is None or phrases[0].startswith(phrase)


def test_large_data_are_compared_by_size_and_time(folder, monkeypatch):
    monkeypatch.setattr(provenance, "MAX_HASHED", 3)
    before = record(folder)
    assert before.measured.data["x.txt"].sha256 is None
    assert not provenance_record.differences(before, record(folder))
    os.utime(folder / "data/x.txt", (1, 1))
    (phrase,) = provenance_record.differences(before, record(folder)).measured
    assert phrase.startswith("data x.txt may have changed (written ")
    assert phrase.endswith("it is too large to compare by hash)")


def test_the_folder_that_a_study_names_counts_if_the_workload_names_no_files(folder):
    text = own_code.WORKLOAD.replace("find_file(", "(lambda name, folder, _: folder / name)(")
    (folder / "v.py").write_text(text)
    own_code.write_study(folder, workload="v.py:Mine")
    before = record(folder)
    assert [files.num_files for files in before.measured.data.values()] == [1]
    (folder / "data/y.txt").write_text("")
    (phrase,) = provenance_record.differences(before, record(folder)).measured
    assert phrase == f"data {folder / 'data'} changed (1 → 2 files)"


def test_a_folder_of_many_files_is_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "MAX_DATA_FILES", 5)
    (tmp_path / "a").mkdir()
    for number in range(4):
        (tmp_path / "a" / str(number)).write_text("")
        (tmp_path / str(number)).write_text("12")
    (files,) = provenance._data([tmp_path], None).values()
    assert (files.num_files, files.size) == (5, 8)  # those at the top first


def test_what_lies_in_a_data_folder_by_itself_does_not_count(folder):
    data = folder / "data"
    with (folder / "w.py").open("a") as file:
        file.write("\n    def data_files(self, folder):\n        return [folder]\n")
    before = record(folder).measured.data
    (data / ".DS_Store").write_text("x")
    (data / ".cache").mkdir()
    (data / ".cache" / "x").write_text("x")
    (data / "Thumbs.db").write_text("x")
    (data / "loop").symlink_to("loop")
    (data / "gone").symlink_to("nowhere")
    assert record(folder).measured.data == before
    (data / "y.txt").write_text("y")
    assert record(folder).measured.data != before


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("['missing.bin']", "missing.bin does not exist"),
        ("['/dev/null']", "/dev/null does not exist, or is another kind of file"),
        ("3", "TypeError: 'int' object is not iterable"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("exit(4)", "SystemExit: 4"),
    ],
)
def test_data_files_that_name_no_files_are_told(folder, returned, why):
    with (folder / "w.py").open("a") as file:
        file.write(f"\n    def data_files(self, folder):\n        return {returned}\n")
    with pytest.raises(ValueError, match=f"data_files of .*w.py:Mine must return the paths of files .*: {why}"):
        record(folder)


def test_data_may_be_elsewhere(folder, monkeypatch):
    own_code.write_study(folder, data=None)
    before = None
    for place in ("one", "two"):
        (folder / place).mkdir()
        (folder / place / "x.txt").write_text("0.5\n")
        monkeypatch.setenv("ATOLL_DATA", str(folder / place))
        before, now = record(folder), before or record(folder)
        assert not provenance_record.differences(now, before)


@pytest.mark.parametrize(
    ("before", "now", "phrases"),
    [
        ({"libraries": {"torch": "2.12.0"}}, {"libraries": {"torch": "2.13.0"}}, ["torch 2.12.0 → 2.13.0"]),
        ({"libraries": {"a": "1"}}, {"libraries": {"b": "1"}}, ["a is no longer used", "b is new"]),
        ({"code": {"/x/w.py": "0"}}, {"code": {}}, ["w.py is no longer used"]),
        (
            {"atoll_source": "0" * 64},
            {"atoll_source": "1" * 64},
            ["atoll's own source changed (sha256 00000000… → 11111111…)"],
        ),
        (
            {"atoll_source": "0" * 64, "libraries": {"atoll": "1"}},
            {"atoll_source": "1" * 64, "libraries": {"atoll": "2"}},
            ["atoll 1 → 2"],
        ),
        (
            {"data": {"d": DataFiles(size=1, modified=0.0, num_files=2, listing="0")}},
            {"data": {"d": DataFiles(size=1, modified=0.0, num_files=2, listing="1")}},
            ["data d changed (files have other names or sizes)"],
        ),
    ],
)
def test_what_differs_in_words(before, now, phrases):
    assert provenance_record.measured_differences(Measured(**before), Measured(**now)) == phrases


def test_a_changed_search_space_is_told_and_other_words_for_a_range_are_not():
    def space(*, high=1.0, default=0.1, source="table 1", constraints=(), fixed=()):
        domain, distribution = f"0 to {high}", f'{{"high": {high}}}'
        one = {"name": "lr", "domain": domain, "distribution": distribution, "default": default, "source": source}
        one |= {"at_most": None, "only_if": None}
        content = {"parameters": [one], "constraints": list(constraints), "fixed": dict(fixed)}
        return Provenance(measured=Measured(), space=content)

    def told(**changes):
        return provenance_record.differences(space(), space(**changes)).measured

    assert told(high=2.0) == ["the search space's lr: 0 to 1.0 → 0 to 2.0"]
    assert told(default=0.2) == ["the search space's lr: default 0.1 → 0.2"]
    assert told(source="table 2") == []
    assert told(constraints=["a <= b"]) == ["the constraint a <= b is new"]
    assert told(fixed={"b": 1}) == ["the fixed b is new"]


def test_versions_of_what_does_not_measure_are_told_apart():
    before, now = (Provenance(measured=Measured(), environment={"Python": v, v: "1"}) for v in ("3.11", "3.12"))
    found = provenance_record.differences(before, now)
    assert (found.measured, found.others) == ([], ["Python 3.11 → 3.12"])


@pytest.mark.process
def test_the_commit_and_what_differs_from_it_are_recorded(folder):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=folder, check=True)

    git("init", "-q")
    git("add", "w.py", "s.yaml")
    git("commit", "-q", "-m", "m")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout.strip()
    (repository,) = record(folder).repositories.values()
    assert (repository.commit, repository.changed) == (head, ["helper.py"])  # which is not tracked
    git("add", "helper.py")
    git("commit", "-q", "-m", "m")
    (repository,) = record(folder).repositories.values()
    assert repository.changed == []
    os.utime(folder / "w.py")
    with (folder / "s.yaml").open("a") as file:
        file.write("\n")
    (repository,) = record(folder).repositories.values()
    assert repository.changed == ["s.yaml"]


@pytest.mark.slow
def test_recording_is_quick(folder):
    """50 ms in a process that has loaded the study; twenty times that, as the machine is shared."""
    plan = Plan.of(yamlfile.load(folder / "s.yaml", Study))
    started = time.perf_counter()
    provenance.of(plan)
    assert time.perf_counter() - started < 1.0
