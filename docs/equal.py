"""Changes of the network of `foley` that need training, at equal cost: as many processor minutes for each, few, from nothing.

    python docs/equal.py OUT NAME ...   train each of base, fine, wide, context for MINUTES (a variable; default 11) of one core on folds
                                        1 to 4 of ESC-10, longer: train the shipped weights on for as long on all free clips;
                                        weights averaged over several lengths are kept beside each other in OUT
    python docs/equal.py OUT --judge    judge all that lie in OUT on fold 5, as chapter 12 does; rows go to docs/equal.json
    python docs/equal.py --table        print them as Markdown

How many steps fit is measured first, on six steps. FOLEYBOOK_DATA has the recordings.
"""
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs/equal.json"
MINUTES = float(os.environ.get("MINUTES", 11))
TAUGHT = dict(  # name -> (preset, what is changed)
    base=("foley-backbone", {}), fine=("foley-backbone", {"model.columns": 88}),
    wide=("foley-backbone", {"model.width": 448, "model.heads": 7}),
    context=("foley-backbone", {"frames": 424}),  # 4.9 s, 53 columns, in place of 4.1 s, 44
    longer=("foley-backbone", dict(start=str(ROOT / "foleybook/weights/foley"), lr=.0002)))
KEPT = dict(base=(.98, .995, .999), longer=(.99, .999))  # lengths of the average; others: .995
FACTS = dict(steps="{:,.0f}", accuracy="{:.2f}", second="{:.2f}", frechet="{:.0f}", rhythm="{:.2f}", coverage="{:.2f}", spread="{:.2f}",
             unrest="{:+.2f}", regularity="{:.2f}", told_apart="{:.2f}")
ROWS = {  # how the table calls them
    "base-.98": "as `foley`, weights averaged over 50 steps", "base-.995": "the same, over 200 steps", "base-.999": "the same, over 1,000 steps",
    "wide-.995": "width 448 in place of 320", "context-.995": "53 columns, 4.9 s, in place of 44",
    "fine-.995": "columns of 46 ms in place of 93", "longer-.99": "`foley` trained on, average over 100 steps",
    "longer-.999": "the same, over 1,000 steps", "foley": "**`foley` as it ships**, after 8,000 steps on ten kinds and 6,400 on thirty"}


def tables():
    "Recordings to learn from, to judge by, and all free clips to learn from"
    from foleybook.core.data_sets import open_dataset, read_free_kinds

    home = Path(os.environ["FOLEYBOOK_DATA"])
    ten, free = open_dataset(home / "esc10"), read_free_kinds(home)
    fold = ten.df.fold == 5
    return ten.subset(~fold), ten.subset(fold), free.subset((free.df.split != "valid").to_numpy())


def averages(lengths):
    "A callback that keeps several running averages of the weights"
    import torch
    from fastai.callback.core import Callback
    from foleybook.training import unwrap

    class Averages(Callback):
        order, run_valid = 21, False

        def before_fit(self):
            self.kept, self.n = {d: {k: v.clone() for k, v in unwrap(self.model).state_dict().items()} for d in lengths}, 0

        @torch.no_grad()
        def after_step(self):
            self.n += 1
            for d, held in self.kept.items():
                share = 1 - min(d, (1 + self.n) / (10 + self.n))
                for k, v in unwrap(self.model).state_dict().items():
                    held[k].lerp_(v, share) if v.is_floating_point() else held[k].copy_(v)

    return Averages()


def codec_of(name, table, out):
    "The autoencoder: the shipped one; of columns of 46 ms its own, trained first"
    from foleybook.train.recipes import find_recipe

    if name != "fine":
        return str(ROOT / "foleybook/weights/foley/vae"), 0.
    start = time.process_time()
    if not (out / "fine-vae/config.json").is_file():
        find_recipe("foley-fine-melvae").override(steps=500, epoch_steps=250, cache_dir=str(out / "cache")).train(table, out / "fine-vae")
    return str(out / "fine-vae"), time.process_time() - start


def taught(name, out):
    "Train one, for as long as asked; its averages as models in OUT"
    import torch

    from foleybook.spectrogram_diffusion import LatentDiffusion, LatentDiffusionConfig
    from foleybook.train.recipes import find_recipe
    from foleybook.training import unwrap

    torch.set_num_threads(1)
    ten, _, free = tables()
    table = free if name == "longer" else ten
    (preset, how), (vae, spent) = TAUGHT[name], codec_of(name, table, out)
    recipe = find_recipe(preset).override({"lr": .001, "ema": 0., "vae": vae, "cache_dir": str(out / "cache"), **how})
    learner = lambda steps: recipe.override(steps=steps, epoch_steps=-(-steps // 2)).learner(table)
    one = learner(6)
    start = time.process_time()
    with one.no_bar(), one.no_logging():
        recipe.override(steps=2, epoch_steps=2).fit(one)
        early = time.process_time()
        recipe.override(steps=6, epoch_steps=6).fit(one)
    each = (time.process_time() - early) / 6
    print(f"{name}: {each:.3f} s a step, first two {early - start:.0f} s", flush=True)
    steps = int(MINUTES * 60 / each)
    learn, kept = learner(steps), averages(KEPT.get(name, (.995,)))
    learn.add_cb(kept)
    start = time.process_time()
    recipe.override(steps=steps, epoch_steps=-(-steps // 2)).fit(learn)
    spent = dict(steps=learn.train_iter, minutes=(time.process_time() - start) / 60, codec=spent / 60)
    net = unwrap(learn.model).cpu().float()
    for length, weights in kept.kept.items():
        net.load_state_dict(weights)
        config = LatentDiffusionConfig(tuple(learn.dls.vocab), prediction="x0", steps=20, guidance=3., temperature=.85, interval=(0., 1.))
        model = LatentDiffusion(config, recipe.autoencoder, net, "default").eval()
        folder = out / f"{name}-{length:g}".replace("0.", ".")
        model.save_pretrained(folder, dict(licence="CC BY-NC 3.0"))
        (folder / "spent.json").write_text(json.dumps(spent))
    print(name, spent, flush=True)


def judge(out):
    "All that lie in OUT and have no row yet, on fold 5"
    sys.path.insert(0, str(ROOT / "docs"))
    from measure import judged

    train, held, _ = tables()
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    new = {f.parent.name: f for f in sorted(out.glob("*/spent.json")) if f.parent.name not in record}
    if new:
        rows = judged(train, held, out / "board", {n: str(f.parent) for n, f in new.items()}, times=0, progress=False, n_jobs=1,
                      cache=out / "heard")
        record |= {n: json.loads(f.read_text()) | rows[n] for n, f in new.items()}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(lines(record)))


def lines(record):
    "The rows, as Markdown, the shipped model below them for scale"
    board = json.loads((ROOT / "docs/leaderboard.json").read_text())["rows"]
    yield "| | " + " | ".join(FACTS).replace("_", " ") + " |"
    yield "|---" * (len(FACTS) + 1) + "|"
    for name, title in ROWS.items():
        if row := record.get(name, board.get(name)):
            yield f"| {title} | " + " | ".join(how.format(row[m]) if m in row else "" for m, how in FACTS.items()) + " |"


if __name__ == "__main__":
    words = sys.argv[1:]
    if words == ["--table"]:
        print("\n".join(lines(json.loads(RECORD.read_text()))))
    elif len(words) > 1 and {*words[1:]} <= {*TAUGHT}:
        for word in words[1:]:
            taught(word, Path(words[0]))
    elif words[1:] == ["--judge"]:
        judge(Path(words[0]))
    else:
        raise SystemExit(f"Give a folder and some of {', '.join(TAUGHT)}, or --judge; or --table alone.")
