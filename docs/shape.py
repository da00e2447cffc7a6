"""How each chapter is made, in figures: how much is shown, how soon, and how often.

    python docs/shape.py               the chapters as they stand
    python docs/shape.py REVISION      as they stood then; figures before and after stand side by side

Export lines and their median are of exported cells that hold more than imports. *Longest run*: exported cells in a row without
a visible call between them. *Shown*: visible cells with an output for each exported one. *First sound*: number of the first
cell that keeps a player.
"""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ["cells", "export lines", "median", "longest run", "shown", "first sound", "players", "words"]


def directive(text, name):
    return bool(re.search(rf"^#\s*\|\s*{name}\s*$", text, re.M))


def only_imports(text):
    "Does a cell hold nothing but imports? (Shell lines and magics are no imports)"
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return False
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def players(cell):
    "How many sounds a cell keeps"
    shown = ("".join(o.get("data", {}).get("text/html", "")) for o in cell.get("outputs", []))
    return sum(len(re.findall("<audio", html)) for html in shown)


def shape(notebook):
    "Figures of one notebook, in the order of `FIGURES`"
    lines, run, longest, shown, words, first = [], 0, 0, 0, 0, None
    for i, cell in enumerate(notebook["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            words += len(text.split())
            continue
        first = i if first is None and players(cell) else first
        if only_imports(text) or directive(text, "hide"):
            continue
        if directive(text, "exporti?"):
            lines.append(text.rstrip().count("\n") + 1)
            run += 1
            longest = max(longest, run)
        else:
            run, shown = 0, shown + bool(cell.get("outputs"))
    sounds = sum(players(c) for c in notebook["cells"])
    return [len(notebook["cells"]), sum(lines), median(lines or [0]), longest, shown / max(1, len(lines)), first, sounds, words]


def at(revision, path):
    "A notebook as it stood; None where it was not there"
    name = path.relative_to(ROOT).as_posix()
    found = subprocess.run(["git", "show", f"{revision}:{name}"], cwd=ROOT, capture_output=True)
    return json.loads(found.stdout) if found.returncode == 0 else None


def told(figure):
    if figure is None:
        return "-"
    return f"{figure:.2f}" if isinstance(figure, float) and figure != int(figure) else f"{int(figure):,}"


if __name__ == "__main__":
    revision = sys.argv[1] if len(sys.argv) > 1 else None
    print("| chapter |" + "|".join(f" {name} " for name in FIGURES) + "|")
    print("|---|" + "---|" * len(FIGURES))
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        now = [told(f) for f in shape(json.loads(path.read_text(encoding="utf-8")))]
        then = at(revision, path) if revision else None
        if then:
            now = [f"{a} → {b}" for a, b in zip(map(told, shape(then)), now)]
        print(f"| {path.stem[:2]} | " + " | ".join(now) + " |")
