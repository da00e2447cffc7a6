"Every notebook runs from top to bottom; cells that take too long or lack their data are left out"
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(notebook, notebook_runs):
    code, text, seconds = notebook_runs.result(notebook)
    assert code == 0, f"{notebook.name} stopped after {seconds:.0f} s:\n{text[-6000:]}"
