"""The closing box of a chapter: what its models reach, by the record of measurements.

A markdown cell with a line `<!-- box: foley, foley-cascade -->` gets a table of these rows of docs/leaderboard.json below it,
recordings first. A test compares what stands there with the record.

    python docs/boxes.py     write the boxes of all chapters
"""
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"<!-- box: (.*?) -->\n(?:\n?(?:\|.*\n?)+)?")
COLUMNS = dict(accuracy=("recognised", "{:.0%}"), second=("second listener", "{:.0%}"), frechet=("Fréchet distance", "{:.0f}"),
               coverage=("coverage", "{:.0%}"), rhythm=("rhythm distance", "{:.2f}"), copies=("copies", "{:.0%}"))


def box(names, rows):
    "A table as text"
    lines = ["| |" + "|".join(f" {title} " for title, _ in COLUMNS.values()) + "|", "|---|" + "---|" * len(COLUMNS)]
    for name in ["held-out recordings", *names]:
        if name not in rows:
            raise SystemExit(f"box: no row {name!r} in docs/leaderboard.json. It has {', '.join(rows)}.")
        told = [form.format(rows[name][m]).replace("%", " %") if m in rows[name] else "" for m, (_, form) in COLUMNS.items()]
        lines.append(f"| {name if name == 'held-out recordings' else f'`{name}`'} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def filled(text, rows):
    "Markdown with its boxes as the record gives them"
    return MARK.sub(lambda m: f"<!-- box: {m[1]} -->\n\n{box([n.strip() for n in m[1].split(',')], rows)}", text)


def chapters(rows):
    "(path, notebook as it stands, as it should be) of each chapter"
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        have = json.loads(path.read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(have))
        for c in wanted["cells"]:
            text = "".join(c["source"])
            if c["cell_type"] == "markdown" and "<!-- box:" in text:
                c["source"] = filled(text + "\n" * (not text.endswith("\n")), rows).rstrip("\n").splitlines(True)
        yield path, have, wanted


if __name__ == "__main__":
    for path, have, wanted in chapters(json.loads((ROOT / "docs/leaderboard.json").read_text())["rows"]):
        if have != wanted:
            path.write_text(json.dumps(wanted, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
            print(path.name)
