"""Cached sampling of PixelSNAIL against recomputing the whole prefix for every code, and its parts.

The reference time of a map is extrapolated: a forward over h rows is timed for a few h, a parabola through these gives t(h)
for all rows, and every row of w codes needs w such forwards. The cached time of the map is measured.
"""
import math

import numpy as np
import torch
from _measure import difference, flops_of, interleaved, row, share

from foleybook.core import cached_pixelsnail
from foleybook.pixelsnail import CausalAttention2d, PixelSNAIL, PixelSNAILConfig
from foleybook.published.dcase2023 import PublishedPixelSNAIL, PublishedPixelSNAILConfig

PUBLISHED = dict(condition="linear map", attend_self=False, edge_bias=False)  # 103.3 M parameters in the original's file
FOLEY = dict(code_shape=(20, 86), n_classes=10, channels=64, res_channels=64, kernel_size=3, n_blocks=2, n_res_blocks=3,
             n_heads=4, attention_width=64, class_dropout=0.1)
QUICK = dict(code_shape=(10, 43), n_classes=10, channels=64, res_channels=64, kernel_size=3, n_blocks=2, n_res_blocks=3,
             n_heads=4, attention_width=64)


def _weights_read(model):
    "Bytes of weights that one cached position reads (two of 22 taps, and everything with a single tap), and bytes of all"
    k = model.config
    own = sum(m.weight_v.numel() * (k.kernel_size // 2 if len(m.taps) == k.kernel_size**2 - k.kernel_size // 2 - 1 else 1)
              / len(m.taps) for n, m in model.named_modules() if hasattr(m, "taps") and n.startswith(("blocks", "out")))
    return 4 * own, 4 * sum(p.numel() for n, p in model.named_parameters() if n.startswith(("blocks", "out")))


@torch.inference_mode()
def _rows_at_once(rounds, c=256, layers=16, taps=22, own=2, width=86):
    "The causal convolutions of one position: rows above as one product a row, and all taps at every position"
    x, w = torch.randn(layers, 1, taps * c), torch.randn(layers, taps * c, 3 * c)
    near, far = x[:, :, : own * c].contiguous(), x[:, 0, own * c :]
    rows = far[:, None].expand(-1, width, -1).contiguous()
    (every, here, above), (whole, part, rest) = interleaved(
        lambda: torch.bmm(x, w), lambda: torch.bmm(near, w[:, : own * c]),
        lambda: [rows[i] @ w[i, own * c :] for i in range(layers)], rounds=rounds)
    took = here + above / width
    same = difference(part[:, 0] + torch.stack([v[0] for v in rest]), whole[:, 0])
    read = w.nbytes / taps * (own + (taps - own) / width)
    return row("causal convolutions of one position, rows above in one product a row", 1e3 * took, "all taps at every position",
               1e3 * every, exactness=same, share=share(took, read=read))


def _training_step(rounds, settings, batch=8):
    "One training step in bf16 (autocast) and in float32, from the same weights"
    codes, cond = torch.randint(512, (batch, *settings["code_shape"])), torch.arange(batch)

    def maker(half):
        torch.manual_seed(0)
        model = PixelSNAIL(PixelSNAILConfig(**settings, attention_dropout=0.)).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

        def loss():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                logits = model(codes, cond)
            return torch.nn.functional.cross_entropy(logits.float(), codes)

        def step():
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()

        with torch.no_grad():
            model.eval()
            losses.append(loss().item())
            model.train()
        return step

    losses = []
    (half, single), _ = interleaved(maker(True), maker(False), rounds=rounds)
    return row("training step, quick 10x43, bf16", half, "float32", single, "s", difference(*losses[:2], "difference of the first loss"),
               share(half, flops=flops_of(maker(False)), dtype=torch.bfloat16))


def _attention(rounds, rows=20, columns=86, batch=1):
    "One attention of the published size with dropout, there and back; without dropout both must be the same"
    layer, n = CausalAttention2d(258, 514, 128, 8, dropout=0.1).train(), rows * columns
    query, key = torch.randn(batch, 258, rows, columns), torch.randn(batch, 514, rows, columns)

    def plain(dropout=0.1):
        q, k, v = map(layer.heads, (layer.query(query), layer.key(key), layer.value(key)))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        weights = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -1e4).softmax(-1)
        return torch.nn.functional.dropout(weights, dropout) @ v

    (ours, reference), _ = interleaved(
        lambda: layer(query, key).sum().backward(), lambda: plain().sum().backward(), rounds=rounds)
    work = flops_of(lambda: plain().sum().backward())
    with torch.no_grad():
        exact = layer.eval()(query, key).flatten(2)
        same = difference(exact, plain(0).mT.reshape(exact.shape))
    return row(f"attention {rows}x{columns} with dropout, there and back, in blocks of queries", ours, "all weights in memory",
               reference, "s", f"without dropout: {same}", share(ours, flops=work))


def _two_ways(model, batch, rounds, rows, **how):
    "A part of a map of a batch by torch calls and by the compiled function, a sample"
    cond, shape = torch.arange(batch) % model.config.n_classes, model.config.map_shape
    init, mask = torch.zeros(batch, *shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    mask[:rows] = True

    def draw(megabytes):
        before, cached_pixelsnail.COMPILED_MB = cached_pixelsnail.COMPILED_MB, megabytes
        try:
            return model.sample_codes(cond, list(range(batch)), init=init, mask=mask, **how)
        finally:
            cached_pixelsnail.COMPILED_MB = before

    (ours, reference), codes = interleaved(lambda: draw(math.inf), lambda: draw(0), rounds=rounds)
    products = _weights_read(model)[0] / 2 * rows * shape[1] * (2 if "guidance" in how else 1)
    return row(f"foley prior, {rows} rows of {shape[1]}, batch {batch}{', guided' if how else ''}, one compiled function, a sample",
               ours / batch, "torch calls", reference / batch, "s", f"codes {_same(*codes)}", share(ours / batch, flops=products))


def _same(a, b):
    return "equal, all of them" if torch.equal(a, b) else f"differ: {int((a != b).sum())} of {a.numel()}"


@torch.inference_mode()
def _map(name, settings, heights, rounds, warm):
    "A whole map, alone and in a batch of eight, and the weights that it reads"
    model = PublishedPixelSNAIL(PublishedPixelSNAILConfig(**settings)).eval()  # without quirks the same as `PixelSNAIL`
    (h, w), k = model.config.map_shape, model.config
    cond, codes = torch.arange(8) % k.n_classes, torch.randint(k.n_codes, (1, *k.map_shape))
    prefixes = [lambda n=n: model(codes[:, :n], cond[:1]) for n in heights]
    draw = lambda n, **how: model.sample_codes(cond[:n], list(range(n)), **how)  # noqa: E731
    (one, eight, *parts), (alone, batch, *_) = interleaved(
        lambda: draw(1), lambda: draw(8), *prefixes, rounds=rounds, warm=warm)
    curve = np.polyfit(heights, parts, min(2, len(heights) - 1))
    plain = float(w * np.polyval(curve, np.arange(1, h + 1)).sum())
    positions, (read, whole) = h * w, _weights_read(model)
    likely = draw(1, top_k=1)
    forward = model(likely, cond[:1])
    found = _same(forward.argmax(1), likely)
    yield row(f"{name} map, batch 1", one, f"recomputing the prefix, extrapolated from {', '.join(map(str, heights))} rows", plain, "s",
              f"likeliest codes and those of one forward over them {found}", share(one, read=read * positions))
    yield row(f"{name} map, batch 8, a sample", eight / 8, "batch 1 of the row above", one, "s",
              f"codes of the first map {_same(alone[:1], batch[:1])}", share(eight / 8, flops=read / 2 * positions))
    yield row(f"{name} map, weights read", read * positions / 1e9, "all taps at every position", whole * positions / 1e9, "GB")


def benchmarks(published=True, rounds=3, rows=8, quick=QUICK, foley=FOLEY, attention=(20, 86), rows_at_once={}):
    "Rows, see `_measure.row`; tests take smaller settings"
    torch.manual_seed(0)
    found = [_rows_at_once(rounds, **rows_at_once), _training_step(rounds, quick), _attention(rounds, *attention)]
    prior = PixelSNAIL(PixelSNAILConfig(**foley)).eval()
    for batch, how in ((1, {}), (8, {}), (8, dict(guidance=3.0, top_p=0.9))):
        found.append(_two_ways(prior, batch, rounds, rows, **how))
    found += _map("quick 10x43", quick, (2, 5, 10), rounds, True)
    if published:
        found += _map("published 20x86", PUBLISHED, (1, 4, 8), 2, False)
    return found
