"""The notebooks of the examples run as they are."""

import os

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_stored_without_outputs_in_plain_ascii(notebook):
    text = notebook.read_text()
    assert '"execution_count": null' in text
    assert '"outputs": []' in text
    assert '"data": {' not in text


@pytest.mark.long
@pytest.mark.mpi
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_every_cell_of_a_notebook_runs(notebook, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="install the extra test")
    nbclient = pytest.importorskip("nbclient", reason="install the extra test")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    opened = nbformat.read(notebook, as_version=4)
    client = nbclient.NotebookClient(
        opened,
        timeout=180,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
        env=dict(os.environ),
    )
    client.execute()
    shown = [output for cell in opened.cells for output in cell.get("outputs", ())]
    figures = [one for one in shown if "application/vnd.plotly.v1+json" in one.get("data", {})]
    assert figures
    assert not [one for one in shown if one["output_type"] == "error"]
    if notebook.stem == "search":
        assert (tmp_path / "best.yaml").exists()
        assert "'complete'" in str([one["data"].get("text/plain") for one in shown if "data" in one])
