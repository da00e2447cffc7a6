"House rules that one would otherwise check by eye: sizes, docstrings, docments, words, the README, imports"
import ast
import base64
import importlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import soundfile
import torch

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").rglob("[!_]*.ipynb"))
MODULES = sorted(p for p in (ROOT / "foleybook").rglob("[!_]*.py"))
HOUSE = json.loads((ROOT / "tests" / "house_style.json").read_text())  # what is not yet as it should be; may only shrink

MOST_BYTES, MOST_IMAGE_BYTES = 600_000, 150_000
MOST_LINES, MOST_COLUMNS, MOST_IN_A_ROW = 40, 88, 3  # of an export cell; of code; export cells without a visible answer

# Classes that everything else stands on: each is whole in one cell, however long, and gets no method by `@patch`
CONTRACTS = ["Sounds", "MelConfig", "Conditions", "Pretrained", "Generator", "Pipeline", "Recipe", "LoopRecipe", "StagedRecipe",
             "ClipTable", "MelGenerator", "CodeTable", "Cascade"]

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


def short(path):
    "nbs/core/files.ipynb -> core/files"
    return str(Path(path).relative_to(ROOT / "nbs").with_suffix(""))


def cells_of(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def code_of(notebook):
    "(place, source, is it exported, cell) of every code cell that is Python"
    for i, cell in enumerate(cells_of(notebook)):
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and not re.search(r"^\s*[!%]", text, re.M):
            yield f"{short(notebook)} cell {i}", text, bool(re.search(r"^#\s*\|\s*exporti?\b", text, re.M)), cell


def public_definitions(text):
    "Public functions and classes that a cell defines; methods of private names do not count"
    found = [n for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    return [n.name for n in found if not n.name.startswith("_")]


def only_imports(text):
    body = ast.parse(text).body
    return bool(body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def is_hidden(text):
    return bool(re.search(r"^#\s*\|\s*hide\s*$", text, re.M))


def long_cells(notebook):
    return [place for place, text, exported, _ in code_of(notebook)
            if exported and text.count("\n") + 1 > MOST_LINES and public_definitions(text) not in [[name] for name in CONTRACTS]]


def crowded_cells(notebook):
    return [place for place, text, exported, _ in code_of(notebook) if exported and len(public_definitions(text)) > 1]


def wide_lines(notebook):
    return [f"{place}: {line}" for place, text, *_ in code_of(notebook) for line in text.split("\n") if len(line) > MOST_COLUMNS]


def long_rows(notebook):
    "Export cells beyond the third in a row without a visible call between them"
    found, row = [], 0
    for place, text, exported, _ in code_of(notebook):
        if only_imports(text) or is_hidden(text):
            continue
        row = row + 1 if exported else 0
        found += [place] if row > MOST_IN_A_ROW else []
    return found


def silent_cells(notebook):
    "Visible demonstrations that show nothing"
    return [place for place, text, exported, cell in code_of(notebook)
            if not exported and not is_hidden(text) and not only_imports(text) and "default_exp" not in text and not cell["outputs"]]


RULES = dict(long_cells=long_cells, crowded_cells=crowded_cells, wide_lines=wide_lines, long_rows=long_rows, silent_cells=silent_cells)


@pytest.mark.parametrize("rule", RULES)
def test_house_style(rule):
    """Export cells of at most 40 lines with one public definition, lines of at most 88 columns, at most three exports in a row,
    demonstrations that show something. What is not so yet is counted by notebook in tests/house_style.json; the counts may
    only shrink (`python tests/test_hygiene.py` writes them anew)."""
    found = {short(n): RULES[rule](n) for n in NOTEBOOKS}
    more = {n: places for n, places in found.items() if len(places) > HOUSE[rule].get(n, 0)}
    assert not more, "\n".join(f"{n}: {len(p)}, {HOUSE[rule].get(n, 0)} allowed: {'; '.join(p[:9])}" for n, p in more.items())


def test_house_style_is_kept_up():
    "A count that has shrunk is written down, so that it stays"
    now = {rule: {short(n): k for n in NOTEBOOKS if (k := len(f(n)))} for rule, f in RULES.items()}
    assert now == HOUSE, "run python tests/test_hygiene.py"


def methods_put_on(text):
    "Classes to which the functions of some code are added by `@patch`"
    for f in ast.walk(ast.parse(text)):
        if isinstance(f, ast.FunctionDef) and any("patch" in ast.unparse(d) for d in f.decorator_list) and f.args.args:
            first = f.args.args[0].annotation
            yield from re.findall(r"\w+", ast.unparse(first) if first else "")


def test_contract_classes_are_whole():
    "An editor and a type checker see every method of them"
    assert [*methods_put_on("@patch(as_prop=True)\ndef x(self:'Sounds|None'): pass")] == ["Sounds", "None"]
    patched = [f"{place}: {name}" for n in NOTEBOOKS for place, text, exported, _ in code_of(n) if exported
               for name in methods_put_on(text) if name in CONTRACTS]
    assert not patched, patched


def test_the_call_to_sample_can_be_read():
    "Its arguments after `n` by keyword, in the text of the class itself"
    from foleybook.core.generator import Generator

    text = inspect.getsource(Generator)
    sample = next(n for n in ast.parse(text).body[0].body if getattr(n, "name", "") == "sample")
    assert "def sample(" in text and [a.arg for a in sample.args.args] == ["self", "cond", "n"]
    assert [a.arg for a in sample.args.kwonlyargs] == [
        "seconds", "steps", "guidance", "sampler", "temperature", "top_k", "top_p", "seed", "init", "strength", "mask", "loop", "channels",
        "on_step", "progress", "features", "text", "controls"]


def test_chapters_are_chapters():
    "nbs/ holds the book and its front page; the workshop stands on shelves"
    names = sorted(p.stem for p in (ROOT / "nbs").glob("[!_]*.ipynb"))
    assert [n[:2] for n in names if n != "index"] == [f"{i:02d}" for i in range(13)]


def test_the_front_page_leads_to_every_room():
    "Each notebook of the workshop is linked from its shelf's row"
    page = "".join("".join(c["source"]) for c in cells_of(ROOT / "nbs/index.ipynb"))
    rooms = [p.relative_to(ROOT / "nbs").as_posix() for p in (ROOT / "nbs").glob("*/*.ipynb") if p.parent.name != "guides"]
    assert len(rooms) > 50 and not [r for r in rooms if f"]({r})" not in page]


def test_notebooks_are_small():
    "Players as MP3, pictures as JPEG, few of both"
    limits = {"10_spectrogram_diffusion": 900_000,  # two halves, painting and mending, with a player for every edit
              "11_multitier_rnn": 750_000}  # textures whose knobs walk need long players
    assert not [f"{short(n)}: {n.stat().st_size:,}" for n in NOTEBOOKS if n.stat().st_size > limits.get(short(n), MOST_BYTES)]


def test_notebooks_keep_no_error():
    assert not [f"{short(n)} cell {i}" for n in NOTEBOOKS for i, c in enumerate(cells_of(n)) for o in c.get("outputs", [])
                if o["output_type"] == "error"]


def test_no_notebook_writes_the_package():
    "A reader's Run All must not; whoever changes a notebook runs nbdev_export"
    assert not [place for n in NOTEBOOKS for place, text, *_ in code_of(n) if "nbdev_export(" in text]


def test_formulas_stand_alone():
    "`$$` within a paragraph, without blank lines around the formula, is shown as dollar signs"
    stray = []
    for n in NOTEBOOKS:
        for cell in cells_of(n):
            text = re.sub(r"```.*?```|`[^`\n]*`", "", "".join(cell["source"]), flags=re.S)
            blocks = re.split(r"\n\s*\n", text) if cell["cell_type"] == "markdown" else []
            stray += [f"{short(n)}: {b[:60]}" for b in map(str.strip, blocks)
                      if "$$" in b and not (b.startswith("$$") and b.endswith("$$") and b.count("$$") == 2)]
    assert not stray


def test_links_stand_on_one_line():
    "The pages find a chapter behind a link by its line"
    broken = [f"{short(n)} cell {i}: {m[0][:60]!r}" for n in NOTEBOOKS for i, c in enumerate(cells_of(n)) if c["cell_type"] == "markdown"
              for m in re.finditer(r"\[[^\[\]\n]*\n[^\[\]]*\]\([^)\s]+\.ipynb", re.sub(r"```.*?```", "", "".join(c["source"]), flags=re.S))]
    assert not broken, broken


def test_kept_outputs_are_of_the_recording():
    "Chapter 00 tells of the two recorded heroes; run without recordings it is about formulas"
    shown = [json.dumps(c["outputs"]) for c in cells_of(ROOT / "nbs/00_audio_features.ipynb") if c["cell_type"] == "code"]
    kept = [out for out in shown if "<audio" in out]
    assert sum("rain, recorded" in out or "dog, recorded" in out for out in kept) >= 2
    assert not any("by formula" in out for out in shown)


def kept_peaks(notebook):
    "(place, largest sample) of every player that a notebook keeps, decoded"
    for i, cell in enumerate(cells_of(notebook)):
        shown = "".join("".join(o.get("data", {}).get("text/html", "")) for o in cell.get("outputs", []))
        for n, sound in enumerate(re.findall(r"data:audio/[a-z]+;base64,([A-Za-z0-9+/=]+)", shown)):
            yield f"{short(notebook)} cell {i}, player {n}", abs(soundfile.read(io.BytesIO(base64.b64decode(sound)))[0]).max()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_kept_players_are_heard_and_do_not_clip(notebook):
    wrong = [f"{place}: peak {peak:.3f}" for place, peak in kept_peaks(notebook) if not .01 < peak <= 1]
    assert not wrong, f"{'; '.join(wrong)}. Run the notebook again: players are turned down until their MP3 stays within 1."


def test_imports_stand_in_cells_of_their_own():
    "nbdev runs every visible cell that imports something when it builds the pages, with all else that is in it"
    mixed = []
    for place, text, *_ in (c for n in NOTEBOOKS for c in code_of(n)):
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(text).body}
        mixed += [place] if len(kinds) == 2 and not is_hidden(text) else []
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


def test_front_page_lists_the_chapters():
    text = "".join(text for _, text in sources(ROOT / "nbs" / "index.ipynb"))
    assert not [n.name for n in (ROOT / "nbs").glob("[0-9]*.ipynb") if f"]({n.name})" not in text]


def test_the_side_bar_lists_every_notebook():
    "A new notebook needs a line in nbs/sidebar.yml"
    listed = re.findall(r"[\w/]+\.ipynb", (ROOT / "nbs" / "sidebar.yml").read_text())
    assert sorted(listed) == sorted(f"{short(n)}.ipynb" for n in NOTEBOOKS)


def test_no_forbidden_words():
    found = [f"{place}: {word}" for path in our_files() for place, text in sources(path) for word in FORBIDDEN
             if word in text and word not in ALLOWED.get(str(path.relative_to(ROOT)), ())]
    assert not found


def public_names(tree):
    "What a module names in `__all__`"
    return next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                 and getattr(n.targets[0], "id", "") == "__all__"), [])


MOST_PUBLIC = 12  # names in a module's `__all__`
MORE_PUBLIC = {  # shrinking
    "core.data_sets": 16,  # a reader for each public data set
    "core.diffusion_process": 15, "diffwave": 17,  # processes, steps and samplers are functions that a reader takes apart
    "core.files": 14, "judge.leaderboard": 13, "published.audio_diffusion": 14, "train.vocoders": 14}


def test_a_module_shows_about_a_dozen_names():
    "The rest is `#| exporti`, or not exported at all"
    counts = {dotted(m).removeprefix("foleybook."): len(public_names(ast.parse(m.read_text()))) for m in MODULES}
    most = {name: k for name, k in counts.items() if k > MOST_PUBLIC}
    assert most == MORE_PUBLIC, "more than a dozen, or fewer than the table above says: set it lower"


def exported(tree):
    "The definitions that a module names in `__all__`"
    names = public_names(tree)
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


def undocumented_names(module):
    "Public names of a module that lack a docstring or an explained parameter"
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
    return [f"{module.stem}: {m}" for m in missing]


def test_public_names_are_documented():
    missing = [m for module in MODULES for m in undocumented_names(module)]
    assert not missing, "\n".join(missing)


def dotted(module):
    return "foleybook." + ".".join(module.relative_to(ROOT / "foleybook").with_suffix("").parts)


@pytest.mark.parametrize("module", [pytest.param(dotted(m), id=dotted(m)) for m in MODULES])
def test_annotations_can_be_read(module):
    "The pages show them evaluated; a name that is not imported would stop the build"
    room = importlib.import_module(module)
    for thing in (getattr(room, name) for name in getattr(room, "__all__", [])):
        for f in (thing, *vars(thing).values()) if inspect.isclass(thing) else (thing,):
            if callable(f) and getattr(f, "__module__", None) == room.__name__ and (inspect.isfunction(f) or f is thing):
                try:
                    inspect.signature(f, eval_str=True)
                except (ValueError, TypeError):  # what torch or C made has none
                    pass


def test_every_forward_has_a_docstring():
    "Without one, the page of the class shows torch's own text"
    functions = [(m, n) for m in MODULES for n in ast.walk(ast.parse(m.read_text())) if isinstance(n, ast.FunctionDef)]
    assert not [f"{m.stem} line {f.lineno}" for m, f in functions if f.name == "forward" and not ast.get_docstring(f)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_the_mark_cuda_is_for_machines_with_a_gpu(device):
    assert torch.ones(2, device=device).sum() == 2


def test_cuda_tests_are_skipped_with_a_reason():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::test_the_mark_cuda_is_for_machines_with_a_gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, CUDA_VISIBLE_DEVICES=""))
    assert "1 passed, 1 skipped" in done.stdout and "no GPU that CUDA can use" in done.stdout, done.stdout


if __name__ == "__main__":
    now = {rule: {short(n): k for n in NOTEBOOKS if (k := len(f(n)))} for rule, f in RULES.items()}
    (ROOT / "tests" / "house_style.json").write_text(json.dumps(now, indent=1) + "\n")
    print({rule: sum(counts.values()) for rule, counts in now.items()})
