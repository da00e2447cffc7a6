"""Every notebook runs from top to bottom, also in Jupyter without recordings, and its kept outputs are of the present code"""
import json
import re
import runpy
import zipfile

import kept
import nbformat
import pytest
import run_nbs
from conftest import ROOT, run_notebook
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from nbdev.config import get_config

from foleybook.core.sound_files import recordings

NOTEBOOKS, DEFINITIONS = sorted((ROOT / "nbs").rglob("[!_]*.ipynb")), kept.Definitions()
LARGEST_FIRST = sorted(NOTEBOOKS, key=lambda f: -f.stat().st_size)  # so that no worker ends with a long one


@pytest.mark.parametrize("notebook", LARGEST_FIRST, ids=lambda p: p.stem)
def test_notebook_runs(notebook):
    code, text = run_notebook(notebook)
    assert code == 0, f"{notebook.name} stopped:\n{text[-6000:]}"


# ---- Run All without recordings ----

def flags(cell):
    "The directives of a cell, such as `esc10`"
    return re.findall(r"^\s*#\s*\|\s*(\S+)\s*$", "".join(cell["source"]), re.M)


def with_recordings():
    "Notebooks that have cells flagged `esc10`"
    for notebook in NOTEBOOKS:
        cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
        if any("esc10" in flags(c) for c in cells):
            yield pytest.param(cells, id=notebook.stem)


@pytest.mark.parametrize("cells", list(with_recordings()))
def test_run_all_leaves_out_cells_that_need_recordings(cells, monkeypatch, tmp_path):
    """In Jupyter, without recordings: the cell that asks for them and all cells that need them, in a real kernel.

    The other cells run in `test_notebook_runs`; running them twice would double the time."""
    first = next(i for i, c in enumerate(cells) if "esc10" in flags(c))
    asks = [c for c in cells[:first] if re.search(r"\brecordings\(['\"]esc10['\"]\)", "".join(c["source"]))]
    assert asks, "a cell before the first one flagged esc10 has to call recordings('esc10')"
    needing = [c for c in cells if "esc10" in flags(c)]
    monkeypatch.delenv("FOLEYBOOK_DATA", raising=False)
    sources = ["from foleybook.core.sound_files import recordings\nrecordings('esc10')", *("".join(c["source"]) for c in needing),
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


# ---- outputs that no test remakes ----


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_kept_outputs_are_those_of_the_code(notebook):
    "See docs/kept.py: cells flagged `slow` or `cuda` keep what they showed when somebody last ran them"
    found = [f"cell {i}: {kept.state(cell, code)}" for i, cell, code in kept.kept(notebook, DEFINITIONS)
             if kept.state(cell, code)]
    assert not found, (f"{notebook.name}: {'; '.join(found)}. Run them again (python docs/run_nbs.py nbs/{notebook.name} "
                       "--flags slow), or say why they may stay (python docs/kept.py --excuse)")


SMALL = dict(
    module="class Gain:\n    'Louder'\n    def __init__(self, by): self.by = by  # times\ndef play(x): return x\n"
           "@patch\ndef up(self:Gain, x): return x * self.by\ndef other(): pass\n",
    cells=["a = 3\nb = 4", "gain = Gain(a)", "b = 5", "#| slow\nshown = play(gain.up(2))\nshown"])


def stamp_of(folder, module=SMALL["module"], cells=SMALL["cells"]):
    (folder / "small.py").write_text(module)
    nb = dict(cells=[dict(cell_type="code", source=s, metadata={}, outputs=["x"]) for s in cells])
    return kept.stamp(nb, len(cells) - 1, "small", kept.Definitions(folder))


@pytest.mark.parametrize("change", [("by  # times", "by  # factor"), ("'Louder'", "'Turn up'"), ("x * self.by", "(x*self.by)"),
                                    ("other(): pass", "other(): return 1")])
def test_a_stamp_survives_what_changes_no_result(tmp_path, change):
    assert stamp_of(tmp_path) == stamp_of(tmp_path, SMALL["module"].replace(*change))
    assert stamp_of(tmp_path) == stamp_of(tmp_path, cells=[*SMALL["cells"][:2], "b = 6", SMALL["cells"][3] + "  # sound"])


@pytest.mark.parametrize("change", [("return x\n", "return -x\n"), ("x * self.by", "x + self.by"), ("self.by = by", "self.by = 2")])
def test_a_stamp_sees_what_changes_a_result(tmp_path, change):
    assert stamp_of(tmp_path) != stamp_of(tmp_path, SMALL["module"].replace(*change))
    for i, text in [(0, "a = 4\nb = 4"), (1, "gain = Gain(-a)"), (3, "#| slow\nplay(gain.up(3))")]:
        assert stamp_of(tmp_path) != stamp_of(tmp_path, cells=[text if k == i else s for k, s in enumerate(SMALL["cells"])])


def test_an_excuse_holds_until_the_next_change():
    cell = dict(metadata=dict(kept=dict(code="a", made="2026-01-31", stale="only a message changed", stale_code="b")))
    assert [bool(kept.state(cell, code)) for code in "abc"] == [False, False, True]
    assert kept.state(dict(metadata={}), "a")


def test_running_a_slow_cell_stamps_it(tmp_path):
    cells = ["x = 2", "#| slow\nprint(x)", "#| slow\ny = x"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in cells])
    nbformat.write(book, tmp_path / "small.ipynb")
    run_nbs.run(tmp_path / "small.ipynb", {"slow"})
    assert not any("kept" in c.metadata for c in nbformat.read(tmp_path / "small.ipynb", 4).cells)
    run_nbs.run(tmp_path / "small.ipynb", set())
    done = nbformat.read(tmp_path / "small.ipynb", 4).cells
    assert ["kept" in c.metadata for c in done] == [False, True, False] and done[1].outputs[0]["text"] == "2\n"
    (_, cell, code), = kept.kept(tmp_path / "small.ipynb", DEFINITIONS)
    assert not kept.state(cell, code)
    clean_nb(book := dict(cells=[dict(c) for c in done], metadata={}), allowed_cell_metadata_keys=get_config(path=ROOT).allowed_cell_metadata_keys.split())
    assert "kept" in book["cells"][1]["metadata"]
