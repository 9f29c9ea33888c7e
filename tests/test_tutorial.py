"""The tutorial is run as it is written: each file is made, each command typed, in its order."""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs/tutorial.md").read_text()
NOT_RUN = {  # .ci/run does this with the README's command
    "python -m venv ~/atoll-venv && . ~/atoll-venv/bin/activate",
    'python -m pip install -c constraints.txt -e ".[search]"',
    "mkdir -p ~/digits && cd ~/digits",
}
COMMAND = re.compile(r"^ {4}(\S.*)$", re.M)


def steps():
    """(file, text) to write and (None, command) to type, in the page's order; other fenced blocks are outputs."""
    for part in re.split(r"(^```.*?^```$)", PAGE, flags=re.M | re.S):
        if titled := re.match(r'```\w+ title="([\w.]+)"\n(.*?)^```$', part, re.M | re.S):
            yield titled[1], titled[2]
        elif not part.startswith("```"):
            yield from ((None, command) for command in COMMAND.findall(part))


def show_dashboard(command, cwd, environment):
    """The dashboard's first page; on a free port, and ended afterwards."""
    words = command.replace("--port 8050", "--port 0").split()
    serving = subprocess.Popen([*words, "--json"], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://[\d.]+:\d+\S*?(?=\")", serving.stdout.readline())[0]
        assert "?token=" in address
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(address, timeout=60) as answer:
            assert answer.status == 200
    finally:
        serving.terminate()
        serving.communicate(timeout=30)


@pytest.mark.long
@pytest.mark.mpi
def test_every_block_of_the_tutorial_runs(tmp_path):
    environment = os.environ | {"PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}
    typed, printed = [], {}
    for file, text in steps():
        if file is not None:
            (tmp_path / file).write_text(text)
        elif text not in NOT_RUN:
            if "--resume" in text:
                assert "Change `trials: 12` to `trials: 16`" in PAGE
                study = tmp_path / "study.yaml"
                study.write_text(study.read_text().replace("trials: 12", "trials: 16"))
            if "dashboard" in text:
                show_dashboard(text, tmp_path, environment)
            else:
                done = subprocess.run(
                    text, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
                )
                assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
                printed[text] = done.stdout
            typed.append(text.partition(" ")[0])
    assert typed.count("atoll") == 12
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + 12
    assert "16 complete" in printed["atoll search study.yaml --resume"]
    assert "reproduces the exported objective" in printed["atoll train best.yaml --test"]
    assert {path.name for path in (tmp_path / "best-model").iterdir()} == {
        "configuration.yaml",
        "load.py",
        "weights.safetensors",
    }
    without_atoll = "import runpy, sys; sys.modules['atoll'] = None; runpy.run_path('use.py')"
    for said in (
        printed["python use.py"],
        subprocess.run(
            [sys.executable, "-c", without_atoll], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout,
    ):
        assert float(said.split("%")[0]) > 90  # of ten digits; the best of 16 trials has 0.97 of the validation data


def test_the_blocks_that_are_not_run_are_there_and_code_compiles():
    assert {command for _, command in steps()} >= NOT_RUN
    files = dict(step for step in steps() if step[0] is not None)
    assert list(files) == ["net.py", "work.py", "study.yaml", "use.py"]
    for name, text in files.items():
        if name.endswith(".py"):
            compile(text, str(Path(name)), "exec")
    assert "import atoll" not in files["net.py"]
