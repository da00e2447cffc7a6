"""What all tests share: tiers, chapters, groups for several workers, seeds, `cuda`.

    pytest                    every test (`make test-all`)
    pytest --tier test        all but those marked slow (`make test`)
    pytest --tier check       the quick ones (`make check`)
    pytest --chapter 03       one chapter: its notebook, its tests, its golden cases (`make chapter N=03`)

With `-n 2` one file of tests, or one notebook, is one piece of work for one worker.
"""
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
# librosa keeps machine code, too: two processes that fill its cache at once may leave it broken, and the next one dies of it
os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".pytest_cache" / f"numba_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}")

FIRST = ["test_export", "test_imports", "test_hygiene"]  # what fails soonest
QUICK = {*FIRST, "test_golden", "test_toy_family", "test_package"}  # files of `make check`
LONG = ["test_notebooks", "test_resume", "test_docs"]  # begin with these where several work
RUN_NOTEBOOK = """
import sys
from pathlib import Path
from nbdev.test import test_nb
file, root, *skip = sys.argv[1:]
sys.exit(not test_nb(Path(file), skip_flags=skip, basepath=root)[0])
"""

if threading.current_thread() is threading.main_thread():  # a shell starts its background jobs with Ctrl-C ignored, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)



def pytest_addoption(parser):
    parser.addoption("--tier", choices=["check", "test", "all"], default="all", help="check: the quick tests; test: all but slow")
    parser.addoption("--chapter", help="number of a chapter: its notebook, its tests, its golden cases")


def has_gpu():
    "Is there a device for tests marked `cuda`?"
    import torch

    return torch.cuda.is_available()


def flags_left_out():
    "Flags of notebook cells that cannot run here or take too long"
    from nbdev.config import get_config

    data = os.environ.get("FOLEYBOOK_DATA")
    possible = {**{name: data and (Path(data) / name).is_dir() for name in ("esc10", "fsdd")}, "cuda": has_gpu()}
    return [f for f in get_config(path=ROOT).tst_flags.split() if not possible.get(f)]


def run_notebook(file, timeout=600):
    "(exit code, what was printed) of a notebook that runs in a process of its own, from top to bottom"
    command = [sys.executable, "-c", RUN_NOTEBOOK, str(file), str(ROOT), *flags_left_out()]
    done = subprocess.run(command, cwd=file.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=timeout)
    return done.returncode, done.stdout


def module_of(notebook):
    "The module that a notebook exports: `kernels.log_mel`"
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    found = (re.search(r"^#\s*\|\s*default_exp\s+(\S+)", "".join(c["source"]), re.M) for c in cells)
    return next((m[1] for m in found if m), "")


def of_chapter(item, number):
    "Is this a test of the chapter, its notebook, or one of its golden cases?"
    from golden_kinds import CHECKS

    notebook = next((ROOT / "nbs").glob(f"{number}_*.ipynb"), None)
    if notebook is None:
        raise pytest.UsageError(f"--chapter {number}: no such chapter. Give a number from 00 to 12.")
    name, params = notebook.stem[3:], getattr(item, "callspec", None)
    if item.path.stem == "test_golden" and params:
        check = CHECKS.get(params.params["meta"]["kind"])
        return check is not None and check.__module__.endswith(f".{name}")
    if params and "notebook" in params.params:
        return Path(params.params["notebook"]) == notebook
    return item.path.stem == f"test_{name}"


def piece_of(nodeid):
    "The piece of work that a test belongs to: a notebook, a fault, or a file"
    file, _, test = nodeid.partition("::")
    return nodeid if test.startswith(("test_notebook_runs[", "test_survives[")) else file


def pytest_xdist_make_scheduler(config, log):
    "Pieces go to workers in the order of the collection, each whole"
    from xdist.scheduler import LoadScopeScheduling

    class Pieces(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return piece_of(nodeid)

    config.option.loadscopereorder = False
    return Pieces(config, log)


def pytest_collection_modifyitems(config, items):
    "Tier or chapter; quick checks of the whole first, or long files where several work; no `cuda` without a GPU"
    tier, chapter = config.getoption("--tier"), config.getoption("--chapter")
    keep = [i for i in items if (not chapter or of_chapter(i, chapter))
            and (tier == "all" or not i.get_closest_marker("slow")) and (tier != "check" or i.path.stem in QUICK)]
    if len(keep) < len(items):
        config.hook.pytest_deselected(items=[i for i in items if i not in {*keep}])
    several = "PYTEST_XDIST_WORKER" in os.environ
    first = LONG if several else FIRST
    keep.sort(key=lambda i: first.index(i.path.stem) if i.path.stem in first else len(first))
    items[:] = keep
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no GPU that CUDA can use"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    "Every test draws the same numbers, alone or among others"
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
