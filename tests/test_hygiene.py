"House rules that one would otherwise check by eye: sizes, docstrings, docments, words, the README, imports"
import ast
import importlib
import inspect
import io
import json
import os
import random
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted((ROOT / "foleybook").glob("[!_]*.py"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)

MOST_BYTES, MOST_LINES, MOST_COLUMNS, MOST_IMAGE_BYTES = 600_000, 60, 100, 150_000

# Words that mean "not done", and paths of one machine; put together so that this file does not hold them itself
FORBIDDEN = ["Not" + "ImplementedError", "TO" + "DO", "FIX" + "ME", "../" + "shared", "/wo" + "rk/"]
ALLOWED = {".ci/run": {"../" + "shared"}}
TEXT = {".py", ".ipynb", ".md", ".ini", ".toml", ".txt", ".yml", ".css", ".js", ".json", ".sh", ""}
BUILT = {".git", ".venv", "_proc", "_site", "_src", "__pycache__", "runs", "out", "data", "build", ".pytest_cache",
         ".hypothesis", ".ipynb_checkpoints", "foleybook.egg-info"}


def our_files():
    "Every text file of the project, without what was built or installed"
    for top, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in BUILT]
        yield from (p for p in (Path(top) / n for n in names) if p.suffix in TEXT and p.name not in BUILT)


def sources(path):
    "(place, text) of what people wrote in a file: cells of a notebook without their outputs, or the whole text"
    if path.suffix != ".ipynb":
        return [(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8", errors="replace"))]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(f"{path.relative_to(ROOT)} cell {i}", "".join(c["source"])) for i, c in enumerate(cells)]


@each_notebook
def test_notebook_is_small(notebook):
    assert notebook.stat().st_size <= MOST_BYTES, "too large: players as MP3, pictures as JPEG, fewer of both"


@each_notebook
def test_cells_are_short(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    lines = {i: "".join(c["source"]).count("\n") + 1 for i, c in enumerate(cells) if c["cell_type"] == "code"}
    long = {f"cell {i}": n for i, n in lines.items() if n > MOST_LINES}
    assert not long, f"code cells of more than {MOST_LINES} lines: split them, or build the class up with @patch"


@each_notebook
def test_code_lines_fit_the_page(notebook):
    "The site cuts what is longer"
    cells = json.loads(notebook.read_text())["cells"]
    code = {i: "".join(c["source"]).split("\n") for i, c in enumerate(cells) if c["cell_type"] == "code"}
    assert not [f"cell {i}: {line}" for i, lines in code.items() for line in lines if len(line) > MOST_COLUMNS]


@each_notebook
def test_notebook_keeps_no_error(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    assert not [i for i, c in enumerate(cells) for o in c.get("outputs", []) if o["output_type"] == "error"]


def test_no_notebook_rewrites_the_package():
    "`Run All` of a reader changes nothing but the notebook; maintainers call nbdev_export"
    assert not [place for n in NOTEBOOKS for place, text in sources(n) if "nbdev_export(" in text]


def test_formulas_stand_alone():
    "`$$` within a paragraph, without blank lines around the formula, is shown as dollar signs"
    stray = []
    for n in NOTEBOOKS:
        for cell in json.loads(n.read_text())["cells"]:
            text = re.sub(r"```.*?```|`[^`\n]*`", "", "".join(cell["source"]), flags=re.S)
            blocks = re.split(r"\n\s*\n", text) if cell["cell_type"] == "markdown" else []
            stray += [f"{n.stem}: {b[:60]}" for b in map(str.strip, blocks)
                      if "$$" in b and not (b.startswith("$$") and b.endswith("$$") and b.count("$$") == 2)]
    assert not stray


def test_kept_outputs_are_of_the_recording():
    "Chapter 00 says that its running example is a barking dog; run without recordings it is a struck bell"
    cells = json.loads((ROOT / "nbs/00_audio_features.ipynb").read_text())["cells"]
    shown = {"".join(c["source"]): json.dumps(c["outputs"]) for c in cells if c["cell_type"] == "code"}
    kept = [out for text, out in shown.items() if re.search(r"\b(first_)?label\b", text) and "<audio" in out]
    assert len(kept) >= 2 and all("dog bark" in out for out in kept)


@each_notebook
def test_imports_stand_in_cells_of_their_own(notebook):
    "nbdev runs every visible cell that imports something when it builds the pages, with all else that is in it"
    mixed = []
    for i, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] != "code" or re.search(r"^#\s*\|\s*hide\s*$|^\s*[!%]", text, re.M):
            continue
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(text).body}
        mixed += [f"cell {i}"] if len(kinds) == 2 else []
    assert not mixed


@pytest.mark.parametrize("image", sorted((ROOT / "docs" / "images").glob("*")), ids=lambda p: p.name)
def test_image_is_small_and_used(image):
    assert image.stat().st_size <= MOST_IMAGE_BYTES
    assert any(image.name in text for n in NOTEBOOKS for _, text in sources(n)), "no notebook shows it"


def test_readme_is_the_front_page():
    done = subprocess.run([sys.executable, ROOT / "docs" / "readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    assert not [u for u in links if "://" not in u and not (ROOT / u).exists()]


@each_notebook
def test_front_page_lists_the_notebook(notebook):
    text = "".join(text for _, text in sources(ROOT / "nbs" / "index.ipynb"))
    assert notebook.stem == "index" or f"]({notebook.name})" in text, "give it a row in the table of nbs/index.ipynb"


def test_no_forbidden_words():
    found = [f"{place}: {word}" for path in our_files() for place, text in sources(path) for word in FORBIDDEN
             if word in text and word not in ALLOWED.get(str(path.relative_to(ROOT)), ())]
    assert not found


def exported(tree):
    "The definitions that a module names in `__all__`"
    names = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                  and getattr(n.targets[0], "id", "") == "__all__"), [])
    return [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in names]


def undocumented(function, words, comments, alone):
    """Parameters that nothing explains: no comment at the end of their own line or on the line above, no mention as
    `name` in the docstring, no keyword of that name in a decorator"""
    args = function.args
    params = args.posonlyargs + args.args + args.kwonlyargs
    lines = [p.lineno for p in params]
    known = {"self", "cls"} | set(re.findall(r"`(\w+)`", words))
    known |= {k.arg for d in function.decorator_list if isinstance(d, ast.Call) for k in d.keywords}
    for p in params:
        commented = p.lineno in comments and lines.count(p.lineno) == 1 or p.lineno - 1 in alone
        if not commented and p.arg not in known:
            yield p.arg


@each_module
def test_public_names_are_documented(module):
    text = module.read_text()
    comments = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT}
    alone = {n for n in comments if text.splitlines()[n - 1].lstrip().startswith("#")}
    missing = []
    for node in exported(ast.parse(text)):
        words = ast.get_docstring(node) or ""
        if not words:
            missing.append(f"{node.name}: no docstring")
        functions = [node] if isinstance(node, ast.FunctionDef) else [
            n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        for f in functions:
            explained = f"{words} {ast.get_docstring(f) or ''}"
            missing += [f"{node.name}: nothing explains {p}" for p in undocumented(f, explained, comments, alone)]
    assert not missing, "\n".join(missing)


@each_module
def test_annotations_can_be_read(module):
    "The pages show them evaluated; a name that is not imported would stop the build"
    room = importlib.import_module(f"foleybook.{module.stem}")
    found = [getattr(room, name) for name in getattr(room, "__all__", [])]
    for f in (f for f in found if inspect.isroutine(f) and f.__module__ == room.__name__):
        inspect.signature(f, eval_str=True)


@each_module
def test_every_forward_has_a_docstring(module):
    "Without one, the page of the class shows torch's own text"
    functions = [n for n in ast.walk(ast.parse(module.read_text())) if isinstance(n, ast.FunctionDef)]
    assert not [f"line {f.lineno}" for f in functions if f.name == "forward" and not ast.get_docstring(f)]


@pytest.mark.parametrize("again", [False, True])
def test_every_test_draws_the_same_numbers(again):
    "conftest.py seeds before each test: no test passes or fails by luck"
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    assert drawn == (random.Random(0).random(), np.random.RandomState(0).rand(),
                     torch.rand(1, generator=torch.Generator().manual_seed(0)).item())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_the_mark_cuda_is_for_machines_with_a_gpu(device):
    assert torch.ones(2, device=device).sum() == 2


def test_cuda_tests_are_skipped_with_a_reason():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::test_the_mark_cuda_is_for_machines_with_a_gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, CUDA_VISIBLE_DEVICES=""))
    assert "1 passed, 1 skipped" in done.stdout and "no GPU that CUDA can use" in done.stdout, done.stdout
