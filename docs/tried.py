"""What was tried to make clocks keep their pace and the flow be calm: one change of `foley` at a time, few sounds, a few seconds a row.

    python docs/tried.py NAME ...     draw ten sounds of each kind in KINDS (or in the variable KINDS, commas between) with each
                                      change named, measure them, add the rows to docs/tried.json. FOLEYBOOK_DATA has ESC-10
    python docs/tried.py --table      print the means over the kinds as Markdown
    python docs/tried.py --board OUT  a hundred sounds of ten kinds, nobody saying when and a slow tier drawing the levels, judged as
                                      chapter 12 does, into docs/tried.json; OUT keeps the sounds

Measured is what needs no network: rhythm (distance of mean modulation spectra from fold 5), swing (how much more the level swings
than there, in nats of power, all rates), regularity, modulation, unrest (dB in 10 ms); where a track of level was told, how well it
was followed. The tracks are those of recordings of folds 1 to 4, whose own figures are the row `recordings`. What looks better here
is a candidate; accuracy, coverage and the rest are for docs/measure.py to say.
"""
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs/tried.json"
KINDS = tuple(os.environ.get("KINDS", "clock_tick,rooster,helicopter,baby_cry,dog_bark,fire_crackling").split(","))
BEFORE = dict(guidance=3.0, temperature=1.0)  # what foley did when this was tried; all rows but `now` change one thing of it
FACTS = dict(rhythm="{:.2f}", swing="{:+.2f}", regularity="{:.2f}", modulation="{:.1f}", unrest="{:.2f}", follows="{:.2f}", off="{:.1f}")
TRIED = dict(  # name -> what is changed
    before={}, now=dict(temperature=.85), guidance_1_5=dict(guidance=1.5), guidance_2=dict(guidance=2.), guidance_5=dict(guidance=5.),
    interval_1_9=dict(interval=(.1, .9)), interval_3_10=dict(interval=(.3, 1.)), noise_95=dict(temperature=.95),
    noise_90=dict(temperature=.9), steps_12=dict(steps=12), steps_40=dict(steps=40), heun=dict(sampler="heun", steps=10),
    rescale=dict(rescale=1.), sideways=dict(sideways=True), worse_copy=dict(guidance=2., pull=1.), told=dict(told=True),
    told_class_only=dict(told=True, class_only=True), told_2=dict(told=True, guidance=2.), told_1_5=dict(told=True, guidance=1.5),
    told_rescale=dict(told=True, rescale=1.), told_now=dict(told=True, temperature=.85))


BOARD = dict(  # name -> guidance, share of the noise, share of its spread with which a slow tier draws the levels; 0: nobody says
    nobody_says=(3., .85, 0.), levels_drawn=(3., .85, 1.), nobody_says_2=(2., .9, 0.), levels_drawn_2=(2., .9, 1.),
    levels_milder_2=(2., .9, .6))
JUDGED = "accuracy", "second", "frechet", "rhythm", "coverage", "spread", "unrest", "regularity", "told_apart"


def guided(model, cond, guidance, how):
    """The guided answer f(x, t), otherwise put together. class_only: what is asked and what is not are both told the track of
    level. rescale: so much of the deviation goes back to that of what was asked (Lin et al. 2023). sideways: guidance does not
    lengthen the answer (Sadat et al. 2024). pull: away from a worse copy, the student of four calls (Karras et al. 2024)"""
    import torch

    from foleybook.core.generator import Conditions, Generator
    from foleybook.core.half_precision import held

    worse = held(Generator.from_pretrained(str(ROOT / "foleybook/weights/foley-fast")).backbone.eval(),
                 model.precision) if "pull" in how else None
    null = cond.drop(torch.ones(len(cond), dtype=torch.bool))
    if "class_only" in how:
        null.fields |= {k: v for k, v in cond.fields.items() if k.startswith("controls")}
    both = Conditions.cat([cond, null])

    def predict(x, t):
        asked, other = model.answer(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        way = asked - other
        if "sideways" in how:
            way = way - (way * asked).sum((1, 2, 3), keepdim=True) / asked.square().sum((1, 2, 3), keepdim=True) * asked
        said = asked + (guidance - 1) * way
        if worse is not None:
            said = said + how["pull"] * (asked - worse(x, t, cond))
        if share := how.get("rescale"):
            spread = lambda v: v.std((1, 2, 3), keepdim=True)
            said = said * (1 - share + share * spread(asked) / spread(said))
        return said
    return predict


def changed(model, how):
    "The model with what `how` says changed"
    model.config = replace(model.config, **{k: how[k] for k in ("interval",) if k in how})
    model.defaults = model.defaults | {k: how[k] for k in ("guidance", "steps", "sampler") if k in how}
    if {"class_only", "rescale", "sideways", "pull"} & {*how}:
        model.predictor = lambda cond, guidance, *_: guided(model, cond, guidance, how)
    return model


def beginnings(table, kind, n, size, rate):
    "The beginnings of recordings of a kind, the first of each of n sources, (n, size)"
    import numpy as np
    import torch
    from torch.nn import functional as F

    from foleybook.core.sound_files import read_audio

    rows = np.flatnonzero(table.df.label == kind)
    _, first = np.unique(table.df.source.to_numpy()[rows], return_index=True)
    rows = rows[np.sort(first)][:n] if len(first) >= n else rows[:n]
    cut = (read_audio(table.file(i), rate)[0][0, :size] for i in rows)
    return torch.stack([F.pad(x, (0, size - len(x))) for x in cut])


def level_of(x, model):
    "dB of every frame, (n, frames)"
    from foleybook.audio_features import log_mel
    from foleybook.core.painting import mel_level

    return mel_level(log_mel(x, model.mel), model.mel)


def measured(x, model, real, track=None):
    "Figures of sounds (n, t); real: the modulation spectrum of recordings of the kind"
    import numpy as np
    import torch

    from foleybook.evaluation import ModulationSpectrum
    from foleybook.judge.clip_measures import modulation_peak, onset_regularity, unrest

    off = torch.stack([ModulationSpectrum()(each)[0] for each in x]).mean(0) - real
    found = dict(rhythm=off.abs().mean(), swing=off.mean())
    for name, f in dict(regularity=onset_regularity, modulation=modulation_peak, unrest=unrest).items():
        found[name] = np.mean([f(each, model.sample_rate) for each in x])
    if track is not None:
        own = level_of(x, model).clamp_min(-70)
        track = track[:, :own.shape[1]].clamp_min(-70)
        found["follows"] = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(own.numpy(), track.numpy())])
        found["off"] = (own - track).abs().mean()
    return {k: float(f"{float(v):.4g}") for k, v in found.items()}


def main(names, n=10, seconds=4.):
    "Draw, measure, write down"
    from foleybook.core.data_sets import open_dataset
    from foleybook.core.generator import Generator
    from foleybook.evaluation import ModulationSpectrum
    from foleybook.judge.clips import embed_clips
    from foleybook.judge.leaderboard import _cut, split_for_judging

    table = open_dataset(Path(os.environ["FOLEYBOOK_DATA"]) / "esc10")
    rest, held, _ = split_for_judging(table, 5)
    train, held = table.subset(rest), _cut(table.subset(held), seconds)
    model = Generator.from_pretrained(str(ROOT / "foleybook/weights/foley")).set_precision("bf16")
    for kind in KINDS:
        own = held.subset((held.df.label == kind).to_numpy())
        real = embed_clips(own, ModulationSpectrum(), n_jobs=1, progress=False).clips.mean(0)
        began = beginnings(train, kind, n, round(seconds * model.sample_rate), model.sample_rate)
        track = level_of(began, model).clamp(-100, -1e-3)
        for name in names:
            start, how = time.process_time(), BEFORE | TRIED.get(name, {})
            if name != "recordings":
                one = changed(Generator.from_pretrained(str(ROOT / "foleybook/weights/foley")).set_precision("bf16"), how)
                asked = dict(controls=dict(level=track)) if "told" in how else {}
                asked |= {k: how[k] for k in ("temperature",) if k in how}
                x = one.sample(kind, n=n, seconds=seconds, seed=1000, progress=False, **asked).audio.mean(1)
            row = measured(began if name == "recordings" else x, model, real, track if "told" in how else None)
            record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
            record.setdefault(name, {})[kind] = row
            RECORD.write_text(json.dumps(record, indent=1) + "\n")
            print(f"{kind}, {name}: {time.process_time() - start:.0f} s", row, flush=True)


def board(out, n=10, seconds=4.):
    "Judge each of BOARD on fold 5, both ways"
    from foleybook.core.data_sets import open_dataset
    from foleybook.core.generator import Generator
    from foleybook.judge.evaluator import evaluate
    from foleybook.judge.leaderboard import _cut, _sample_for, _values, split_for_judging

    table = open_dataset(Path(os.environ["FOLEYBOOK_DATA"]) / "esc10")
    rest, held, _ = split_for_judging(table, 5)
    train, held = _cut(table.subset(rest), seconds), _cut(table.subset(held), seconds)
    for name, (guidance, temperature, drawn) in BOARD.items():
        model = Generator.from_pretrained(str(ROOT / "foleybook/weights/foley")).set_precision("bf16")
        model.defaults = model.defaults | dict(guidance=guidance, temperature=temperature)
        tier = Generator.from_pretrained(str(ROOT / "foleybook/weights/foley/levels"))
        own = tier.spread
        tier.spread = lambda sigma, temperature=1., own=own, share=drawn: own(sigma, share * temperature)
        model.draw_levels(tier if drawn else None)
        _sample_for(model, held.labels, n, seconds, 0, out / name)
        found = _values(evaluate(open_dataset(out / name / "clips.csv"), held, train=train, seed=0, second=True, times=0, progress=False))
        record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
        record.setdefault("board", {})[name] = {m: float(f"{found[m]:.4g}") for m in JUDGED}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        print(name, record["board"][name], flush=True)


def lines(record):
    "Means over the kinds, as Markdown"
    yield "| | " + " | ".join(FACTS) + " |"
    yield "|---" * (len(FACTS) + 1) + "|"
    for name, kinds in record.items():
        if name == "board":
            continue
        mean = {m: sum(row[m] for row in kinds.values()) / len(kinds) for m in FACTS if all(m in row for row in kinds.values())}
        yield f"| {name} | " + " | ".join(how.format(mean[m]) if m in mean else "" for m, how in FACTS.items()) + " |"


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        print("\n".join(lines(json.loads(RECORD.read_text()))))
    elif sys.argv[1:2] == ["--board"] and len(sys.argv) == 3:
        board(Path(sys.argv[2]))
    elif len(sys.argv) > 1 and {*sys.argv[1:]} <= {*TRIED, "recordings"}:
        main(sys.argv[1:])
    else:
        raise SystemExit(f"Give some of: recordings, {', '.join(TRIED)}; or --table.")
