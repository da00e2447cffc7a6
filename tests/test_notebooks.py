"Every notebook runs from top to bottom; cells that take too long or lack their data are left out"
import json
import re
import runpy
import zipfile

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

from foleybook.audio_features import recordings

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(notebook, notebook_runs):
    code, text, seconds = notebook_runs.result(notebook)
    assert code == 0, f"{notebook.name} stopped after {seconds:.0f} s:\n{text[-6000:]}"


# ---- Run All without recordings ----

UNGUARDED = {"01_sound_data", "03_vocoders", "05_pixelsnail", "12_evaluation"}  # do not ask for recordings yet


def flags(cell):
    "The directives of a cell, such as `esc10`"
    return re.findall(r"^\s*#\s*\|\s*(\S+)\s*$", "".join(cell["source"]), re.M)


def with_recordings():
    "Notebooks that have cells flagged `esc10`"
    for notebook in NOTEBOOKS:
        cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
        if any("esc10" in flags(c) for c in cells):
            late = pytest.mark.xfail(notebook.stem in UNGUARDED, reason="the notebook does not call recordings yet", strict=True)
            yield pytest.param(cells, id=notebook.stem, marks=late)


@pytest.mark.parametrize("cells", list(with_recordings()))
def test_run_all_leaves_out_cells_that_need_recordings(cells, monkeypatch, tmp_path):
    """In Jupyter, without recordings: the cell that asks for them and all cells that need them, in a real kernel.

    The other cells run in `test_notebook_runs`; running them twice would double the time."""
    first = next(i for i, c in enumerate(cells) if "esc10" in flags(c))
    asks = [c for c in cells[:first] if re.search(r"\brecordings\(['\"]esc10['\"]\)", "".join(c["source"]))]
    assert asks, "a cell before the first one flagged esc10 has to call recordings('esc10')"
    needing = [c for c in cells if "esc10" in flags(c)]
    monkeypatch.delenv("FOLEYBOOK_DATA", raising=False)
    sources = ["from foleybook.audio_features import recordings\nrecordings('esc10')", *("".join(c["source"]) for c in needing),
               "print('went on')"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    NotebookClient(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = ["".join(o.get("text", "") for o in c.outputs) for c in book.cells]
    assert all("data_scripts/esc10.py" in text and "FOLEYBOOK_DATA" in text for text in said[1:-1]), said
    assert said[-1] == "went on\n"


def test_the_way_to_the_recordings_is_right(tmp_path, monkeypatch):
    "What `recordings` tells people to do gives the folder that it looks for"
    monkeypatch.syspath_prepend(str(ROOT / "data_scripts"))
    import _fetch

    with zipfile.ZipFile(tmp_path / "ESC-10.zip", "w") as z:
        z.writestr("ESC-10-553c8f/001 - Dog bark/1-32318-A.ogg", b"")
    monkeypatch.setattr(_fetch, "download", lambda *args, **kwargs: tmp_path / "ESC-10.zip")
    with pytest.raises(SystemExit) as end:
        monkeypatch.setattr("sys.argv", ["esc10.py", "--to", str(tmp_path / "esc10")])
        runpy.run_path(str(ROOT / "data_scripts" / "esc10.py"), run_name="__main__")
    monkeypatch.setenv("FOLEYBOOK_DATA", str(tmp_path))
    assert end.value.code == 0 and (recordings("esc10") / "001 - Dog bark" / "1-32318-A.ogg").exists()
