"""Measure the models that come with the book once, and write the same figures wherever they stand.

    python docs/measure.py [OUT]     judge them on fold 5 of ESC-10 (below FOLEYBOOK_DATA), and on the clips of twenty more
                                     kinds that were kept apart; write docs/leaderboard.json and all that is written from
                                     it; OUT keeps the sounds (default: runs/shipped)
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
MODELS = "foley", "foley-fast", "foley-cascade"
# column of the leaderboard: how a card calls it, how the table of the front page writes it
FIGURES = dict(accuracy=("recognised", "{:.0%}"), second=("recognised by a second listener", "{:.0%}"), frechet=("Frechet distance", "{:.0f}"), kernel=("kernel distance", "{:.1f}"),
               rhythm=("rhythm distance", "{:.2f}"), coverage=("coverage", "{:.0%}"), spread=("spread", "{:.2f}"),
               unrest=("unrest", ""), regularity=("regularity", ""), told_apart=("told apart", "{:.0%}"),
               apart_full=("told apart by hand-made features", ""), apart_audible=("told apart by what is heard", ""),
               copies=("copies", ""))
TABLE = "accuracy", "second", "frechet", "kernel", "rhythm", "coverage", "spread"


def judged(train, held, out, models, **options):
    "Figures of recordings and of models, name -> folder, by name"
    from foleybook.judge.leaderboard import leaderboard

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        board = leaderboard(train, held, out, models, embedder="aisfx", **options)
    rows = {}
    for row in board.to_dict("records"):
        found = {m: float(f"{row[m]:.4g}") for m in FIGURES if math.isfinite(row.get(m, math.nan))}
        rows[row["family"]] = dict(found, basis=row["basis"])
    return rows


def measure(out):
    "Judge recordings and models: ten kinds by a fold, twenty more by what was kept apart of each"
    from foleybook.core.data_sets import open_dataset, read_free_kinds
    from foleybook.judge.leaderboard import split_for_judging

    home = Path(os.environ["FOLEYBOOK_DATA"])
    table, shipped = open_dataset(home / "esc10"), {m: str(ROOT / "foleybook/weights" / m) for m in MODELS}
    rest, held, how = split_for_judging(table, 5)
    record = dict(data="ESC-10", split=how, rows=judged(table.subset(rest), table.subset(held), out / "ten", shipped))
    free = read_free_kinds(home)
    kept, more = (free.df.split == "valid").to_numpy(), free.df.path.str.startswith("esc50_more/").to_numpy()
    free.df["split"] = ""  # said by the two tables
    record["more_kinds"] = dict(data="twenty more kinds of ESC-50", split=f"{(~kept).sum()} clips of thirty kinds to learn from, "
                                f"{(kept & more).sum()} to judge by",
                                rows=judged(free.subset(~kept), free.subset(kept & more), out / "more", {m: shipped[m] for m in MODELS[:2]}, n=4))
    return record


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
    from foleybook.core.files import read_json, write_text
    from foleybook.core.generator import Pretrained

    for name in MODELS:
        folder = ROOT / "foleybook/weights" / name
        file = next(f for f in (folder / "pipeline.json", folder / "config.json") if f.is_file())
        model, about = Pretrained.from_pretrained(folder), read_json(file)
        model.card["metrics"] = about["card"]["metrics"] = metrics(record, name)
        write_text(file, json.dumps(about, indent=1, sort_keys=True) + "\n")
        write_text(folder / "README.md", model.model_card())


def cells(rows, name):
    "The figures of one row of the front page; of recordings too few for one, a dash"
    return [FIGURES[m][1].format(rows[name][m]).replace("%", " %") if m in rows[name] else "–" for m in TABLE]


def lines(record):
    "(head of a row of the front page, its figures)"
    real = "held-out recordings"
    for name, head in {**{m: f"`{m}`" for m in MODELS}, real: "recordings, half of them beside the others"}.items():
        yield head, cells(record["rows"], name)
    more = record["more_kinds"]["rows"]
    for name, head in {**{m: f"`{m}`, more kinds" for m in MODELS[:2]}, real: "recordings kept apart"}.items():
        yield head, cells(more, name)


def write_table(record, path=ROOT / "nbs/index.ipynb"):
    "The rows of the front page, in place"
    text = path.read_text(encoding="utf-8")
    for head, figures in lines(record):
        row = re.compile(rf'("\| {re.escape(head)} \|)((?: [^|]+ \|){{{len(TABLE)}}})')
        text, n = row.subn(lambda found: f"{found[1]} {' | '.join(figures)} |", text)
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
