"""The rooms: which module may import which, by name. `python tests/test_imports.py` prints the table as it stands.

A room may import the rooms named beside it and all that these may import. Every import of a module counts, also one
inside a function. The cells of a notebook that are not exported may import what they like.
"""
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "foleybook"
ABOVE = {  # room: the rooms right below it
    "files": [],
    "settings": [],
    "mel_kernel": [],
    "audio_features": ["files", "settings", "mel_kernel"],
    "generator": ["audio_features"],
    "sound_data": ["generator"],
    "data_sets": ["sound_data"],
    "training": ["sound_data"],
    "recipes": ["training", "data_sets"],
    "vocoders": ["recipes"],
    "codebooks": ["vocoders"],
    "pixelsnail": ["codebooks"],
    "spectrogram_vqgan": ["pixelsnail", "embedders"],
    "transformer": ["spectrogram_vqgan", "pixelsnail"],
    "diffwave": ["recipes"],
    "sashimi": ["diffwave"],
    "spectrogram_diffusion": ["codebooks", "diffwave"],
    "multitier_rnn": ["recipes"],
    "embedders": ["recipes"],
    "evaluation": ["embedders", "codebooks"],
    "roundtrip": ["evaluation"],
    "reports": ["roundtrip"],
}
LAZY = ["__init__", "cli"]  # may import every room, but only inside functions
FREE = ["__main__", "_modidx"]  # a few lines that start `cli`; an index that imports nothing
MODULES = sorted(p.stem for p in PACKAGE.glob("*.py"))


def may_import(room, above=ABOVE):
    "All rooms below a room"
    return {name for below in above[room] for name in (below, *may_import(below, above))}


def names_of(node):
    "Names of the foleybook modules that one import statement imports, or one call of `import_module` with a plain name"
    if isinstance(node, ast.ImportFrom):
        if node.level == 0 and (node.module or "").split(".")[0] != "foleybook":
            return []
        below = (node.module or "").removeprefix("foleybook").lstrip(".")
        return [below.split(".")[0]] if below else [a.name for a in node.names]
    if isinstance(node, ast.Import):
        return [a.name.split(".")[1] for a in node.names if a.name.startswith("foleybook.")]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
        value = getattr(node.args[0], "value", "") if node.args else ""
        return [value.split(".")[1]] if isinstance(value, str) and value.startswith("foleybook.") else []
    return []


def imports(source):
    "(at the top, inside functions): two sets of names of foleybook's modules"
    tree = ast.parse(source)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, functions) for n in ast.walk(f) if n is not f}
    found = [(name, id(n) in inner) for n in ast.walk(tree) for name in names_of(n)]
    known = {*ABOVE, *LAZY}
    return tuple({name for name, lazy in found if lazy == inside and name in known} for inside in (False, True))


def of_module(name):
    return imports((PACKAGE / f"{name}.py").read_text())


@pytest.mark.parametrize("module", [m for m in MODULES if m not in FREE])
def test_imports_point_downward(module):
    top, inside = of_module(module)
    if module in LAZY:
        assert not top, f"{module} imports {', '.join(sorted(top))} before it is used: import inside the function"
    else:
        assert module in ABOVE, f"{module} has no row in the table of rooms, ABOVE in this file"
        wrong = sorted((top | inside) - may_import(module))
        assert not wrong, (f"{module} imports {', '.join(wrong)}, which it may not: "
                           "move what it needs into a room below both")


def test_the_table_has_no_circle():
    print(table())  # pytest -rP shows it
    assert all(room not in may_import(room) and set(ABOVE[room]) <= set(ABOVE) for room in ABOVE)


@pytest.mark.parametrize("source,top,inside", [
    ("from .recipes import Recipe", {"recipes"}, set()),
    ("from foleybook.recipes import Recipe\nimport foleybook.files as f, os", {"recipes", "files"}, set()),
    ("from . import __version__, vocoders", {"vocoders"}, set()),
    ("def f():\n    if 1:\n        from .cli import main\n    return lambda: importlib.import_module('foleybook.files')",
     set(), {"cli", "files"}),
    ("class A:\n    from .files import x\n    def g(self): import foleybook.recipes", {"files"}, {"recipes"}),
    ("from fastai.recipes import x\nimport files", set(), set())])
def test_every_kind_of_import_is_seen(source, top, inside):
    assert imports(source) == (top, inside)


def table():
    "What stands in the package, beside what is allowed"
    rows = [("room", "may import", "imports", "imports inside functions")]
    for name in [*ABOVE, *LAZY]:
        if name not in MODULES:
            continue
        allowed = may_import(name) if name in ABOVE else {"all, inside functions"}
        order = lambda names: ", ".join(sorted(names, key=[*ABOVE, *LAZY, *allowed].index)) or "-"
        rows.append((name, order(allowed), *map(order, of_module(name))))
    widths = [max(len(r[i]) for r in rows) for i in range(2)]
    return "\n".join(f"{r[0]:{widths[0]}} | {r[1]:{widths[1]}} | {r[2]} | {r[3]}" for r in rows)


if __name__ == "__main__":
    print(table())
