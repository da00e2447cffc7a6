"What is declared is what is imported, in three circles; the wheel works where nothing else of the project is"
import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "foleybook"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {"tensorboard", "wandb", "av", "torchvision", "transformers", "datasets", "dask", "ray", "aisfx", "distributed"}


def bare(requirement):
    "Name of a requirement, as package indexes compare them"
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def declared(*extras):
    "Names that the first circle and some extras declare, those that they include among them"
    found = {bare(r) for r in PROJECT["dependencies"]}
    for extra in extras:
        for r in PROJECT["optional-dependencies"][extra]:
            inner = re.match(r"foleybook\[(.+)\]", r)
            found |= declared(*inner[1].split(",")) if inner else {bare(r)}
    return found


def imported(source):
    "Top names of the libraries that a text imports anywhere"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@cache
def libraries():
    "Library -> modules of the package that import it"
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for name in imported(path.read_text()):
            if name not in sys.stdlib_module_names and name != "foleybook":
                found.setdefault(name, set()).add(path.stem)
    return found


@cache
def installed():
    "Library -> distributions that bring it; asking is slow"
    return packages_distributions()


def distributions(name):
    "What has to be installed for a library to be imported"
    return {d.lower().replace("_", "-") for d in installed().get(name, [name])}


def test_everything_imported_is_declared():
    known = declared("train", "book", "export", "log", "video", "dask", "text", "arrow", "eval") | OPTIONAL
    missing = {name: sorted(at) for name, at in libraries().items() if not distributions(name) & known}
    assert not missing


@pytest.mark.parametrize("circle", ["core", "train"])
def test_everything_declared_is_imported(circle):
    "The third circle holds tools that are run, not imported"
    names = {bare(r) for r in (PROJECT["dependencies"] if circle == "core" else PROJECT["optional-dependencies"][circle])}
    used = {d for name in libraries() for d in distributions(name)}
    assert not names - used, "declared, but nothing imports it"


def test_no_tool_of_the_book_is_imported():
    assert not {"nbdev", "execnb", "ghapi", "jupyterlab"} & set(libraries())


def test_notice_names_everybody():
    done = subprocess.run([sys.executable, ROOT / "docs" / "notice.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_licence_covers_what_ships():
    "Code, weights and recordings: every licence of a shipped clip stands in the expression of the wheel"
    assert PROJECT["license"] == "Apache-2.0 AND CC-BY-3.0 AND CC0-1.0" and {"LICENSE", "NOTICE"} <= set(PROJECT["license-files"])
    kinds = {line.split(", ")[-2] for line in (ROOT / "NOTICE").read_text().splitlines() if "http://www.freesound" in line}
    assert kinds <= {"CC0", "CC-BY"}


def test_versions_agree():
    "What a tag is put on: one version in four files, the newest heading of the changes has it, and the day of both is one"
    import foleybook

    text = {name: (ROOT / name).read_text() for name in ("settings.ini", "CITATION.cff", "CHANGELOG.md")}
    version, date = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", text["CHANGELOG.md"], re.M).groups()
    assert re.search(r"^## .*$", text["CHANGELOG.md"], re.M)[0] == f"## {version} ({date})", "the newest heading has no day"
    assert version == foleybook.__version__ == re.search(r"^version = (\S+)$", text["settings.ini"], re.M)[1]
    assert f"version: {version}\ndate-released: {date}\n" in text["CITATION.cff"]
    assert "version" in PROJECT["dynamic"]  # pyproject.toml takes it from the package


SMOKE = """
import os, sys
import foleybook as fb
assert 'site-packages' in fb.__file__, fb.__file__
model = fb.load('foley')
sounds = model.sample('dog_bark', n=2, seed=1, seconds=1., steps=4, progress=False)
assert sounds.audio.shape == (2, 1, 44100) and sounds.audio.abs().max() > .01
heavy = [m for m in ('fastai', 'pandas', 'sklearn', 'librosa', 'matplotlib', 'nbdev') if m in sys.modules]
assert not heavy, heavy
"""


@pytest.mark.slow
def test_the_wheel_works_alone(tmp_path):
    "Built, installed into an empty environment with the first circle only, used away from the checkout"
    def run(*command, **more):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=tmp_path, **more)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    wheel, = (tmp_path / "dist").glob("*.whl")
    assert wheel.stat().st_size < 30e6
    run(sys.executable, "-m", "venv", "env")
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FOLEYBOOK_DATA", "NUMBA_CACHE_DIR")}
    run("env/bin/python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, env=env)
    run("env/bin/python", "-c", SMOKE, env=env)
    run("env/bin/foleybook", "sample", "foley", "--class", "dog_bark", "--per-class", "2", "--out", "out", "--quiet", env=env)
    assert len(list((tmp_path / "out").glob("*.wav"))) == 2
    run("env/bin/foleybook", "gallery", "out", env=env)
    assert (tmp_path / "out" / "index.html").read_text().count("<audio") == 2
    run("env/bin/foleybook", "play", "rain", "--seconds", "1", "--out", "rain.wav", env=env)
    assert (tmp_path / "rain.wav").stat().st_size > 30_000
    run("env/bin/foleybook", "demo", "--quiet", env=env)
