"""Outputs that no test remakes: which code made them, and whether that code is still there.

Cells flagged `slow` or `cuda` run only when somebody asks for it, so what they show can outlive the code that made it.
`docs/run_nbs.py` therefore writes into the metadata of such a cell when it was run and a hash of what it depends on:
the cell, the cells above it that make the names it uses, and every exported definition that these name.

    python docs/kept.py                                  list the kept outputs, and which of them are stale
    python docs/kept.py --excuse "REASON" [NOTEBOOK ...]   say in their metadata why the stale ones may stay, until the
                                                         code changes once more
"""
import ast
import builtins
import datetime
import hashlib
import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = {"slow", "cuda"}


def source_of(cell):
    "The text of a cell without shell lines and magics"
    return re.sub(r"^\s*[%!].*$", "", "".join(cell["source"]), flags=re.M)


def flags(cell):
    "Its directives, such as `slow`"
    return set(re.findall(r"^\s*#\s*\|\s*(\S+)\s*$", "".join(cell["source"]), re.M))


def is_kept(cell):
    "Does this cell show something that no test makes again?"
    return cell["cell_type"] == "code" and bool(flags(cell) & FLAGS) and bool(cell.get("outputs"))


def plain(node):
    "A syntax tree as lists: no comments, no docstrings, no layout, and the same for every version of Python"
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *([name, plain(value)] for name, value in fields)]
    if isinstance(node, list):
        return [plain(n) for n in node if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return repr(node)


def made(tree):
    "Names that a syntax tree gives a meaning"
    found = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    found |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return found | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}


def needed(tree):
    "Names that a syntax tree uses and does not make itself"
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - made(tree) - set(dir(builtins))


def patched(definition):
    "The class that a function decorated by `@patch` belongs to"
    if not isinstance(definition, ast.FunctionDef) or not definition.args.args:
        return None
    decorators = {n.id for d in definition.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)}
    first = definition.args.args[0].annotation
    return getattr(first, "id", None) if "patch" in decorators else None


def handed_to(definition):
    "The functions to which the methods of a class hand themselves: `return _request(self, ...)`"
    calls = [n for n in ast.walk(definition) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.args]
    return {n.func.id for n in calls if n.func.id[0] == "_" and getattr(n.args[0], "id", "") in ("self", "cls")}


class Definitions:
    "What the package defines: module -> name -> syntax trees (a class, the methods patched onto it, and what does their work)"

    def __init__(self, package=ROOT / "foleybook"):
        self.of_module = {}
        for path in sorted(package.rglob("[!_]*.py")):
            found = self.of_module.setdefault(".".join(path.relative_to(package).with_suffix("").parts), {})
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    found.setdefault(patched(node) or node.name, []).append(node)
                elif isinstance(node, ast.Assign):
                    for name in {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}:
                        found.setdefault(name, []).append(node)
            for trees in [t for t in found.values() if isinstance(t[0], ast.ClassDef)]:
                trees += [f for name in sorted(handed_to(trees[0])) for f in found.get(name, [])]

    def find(self, name, module):
        "The definition that a name means in the notebook of `module`: its own, else one of the rooms it imports from"
        own = self.of_module.get(module, {}).get(name)
        others = (m[name] for stem, m in self.of_module.items() if name in m and stem != "apps.cli")
        return own or next(others, [])


def depends_on(cells, i, module, definitions):
    "Syntax trees on which the outputs of cell `i` depend"
    trees = {k: ast.parse(source_of(c)) for k, c in enumerate(cells[:i + 1]) if c["cell_type"] == "code"}
    exported = {k for k in trees if flags(cells[k]) & {"export", "exporti"}}
    seen, todo, used = {i}, [i], set()
    while todo:
        k = todo.pop()
        for name in needed(trees[k]):
            used.add(name)
            maker = next((j for j in reversed(trees) if j < k and j not in exported and name in made(trees[j])), None)
            if maker is not None and maker not in seen:
                seen.add(maker)
                todo.append(maker)
    return [trees[k] for k in sorted(seen)] + [d for name in sorted(used) for d in definitions.find(name, module)]


def stamp(nb, i, module, definitions):
    "Hash of the code on which the outputs of cell `i` depend, 12 hexadecimal digits"
    found = [plain(tree) for tree in depends_on(nb["cells"], i, module, definitions)]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]


def module_of(path):
    "The module that a notebook writes: `core.files`"
    shelf = Path(path).resolve().parent.name
    name = re.sub(r"^\d+_", "", Path(path).stem)
    return f"{shelf}.{name}" if (ROOT / "nbs" / shelf).is_dir() and shelf != "nbs" else name


def mark(cell, code):
    "Note in a cell that its outputs were made today by the code with this hash"
    cell["metadata"]["kept"] = dict(code=code, made=datetime.date.today().isoformat())


def kept(path, definitions):
    "(number, cell, hash of the code as it is) of every cell with outputs that no test remakes"
    nb = json.loads(Path(path).read_text(encoding="utf-8"))
    for i, cell in enumerate(nb["cells"]):
        if is_kept(cell):
            yield i, cell, stamp(nb, i, module_of(path), definitions)


def state(cell, code):
    "What is to be said of kept outputs; empty when they are those of the present code"
    told = cell["metadata"].get("kept", {})
    if not told:
        return "nobody noted which code made them"
    if code in (told["code"], told.get("stale_code")):
        return ""
    return f"made on {told['made']} by other code"


def main():
    "List the kept outputs; excuse the stale ones"
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "nbs").rglob("*.ipynb")))
    parser.add_argument("--excuse", help="why stale outputs may stay; written into their metadata")
    args, definitions = parser.parse_args(), Definitions()
    for path in args.notebooks:
        nb = json.loads(path.read_text(encoding="utf-8"))
        for i, cell, code in kept(path, definitions):
            told, said = cell["metadata"].get("kept", {}), state(cell, code)
            if said and args.excuse:
                told = told or dict(code="", made="an unknown day")
                nb["cells"][i]["metadata"]["kept"] = told = told | dict(stale=args.excuse, stale_code=code)
                said = ""
            why = "by this code" if told.get("code") == code else f"by other code: {told.get('stale')}"
            print(f"{path.name} cell {i}: {'STALE, ' + said if said else 'made on ' + told['made'] + ' ' + why}")
        if args.excuse:
            path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
