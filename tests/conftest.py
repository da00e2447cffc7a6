"""What all checks share: their order, `cuda`, and the notebooks that run beside the other tests.

`pytest` is `make test` without the set-up; `-k`, `-x` and paths work as everywhere. Notebooks run in processes of their
own: one beside the tests from the start, a second one when only notebooks are left, so that two cores stay busy.
"""
import os
import queue
import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

FIRST, LAST = ["test_export", "test_imports", "test_hygiene"], ["test_notebooks"]
RUN_NOTEBOOK = """
import sys
from pathlib import Path
from nbdev.test import test_nb
file, root, *skip = sys.argv[1:]
sys.exit(not test_nb(Path(file), skip_flags=skip, basepath=root)[0])
"""


def has_gpu():
    "Is there a device for tests marked `cuda`?"
    import torch

    return torch.cuda.is_available()


class NotebookRuns:
    "Runs notebooks in other processes, the largest first; `result` waits for one"

    def __init__(self, files, skip):
        self.skip, self.todo, self.results, self.running, self.workers = skip, queue.SimpleQueue(), {}, set(), 0
        self.done = {file: threading.Event() for file in files}
        self.environment = dict(os.environ)  # as it is now: tests change it for a moment
        for file in sorted(files, key=lambda f: -f.stat().st_size):
            self.todo.put(file)

    def start(self, workers):
        "From here on, so many notebooks at a time"
        for k in range(self.workers, workers):
            threading.Thread(target=self.work, args=[k], daemon=True).start()
        self.workers = workers

    def work(self, number):
        # librosa keeps machine code, too: two processes that fill its cache at once may leave it broken, and the next one dies of it
        environment = self.environment | dict(NUMBA_CACHE_DIR=str(ROOT / f".pytest_cache/numba_{number}"))
        while True:
            try:
                file = self.todo.get_nowait()
            except queue.Empty:
                return
            start, command = time.time(), [sys.executable, "-c", RUN_NOTEBOOK, str(file), str(ROOT), *self.skip]
            with subprocess.Popen(command, cwd=file.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  errors="replace", env=environment) as process:
                self.running.add(process)
                text = process.communicate()[0]
            self.running.discard(process)
            self.results[file] = process.returncode, text, time.time() - start
            self.done[file].set()

    def result(self, file):
        "(exit code, what was printed, seconds)"
        self.done[file].wait()
        return self.results[file]

    def stop(self):
        "Begin no more, end those that run"
        with suppress(queue.Empty):
            while True:
                self.todo.get_nowait()
        for process in [*self.running]:
            process.kill()


def flags_left_out():
    "Flags of notebook cells that cannot run here or take too long"
    from nbdev.config import get_config

    data = os.environ.get("FOLEYBOOK_DATA")
    possible = {**{name: data and (Path(data) / name).is_dir() for name in ("esc10", "fsdd")}, "cuda": has_gpu()}
    return [f for f in get_config(path=ROOT).tst_flags.split() if not possible.get(f)]


def pytest_collection_modifyitems(items):
    "Quick checks of the whole first, notebooks last; no `cuda` without a GPU"
    place = {name: i - len(FIRST) for i, name in enumerate(FIRST)} | {name: 1 + i for i, name in enumerate(LAST)}
    items.sort(key=lambda item: place.get(item.path.stem, 0))
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


def pytest_runtestloop(session):
    "The notebooks that were asked for start with the first test, where there is a core for them"
    files = [item.callspec.params["notebook"] for item in session.items if "notebook_runs" in item.fixturenames]
    if session.config.option.collectonly or not files:
        return
    session.config.notebook_runs = NotebookRuns(files, flags_left_out())
    if (os.cpu_count() or 1) > 1:
        session.config.notebook_runs.start(workers=1)


@pytest.fixture(scope="session")
def notebook_runs(request):
    "The runs, two at a time now that the tests only wait"
    request.config.notebook_runs.start(workers=2)
    return request.config.notebook_runs


def pytest_sessionfinish(session):
    if hasattr(session.config, "notebook_runs"):
        session.config.notebook_runs.stop()


def pytest_terminal_summary(terminalreporter, config):
    runs = getattr(config, "notebook_runs", None)
    if runs and runs.results:
        times = ", ".join(f"{f.stem} {seconds:.0f} s" for f, (_, _, seconds) in sorted(runs.results.items()))
        terminalreporter.write_line(f"notebooks: {times}; left out: cells flagged {', '.join(runs.skip) or 'nothing'}")
