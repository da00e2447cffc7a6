"""Run notebooks with a real kernel and keep what they show; flagged cells are left as they are unless named by `--flags`

Cells that need recordings run where `FOLEYBOOK_DATA` holds them: kept outputs are of the recordings.

Cells flagged `slow` or `cuda` that were run get a note in their metadata of the code that made their outputs (kept.py).
"""
import os
from pathlib import Path

import nbformat
from fastcore.script import call_parse
from nbclient import NotebookClient
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives
from execnb.nbio import NbCell

from kept import FLAGS, Definitions, is_kept, mark, module_of, stamp


def _left_out(cell, flags):
    "Is this code cell one that a run must not execute?"
    found = extract_directives(NbCell(0, dict(cell_type="code", source=cell.source)), remove=False)
    return found.get("eval:", [""])[0].lower() == "false" or bool(flags & found.keys())


def run(path, flags):
    "Execute one notebook in place"
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    for c in code:
        if _left_out(c, flags):
            c.metadata["tags"] = c.metadata.get("tags", []) + ["skip-execution"]
    folder = str(Path(path).parent)
    patience = 300 if flags >= FLAGS else 6 * 3600  # s; cells that train may take hours
    NotebookClient(nb, timeout=patience, kernel_name="python3", resources={"metadata": {"path": folder}},
                   store_widget_state=True, record_timing=False).execute()
    for c in code:
        tags = [t for t in c.metadata.pop("tags", []) if t != "skip-execution"]
        if tags:
            c.metadata["tags"] = tags
    definitions, again = Definitions(), {id(c) for c in code if not _left_out(c, flags)}
    for i, c in enumerate(nb.cells):
        if id(c) in again:
            c.metadata.pop("kept", None)
            if is_kept(c):
                mark(c, stamp(nb, i, module_of(path), definitions))
    nbformat.write(nb, path)


@call_parse
def main(
    path: str = None,  # notebook or folder (default: all)
    flags: str = "",  # run cells with these flags as well, separated by blanks
):
    "Run notebooks in place, one after the other"
    cfg = get_config()
    os.environ["PYTHONPATH"] = str(cfg.config_path)
    data = os.environ.get("FOLEYBOOK_DATA")
    there = {p.name for p in Path(data).iterdir() if p.is_dir()} if data else set()
    flags = set(cfg.tst_flags.split()) - set(flags.split()) - there
    for fn in sorted(nbglob(path, as_path=True)):
        print(f"running {fn}", flush=True)
        run(fn, flags)
