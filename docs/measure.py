"""Measure the models that come with the book once, and write the same figures wherever they stand.

    python docs/measure.py [OUT]     judge them on fold 5 of ESC-10 (below FOLEYBOOK_DATA), write docs/leaderboard.json and
                                     all that is written from it; OUT keeps the sounds (default: runs/shipped)
    python docs/measure.py --write   write cards and tables from docs/leaderboard.json as it is

The cards of `foleybook/weights/*` and the table of nbs/index.ipynb are written from docs/leaderboard.json, README.md from
that notebook (readme.py). A test holds the three together.
"""
import json
import math
import os
import re
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs/leaderboard.json"
MODELS = "foley", "foley-cascade"
# column of the leaderboard: how a card calls it, how the table of the front page writes it
FIGURES = dict(accuracy=("recognised", "{:.0%}"), second=("recognised by a second listener", "{:.0%}"), frechet=("Frechet distance", "{:.0f}"), kernel=("kernel distance", "{:.1f}"),
               rhythm=("rhythm distance", "{:.2f}"), coverage=("coverage", "{:.0%}"), spread=("spread", "{:.2f}"),
               unrest=("unrest", ""), regularity=("regularity", ""), told_apart=("told apart", "{:.0%}"),
               apart_full=("told apart by hand-made features", ""), apart_audible=("told apart by what is heard", ""),
               copies=("copies", ""))
TABLE = "accuracy", "second", "frechet", "kernel", "rhythm", "coverage", "spread"


def measure(out):
    "Judge recordings and models; rows by name"
    from foleybook.core.data_sets import open_dataset
    from foleybook.judge.leaderboard import leaderboard, split_for_judging

    table = open_dataset(Path(os.environ["FOLEYBOOK_DATA"]) / "esc10")
    rest, held, how = split_for_judging(table, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        board = leaderboard(table.subset(rest), table.subset(held), out, {m: str(ROOT / "foleybook/weights" / m) for m in MODELS},
                            embedder="aisfx")
    rows = {}
    for row in board.to_dict("records"):
        found = {m: float(f"{row[m]:.4g}") for m in FIGURES if math.isfinite(row.get(m, math.nan))}
        rows[row["family"]] = dict(found, basis=row["basis"])
    return dict(data="ESC-10", split=how, rows=rows)


def metrics(record, name):
    "What a card says of one model, recordings beside it"
    own, real = (record["rows"][n] for n in (name, "held-out recordings"))
    told = {"measured on": f"{record['data']}, {record['split']}; {own['basis']}"}
    for m, (title, _) in FIGURES.items():
        if m in own:
            told[title] = own[m]
        if m in real and m != "copies":
            told[f"{title} of recordings"] = real[m]
    return told | {"recordings measured on": real["basis"]}


def write_cards(record):
    "Into README.md and pipeline.json of each model; weights and their digests stay as they are"
    import foleybook
    from foleybook.core.files import read_json, write_text

    for name in MODELS:
        folder = ROOT / "foleybook/weights" / name
        model, about = foleybook.load(str(folder)), read_json(folder / "pipeline.json")
        model.card["metrics"] = about["card"]["metrics"] = metrics(record, name)
        write_text(folder / "pipeline.json", json.dumps(about, indent=1, sort_keys=True) + "\n")
        write_text(folder / "README.md", model.model_card())


def cells(record, name):
    "The figures of one row of the front page"
    return [FIGURES[m][1].format(record["rows"][name][m]).replace("%", " %") for m in TABLE]


def write_table(record, path=ROOT / "nbs/index.ipynb"):
    "The rows of the front page, in place"
    text = path.read_text(encoding="utf-8")
    for name, head in {**{m: f"`{m}`" for m in MODELS}, "held-out recordings": "recordings, half of them beside the others"}.items():
        row = re.compile(rf'("\| {re.escape(head)} \|)((?: [^|]+ \|){{{len(TABLE)}}})')
        text, n = row.subn(lambda found: f"{found[1]} {' | '.join(cells(record, name))} |", text)
        if n != 1:
            raise SystemExit(f"{path}: {n} rows of {head} with {len(TABLE)} figures or more; there should be one.")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    words = [w for w in sys.argv[1:] if w != "--write"]
    if "--write" not in sys.argv:
        RECORD.write_text(json.dumps(measure(Path(words[0] if words else "runs/shipped")), indent=1) + "\n")
    kept = json.loads(RECORD.read_text())
    write_cards(kept)
    write_table(kept)
