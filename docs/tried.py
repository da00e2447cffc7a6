"""What was tried to make clocks keep their pace and the flow be calm: one change of `foley` at a time, few sounds, a few seconds a row.

    python docs/tried.py NAME ...     draw ten sounds of each kind in KINDS (or in the variable KINDS, commas between) with each
                                      change named, measure them, add the rows to docs/tried.json. FOLEYBOOK_DATA has ESC-10
    python docs/tried.py --table      print the means over the kinds, the board and the stages as Markdown
    python docs/tried.py --board OUT NAME ...  a hundred sounds of ten kinds with each change of BOARD named (none named: all), judged
                                      as chapter 12 does, into docs/tried.json; OUT keeps the sounds
    python docs/tried.py --stages OUT NAME ... recordings of folds 1 to 4 noised part of the way and painted again, judged in the same way

Measured is what needs no network: rhythm (distance of mean modulation spectra from fold 5), swing (how much more the level swings
than there, in nats of power, all rates), regularity, modulation, unrest (dB in 10 ms); where a track of level was told, how well it
was followed. The tracks are those of recordings of folds 1 to 4, whose own figures are the row `recordings`. What looks better here
is a candidate; accuracy, coverage and the rest are for docs/measure.py to say.
"""
import json
import math
import os
import sys
import time
from dataclasses import replace
from functools import partial
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


BOARD = dict(  # name -> what is changed of NOW; drawn: share of its spread with which a slow tier draws the levels, 0: nobody says
    nobody_says={}, levels_drawn=dict(drawn=1.), nobody_says_2=dict(guidance=2., temperature=.9),
    levels_drawn_2=dict(guidance=2., temperature=.9, drawn=1.), levels_milder_2=dict(guidance=2., temperature=.9, drawn=.6),
    early=dict(interval=(.3, 1.)), late=dict(interval=(0., .8)), falling_4=dict(guidance=4., falling=1.),
    less_grain=dict(grain=.85), coarse_noise=dict(parts=(16, 1., .8)), even_clock=dict(ticks=True),
    early_colour=dict(interval=(.3, 1.), slow=1.3, grain=1.08))
NOW = dict(guidance=3., temperature=.85)
JUDGED = "accuracy", "second", "frechet", "rhythm", "coverage", "spread", "unrest", "regularity", "told_apart"
BESIDE = dict(clock=("clock_tick", "regularity"), blades=("helicopter", "modulation"))
ROWS = dict(  # how a table calls a row of the board or a stage
    nobody_says="**`foley`**", nobody_says_2="guidance 2, noise times .9", early="guidance in the noisy .7 of the way only",
    late="guidance in the clean .8 of the way only", falling_4="guidance falls from 4 to 1", less_grain="grain times .85",
    coarse_noise="noise times 1 in the first 16 latents, .8 in the others", even_clock="clocks are told even ticks",
    early_colour="guidance in the noisy .7, grain times 1.08, the noise's mean over time times 1.3",
    untouched="the recordings themselves", round_trip=".02: autoencoder, grain and vocoder", noise_40=".4", noise_80=".8")
COLUMNS = dict(accuracy="{:.2f}", second="{:.2f}", frechet="{:.0f}", rhythm="{:.2f}", coverage="{:.2f}", spread="{:.2f}", unrest="{:+.2f}",
               told_apart="{:.2f}", clock="{:.2f}", blades="{:.1f}")
STAGES = dict(untouched=0., round_trip=.02, noise_40=.4, noise_80=.8)  # name -> how much of it is noise when painting begins


def guided(model, cond, guidance, how):
    """The guided answer f(x, t), otherwise put together. class_only: what is asked and what is not are both told the track of
    level. rescale: so much of the deviation goes back to that of what was asked (Lin et al. 2023). sideways: guidance does not
    lengthen the answer (Sadat et al. 2024). pull: away from a worse copy, the student of four calls (Karras et al. 2024). falling:
    guidance falls to 1 with this power of the time"""
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
        power = how.get("falling", 0)
        said = asked + (guidance - 1) * float((t[0] + 1) / 1000) ** power * way
        if worse is not None:
            said = said + how["pull"] * (asked - worse(x, t, cond))
        if share := how.get("rescale"):
            spread = lambda v: v.std((1, 2, 3), keepdim=True)
            said = said * (1 - share + share * spread(asked) / spread(said))
        return said
    return predict


def changed(model, how):
    "The model with what `how` says changed"
    model.config = replace(model.config, **{k: how[k] for k in ("interval", "shift") if k in how})
    model.defaults = model.defaults | {k: how[k] for k in ("guidance", "steps", "sampler", "temperature") if k in how}
    if {"class_only", "rescale", "sideways", "pull", "falling"} & {*how}:
        model.predictor = lambda cond, guidance, *_: guided(model, cond, guidance, how)
    if "grain" in how:  # so much of the roughness that the latents left out
        model.vae.grain.register_forward_hook(lambda net, given, said: said + math.log(how["grain"]))
    if "slow" in how:  # the share of the noise's mean over time: what the whole sound is like
        model.sample_latents = partial(slowly, model, model.sample_latents, how["slow"])
    if "parts" in how:  # shares of the noise of the first latents, which say the most, and of the others
        model.sample_latents = partial(in_parts, model, model.sample_latents, *how["parts"])
    return model


def in_parts(model, sample, first, large, small, cond, seeds, columns, init=None, keep=None, temperature=None, **asked):
    "Latents from noise of which the first so many have another share than the others"
    import torch

    from foleybook.core.generator import ItemNoise

    c = model.vae.config
    noise = ItemNoise(seeds).randn(c.channels, c.rows, columns)
    share = torch.full((c.channels, 1, 1), small)
    share[:first] = large
    return sample(cond, seeds, columns, init, keep, noise=noise * share, **asked)


def slowly(model, sample, slow, cond, seeds, columns, init=None, keep=None, temperature=1., **asked):
    "Latents from noise whose mean over time has another share than what comes and goes"
    from foleybook.core.generator import ItemNoise

    c = model.vae.config
    noise = ItemNoise(seeds).randn(c.channels, c.rows, columns)
    mean = noise.mean(-1, keepdim=True)
    return sample(cond, seeds, columns, init, keep, noise=temperature * (noise - mean) + slow * mean, **asked)


def even_ticks(track):
    "Tracks of level, dB, (n, frames): each folded on the period at which it repeats best and laid end to end"
    import numpy as np
    import torch

    out = []
    for y in track.clamp_min(-70).numpy():
        z = y - y.mean()
        power = np.correlate(z, z, "full")[len(z) - 1:] / np.arange(len(z), 0, -1)
        lags = np.arange(17, 113)  # 0.2 to 1.3 s
        period = lags[power[lags].argmax()]
        phase = np.arange(len(y)) % period
        out.append(np.array([y[phase == k].mean() for k in range(period)])[phase])
    return torch.tensor(np.stack(out)).float()


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


def drawn(model, train, how, n, seconds, out):
    "n sounds of each kind, the n ticking ones told even ticks if `how` says so; a folder with clips.csv"
    from foleybook.judge.leaderboard import _sample_for

    sample, size = model.sample, round(seconds * model.sample_rate)

    def told(kind, **asked):
        if how.get("ticks") and kind == "clock_tick":
            track = even_ticks(level_of(beginnings(train, kind, n, size, model.sample_rate), model)).clamp(-100, -1e-3)
            asked |= dict(controls=dict(level=track))
        return sample(kind, **asked)
    model.sample = told
    _sample_for(model, train.labels, n, seconds, 0, out)
    return out / "clips.csv"


def repainted(model, train, strength, n, seconds, out):
    "n beginnings of recordings of each kind, noised so far and painted again; 0: as they are"
    from foleybook.judge.leaderboard import _sample_for

    sample, size = model.sample, round(seconds * model.sample_rate)
    model.sample = lambda kind, **asked: sample(kind, init=beginnings(train, kind, n, size, model.sample_rate)[:, None],
                                                strength=strength, **asked)
    _sample_for(model, train.labels, n, seconds, 0, out)
    return out / "clips.csv"


def judged(clips, held, train, cache):
    "JUDGED and BESIDE of the clips listed in a file"
    from foleybook.core.data_sets import open_dataset
    from foleybook.judge.evaluator import evaluate
    from foleybook.judge.leaderboard import _values

    result = evaluate(open_dataset(clips), held, train=train, seed=0, second=True, times=0, cache=cache, n_jobs=1, progress=False)
    found, rows = _values(result), result.table.set_index(["label", "measure"]).value
    return {m: float(f"{v:.4g}") for m, v in [(m, found[m]) for m in JUDGED] + [(m, rows[at]) for m, at in BESIDE.items()]}


def board(out, names, n=10, seconds=4.):
    "Judge some of BOARD, or STAGES, on fold 5"
    from foleybook.core.data_sets import open_dataset
    from foleybook.core.generator import Generator
    from foleybook.judge.leaderboard import _cut, split_for_judging

    table = open_dataset(Path(os.environ["FOLEYBOOK_DATA"]) / "esc10")
    rest, held, _ = split_for_judging(table, 5)
    train, held = _cut(table.subset(rest), seconds), _cut(table.subset(held), seconds)
    for name in names:
        start, how = time.process_time(), NOW | BOARD.get(name, {})
        model = Generator.from_pretrained(str(ROOT / "foleybook/weights/foley")).set_precision("bf16")
        model = changed(model, how)
        if share := how.get("drawn"):
            tier = Generator.from_pretrained(str(ROOT / "foleybook/weights/foley/levels"))
            own = tier.spread
            tier.spread = lambda sigma, temperature=1., own=own, share=share: own(sigma, share * temperature)
            model.draw_levels(tier)
        make = partial(repainted, strength=STAGES[name]) if name in STAGES else partial(drawn, how=how)
        row = judged(make(model, train, n=n, seconds=seconds, out=out / name), held, train, out / "cache")
        record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
        record.setdefault("stages" if name in STAGES else "board", {})[name] = row
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: {time.process_time() - start:.0f} s", row, flush=True)


def lines(record):
    "Means over the kinds, as Markdown"
    yield "| | " + " | ".join(FACTS) + " |"
    yield "|---" * (len(FACTS) + 1) + "|"
    for name, kinds in record.items():
        if name in ("board", "stages"):
            continue
        mean = {m: sum(row[m] for row in kinds.values()) / len(kinds) for m in FACTS if all(m in row for row in kinds.values())}
        yield f"| {name} | " + " | ".join(how.format(mean[m]) if m in mean else "" for m, how in FACTS.items()) + " |"


def judged_lines(rows, first):
    "Rows of the board or of the stages that ROWS has a name for, as Markdown"
    yield f"| {first} | " + " | ".join(COLUMNS).replace("_", " ") + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for name, title in ROWS.items():
        if "clock" in (row := rows.get(name, {})):
            yield f"| {title} | " + " | ".join(how.format(row[m]) for m, how in COLUMNS.items()) + " |"


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        kept = json.loads(RECORD.read_text())
        for told in (lines(kept), judged_lines(kept["board"], ""), judged_lines(kept["stages"], "noise")):
            print(*told, "", sep="\n")
    elif sys.argv[1:2] == ["--board"] and len(sys.argv) > 2 and {*sys.argv[3:]} <= {*BOARD}:
        board(Path(sys.argv[2]), sys.argv[3:] or BOARD)
    elif sys.argv[1:2] == ["--stages"] and len(sys.argv) > 2 and {*sys.argv[3:]} <= {*STAGES}:
        board(Path(sys.argv[2]), sys.argv[3:] or STAGES)
    elif len(sys.argv) > 1 and {*sys.argv[1:]} <= {*TRIED, "recordings"}:
        main(sys.argv[1:])
    else:
        raise SystemExit(f"Give some of: recordings, {', '.join(TRIED)}; or --table.")
