"""Drawing with a transformer: keys and values kept against the whole text again for every code, machine code against torch calls.

The plain ways are extrapolated: `growing` runs the text so far for every code (a line through three lengths, summed), `whole` runs a text of
full length for every code, as the published evaluation does. The cached time of a map is measured.
"""
import math

import numpy as np
import torch
from _measure import interleaved, row, share

from foleybook import transformer
from foleybook.core.half_precision import held, held_linears
from foleybook.transformer import CodeGPT, ParallelTransformer, TransformerConfig

PUBLISHED = dict(code_shape=(5, 53), n_codes=1024, n_classes=309, width=1024, n_layers=24, n_heads=16, places="table", near=False,
                 slide="column", dropout=0.0, class_dropout=0.0)
QUICK = dict(code_shape=(10, 43), n_codes=512, n_classes=10)
FOLEY = dict(code_shape=(20, 86), n_codes=512, n_classes=10, width=192, n_layers=5, n_heads=6)


def _same(a, b):
    return "equal, all of them" if torch.equal(a, b) else f"differ: {int((a != b).sum())} of {a.numel()}"


def _bytes(model):
    "Weights read for one token"
    return 4 * sum(p.numel() for p in (*model.blocks.parameters(), *model.head.parameters()))


def _text(model, cond, x, t):
    "Logits of the next code from the text so far, t codes, seen as a whole"
    h = torch.cat([model.prefix(cond, 1), model.embed(x, model.steps, 1, t)], 1)
    for block in model.blocks:
        h = block(h)
    return model.head(model.ln_f(h[:, -1]))


@torch.inference_mode()
def _map(name, settings, lengths, rounds, warm):
    "A whole map, alone: kept keys and values, the text so far, and the whole text"
    model = CodeGPT(TransformerConfig(**settings)).eval()
    cond, codes = torch.zeros(1, dtype=torch.long), torch.randint(model.config.n_codes, (1, *model.steps.shape))
    steps, x = len(model.steps.first), model.rows_of(model.steps.to_steps(codes, 0), model.steps)

    draw = lambda n, **how: model.sample_codes(torch.arange(n) % model.config.n_classes, list(range(n)), **how)  # noqa: E731
    (one, *parts), _ = interleaved(lambda: draw(1), *[lambda t=t: _text(model, cond, x, t) for t in lengths], rounds=rounds, warm=warm)
    growing = float(np.polyval(np.polyfit(lengths, parts, 1), np.arange(1, steps)).sum())
    likely = draw(1, top_k=1)
    found = f"likeliest codes and those of one forward over them {_same(model(likely, cond).argmax(1), likely)}"
    read = share(one, read=_bytes(model) * steps)
    yield row(f"{name} map, {steps} codes, batch 1", one, f"the text so far, extrapolated from {', '.join(map(str, lengths))} codes",
              growing, "s", found, read)
    yield row(f"{name} map, {steps} codes, batch 1", one, f"the whole text for every code, {lengths[-1]} codes timed",
              parts[-1] * steps, "s", found, read)


@torch.inference_mode()
def _two_ways(name, settings, batch, rounds, columns, **how):
    "A part of the maps of a batch by torch calls and by the compiled function, a sample"
    model = CodeGPT(TransformerConfig(**settings)).eval()
    cond, (h, w) = torch.arange(batch) % model.config.n_classes, model.map_shape
    mask = (torch.arange(w) < columns).expand(h, -1)
    init = torch.zeros(batch, *model.config.code_shape, dtype=torch.long)

    def draw(megabytes):
        before, transformer.COMPILED_ROWS_MB = transformer.COMPILED_ROWS_MB, megabytes
        try:
            return model.sample_codes(cond, list(range(batch)), init=init, mask=mask, **how)
        finally:
            transformer.COMPILED_ROWS_MB = before

    (ours, plain), codes = interleaved(lambda: draw(math.inf), lambda: draw(0), rounds=rounds)
    work = _bytes(model) / 2 * h * columns * (2 if "guidance" in how else 1)
    return row(f"{name}, {columns} columns of {h}, batch {batch}{', guided' if how else ''}, one compiled function, a sample", ours / batch,
               "torch calls", plain / batch, "s", f"codes {_same(*codes)}", share(ours / batch, flops=work))


@torch.inference_mode()
def _held(name, settings, batch, rounds, columns=2, lengths=()):
    "The first columns of a map with weights held in fewer bits and in float32, the text so far again for every code, and logits of a whole text"
    model = CodeGPT(TransformerConfig(**settings)).eval()
    cond, (h, w) = torch.arange(batch) % model.config.n_classes, model.map_shape
    mask = (torch.arange(w) < columns).expand(h, -1)
    init = torch.randint(model.config.n_codes, (batch, *model.config.code_shape))
    steps, x = len(model.steps.first), model.rows_of(model.steps.to_steps(init[:1].view(1, *model.steps.shape), 0), model.steps)

    def draw(precision):
        model.precision = precision
        return model.sample_codes(cond, list(range(batch)), init=init, mask=mask)

    exact = model(init[:1], cond[:1])
    for precision in ("bf16", "int8"):  # one after the other: a model holds one copy
        ways = [lambda t=t: _text(model, cond[:1], x, t) for t in lengths] if precision == "int8" else []
        (ours, plain, *parts), _ = interleaved(lambda: draw(precision), lambda: draw("float32"), *ways, rounds=rounds)
        near = held(model, precision, held_linears)(init[:1], cond[:1])
        snr = 10 * torch.log10(exact.var() / (exact - near).square().mean())
        likely = (near.argmax(1) == exact.argmax(1)).double().mean()
        found = f"logits of a whole text: {snr:.0f} dB, the likeliest code the same in {likely:.1%}"
        yield row(f"{name}, {columns} columns of {h}, batch {batch}, weights held in {precision}", ours / batch, "float32", plain / batch, "s", found)
        if parts:
            growing = float(np.polyval(np.polyfit(lengths, parts, 1), np.arange(1, steps)).sum())
            yield row(f"{name} map, {steps} codes, weights held in {precision}, extrapolated from {columns} columns", ours * w / columns,
                      f"the text so far, extrapolated from {', '.join(map(str, lengths))} codes", growing, "s", found)


@torch.inference_mode()
def _rounds(settings, batch, rounds):
    "A map in twelve rounds, and code after code"
    one, all_ = CodeGPT(TransformerConfig(**settings)).eval(), ParallelTransformer(TransformerConfig(**settings)).eval()
    cond, seeds = torch.arange(batch) % one.config.n_classes, list(range(batch))
    (ours, plain), _ = interleaved(lambda: all_.sample_codes(cond, seeds), lambda: one.sample_codes(cond, seeds), rounds=rounds)
    return row(f"quick map in twelve rounds, batch {batch}, a sample", ours / batch, "code after code", plain / batch, "s")


def benchmarks(published=True, rounds=3, columns=8, quick=QUICK, foley=FOLEY, lengths=(1, 132, 264)):
    "Rows, see `_measure.row`; tests take smaller settings"
    torch.manual_seed(0)
    found = [_two_ways("quick prior", quick, batch, rounds, columns, **how)
             for batch, how in ((1, {}), (8, {}), (8, dict(guidance=3.0, top_p=0.9)))]
    found.append(_two_ways("foley prior", foley, 1, rounds, columns))
    found += [_rounds(quick, batch, rounds) for batch in (1, 8)]
    steps = math.prod(quick["code_shape"])
    found += _map("quick", quick, (1, steps // 2, steps - 1), rounds, True)
    if published:
        found += [r for batch in (1, 8) for r in _held("published prior", PUBLISHED, batch, rounds, lengths=lengths if batch == 1 else ())]
        found += _map("published", PUBLISHED, lengths, 2, False)
    return found
