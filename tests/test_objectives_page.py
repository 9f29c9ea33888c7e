"""The page on objectives is run as it is written: each file is made, each command typed."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import atoll

PAGE = (ROOT / "docs/objectives.md").read_text()


def test_every_block_is_python_or_yaml():
    for language, text in re.findall(r"```(\w+)[^\n]*\n(.*?)^```$", PAGE, re.M | re.S):
        if language == "python":
            compile(text, "docs/objectives.md", "exec")


@pytest.mark.long
@pytest.mark.mpi
def test_every_file_and_command_of_the_page_runs(tmp_path):
    for file, text in re.findall(r'```python title="(\w+\.py)"\n(.*?)^```$', PAGE, re.M | re.S):
        (tmp_path / file).write_text(text)
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(name: mine.*?)^```$", PAGE, re.M | re.S)[1])
    environment = os.environ | {"PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}
    commands = re.findall(r"^ {4}((?:atoll|python) .*)$", PAGE, re.M)
    assert len(commands) == 9
    printed = {}
    for command in (*commands, "atoll search mine.yaml"):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, shell=True, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        printed[command] = done.stdout
    assert "this reproduces the exported objective" in printed["atoll train best.yaml"]
    assert printed["python several.py"].startswith("complete {")
    assert 0.0 < float(printed["python loop.py"]) < 1.0
    with atoll.open(tmp_path / "atoll.db") as results:
        assert sorted(results.studies()["study"]) == ["ddp", "long", "loop", "mine", "objective", "several", "shell"]
        for name in ("ddp", "several"):  # on two ranks, and the communicators outlive what is pruned
            assert set(results.study(name).trials()["state"]) == {"complete", "pruned"}
