"The package is what the notebooks export, and the notebooks are clean"
import json
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def copy(root, to, only=""):
    "What nbdev reads and writes, or one notebook and its module"
    def left_out(folder, names):
        others = [n for n in names if only and Path(n).suffix in (".ipynb", ".py") and Path(n).stem not in (only, "__init__")]
        return {*others, "__pycache__", ".ipynb_checkpoints"}

    for name in ("nbs", "foleybook"):
        shutil.copytree(root / name, to / name, ignore=left_out)
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(root / name, to)
    return to


def changed_by(command, root, tmp, pattern):
    "Names of the files that an nbdev command, run on a copy, writes otherwise than they are"
    done = subprocess.run([command], cwd=copy(root, tmp), capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=str(tmp)))
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = ({str(p.relative_to(top)): p.read_bytes() for p in top.glob(pattern)} for top in (root, tmp))
    assert ours, f"no {pattern} in {root}"
    return [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def test_export_is_current(tmp_path):
    assert not changed_by("nbdev_export", ROOT, tmp_path, "foleybook/**/*.py"), "run nbdev_export"


def test_notebooks_are_clean(tmp_path):
    assert not changed_by("nbdev_clean", ROOT, tmp_path, "nbs/**/*.ipynb"), "run nbdev_clean"


def test_differences_are_seen(tmp_path):
    "The two checks above can fail: a line written into a module, metadata left in a notebook"
    (tmp_path / "a").mkdir()
    worse = copy(ROOT, tmp_path / "a", only="files")
    with open(worse / "foleybook" / "core" / "files.py", "a") as f:
        f.write("by_hand = 1\n")
    book = json.loads((worse / "nbs" / "core" / "files.ipynb").read_text())
    book["cells"][-1]["metadata"]["collapsed"] = True
    (worse / "nbs" / "core" / "files.ipynb").write_text(json.dumps(book))
    assert changed_by("nbdev_export", worse, tmp_path / "b", "foleybook/core/*.py") == ["foleybook/core/files.py"]
    assert changed_by("nbdev_clean", worse, tmp_path / "c", "nbs/**/*.ipynb") == ["nbs/core/files.ipynb"]
