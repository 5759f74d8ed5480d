"""The notebook runs from top to bottom, in a folder of its own, with fewer epochs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("KLANN_NOTEBOOK_EPOCHS", "6")
    notebook = nbformat.read(path, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "clear the outputs before a commit"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "equal: True" in said
    assert "dB after the first second" in said
    assert "435 parameters" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert sum("text/html" in output.get("data", {}) for output in outputs) == 4, "sounds"


def test_there_is_one():
    assert NOTEBOOKS
