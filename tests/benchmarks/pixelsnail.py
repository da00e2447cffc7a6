"""Cached sampling of PixelSNAIL against recomputing the whole prefix for every code, in the same run.

The plain time of a map is extrapolated: a forward over h rows is timed for a few h, a parabola through these gives t(h)
for all rows, and every row of w codes needs w such forwards. The cached time of the map is measured.
"""
import math
import time
from statistics import median

import numpy as np
import torch

from foleybook import pixelsnail
from foleybook.pixelsnail import CausalAttention2d, PixelSNAIL, PixelSNAILConfig

PUBLISHED = dict(condition="linear map", attend_self=False, edge_bias=False)  # 103.3 M parameters in the original's file
FOLEY = dict(code_shape=(20, 86), n_classes=10, channels=64, res_channels=64, kernel_size=3, n_blocks=2, n_res_blocks=3,
             n_heads=4, attention_width=64, class_dropout=0.1)
QUICK = dict(code_shape=(10, 43), n_classes=10, channels=64, res_channels=64, kernel_size=3, n_blocks=2, n_res_blocks=3,
             n_heads=4, attention_width=64)


def _timed(f, repeats=2):
    "Least wall time of `repeats` calls, and its processor time"
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        f()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(times)


@torch.inference_mode()
def _plain(model, batch, heights):
    "Seconds (wall, processor) of one map by recomputing the prefix, extrapolated from forwards over `heights` rows"
    h, w = model.config.map_shape
    cond = torch.arange(batch) % model.config.n_classes
    codes = torch.randint(model.config.n_codes, (batch, h, w))
    times = np.array([_timed(lambda n=n: model(codes[:, :n], cond)) for n in heights])
    return [w * np.polyval(np.polyfit(heights, times[:, k], 2), np.arange(1, h + 1)).sum() for k in (0, 1)]


def _ours(model, batch):
    "Seconds (wall, processor) of one call of `sample_codes`"
    cond = torch.arange(batch) % model.config.n_classes
    return _timed(lambda: model.sample_codes(cond, list(range(batch))), 1)


def _weights_read(model):
    "Megabytes of weights that one cached position reads: two of 22 taps, and everything with a single tap"
    k = model.config
    own = sum(m.weight_v.numel() * (k.kernel_size // 2 if len(m.taps) == k.kernel_size**2 - k.kernel_size // 2 - 1 else 1)
              / len(m.taps) for n, m in model.named_modules() if hasattr(m, "taps") and n.startswith(("blocks", "out")))
    return 4 * own / 1e6


def _bandwidth():
    "GB/s of reading a large array with all threads"
    big = torch.randn(64 << 20)
    return big.nbytes / _timed(big.sum, 6)[0] / 1e9


@torch.inference_mode()
def _rows_at_once(c=256, layers=16, taps=22, own=2, width=86):
    "Milliseconds a position for the causal convolutions: rows above as one product a row, and all taps at every position"
    x, w = torch.randn(layers, 1, taps * c), torch.randn(layers, taps * c, 3 * c)
    every = _timed(lambda: torch.bmm(x, w), 3)[0]
    near = _timed(lambda: torch.bmm(x[:, :, : own * c].contiguous(), w[:, : own * c]), 5)[0]
    rows = torch.randn(width, (taps - own) * c)
    above = _timed(lambda: [rows @ w[i, own * c :] for i in range(layers)], 2)[0]
    return 1e3 * (near + above / width), 1e3 * every


def _two_ways(model, batch, rounds=3, rows=None, **how):
    "Processor seconds of a map of a batch: torch calls and the compiled function, interleaved; are their codes the same?"
    cond, times, codes = torch.arange(batch) % model.config.n_classes, dict(torch=[], compiled=[]), {}
    init, mask = torch.zeros(batch, *model.config.map_shape, dtype=torch.long), torch.zeros(model.config.map_shape, dtype=torch.bool)
    mask[:rows] = True
    before = pixelsnail.COMPILED_MB
    try:
        for k in range(rounds + 1):
            for way, megabytes in (("torch", 0), ("compiled", math.inf)):
                pixelsnail.COMPILED_MB = megabytes
                start = time.process_time()
                codes[way] = model.sample_codes(cond, list(range(batch)), init=init, mask=mask, **how)
                if k:  # the first round compiles
                    times[way].append((time.process_time() - start) / batch)
    finally:
        pixelsnail.COMPILED_MB = before
    return median(times["torch"]), median(times["compiled"]), torch.equal(codes["torch"], codes["compiled"])


def _attention(way, batch=1):
    "Processor seconds of one attention of the published size with dropout, there and back"
    layer = CausalAttention2d(258, 514, 128, 8, dropout=0.1).train()
    query, key = torch.randn(batch, 258, 20, 86), torch.randn(batch, 514, 20, 86)

    def plain():
        q, k, v = map(layer.heads, (layer.query(query), layer.key(key), layer.value(key)))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        weights = scores.masked_fill(torch.ones(1720, 1720, dtype=torch.bool).triu(1), -1e4).softmax(-1)
        return torch.nn.functional.dropout(weights, 0.1) @ v

    run = (lambda: plain().sum().backward()) if way == "plain" else (lambda: layer(query, key).sum().backward())
    run()
    times = []
    for _ in range(3):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return median(times)


def _training_step(precision, batch=8):
    "Seconds of one training step of the quick prior under autocast"
    torch.manual_seed(0)
    model = PixelSNAIL(PixelSNAILConfig(**QUICK, attention_dropout=0.)).train()
    codes, cond = torch.randint(512, (batch, *model.config.code_shape)), torch.arange(batch)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def step():
        with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
            logits = model(codes, cond)
        torch.nn.functional.cross_entropy(logits.float(), codes).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return _timed(step, 4)[0]


def benchmarks(published=True):
    "Rows of name, ours, plain, ratio (plain / ours), unit and note"
    rows, gbytes = [], _bandwidth()
    torch.manual_seed(0)
    ours, plain = _rows_at_once()
    rows.append(dict(name="causal convolutions of one position", ours=ours, plain=plain, ratio=plain / ours, unit="ms",
                     note="ours: the rows above in one product a row; plain: all taps at every position"))
    single, half = _training_step(None), _training_step(torch.bfloat16)
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    rows.append(dict(name="training step, quick 10x43, bf16", ours=half, plain=single, ratio=single / half, unit="s",
                     note=f"plain: float32; this processor {'has' if able else 'does not have'} bf16 products"))
    ours, plain = _attention("ours"), _attention("plain")
    rows.append(dict(name="attention 20x86 with dropout, there and back", ours=ours, plain=plain, ratio=plain / ours, unit="s",
                     note="ours: blocks of queries, computed again on the way back; plain: all weights in memory; processor time"))
    foley = PixelSNAIL(PixelSNAILConfig(**FOLEY)).eval()
    for batch, how in ((1, {}), (8, {}), (8, dict(guidance=3.0, top_p=0.9))):
        plain, ours, same = _two_ways(foley, batch, rows=8, **how)
        rows.append(dict(name=f"foley prior, 8 rows of 86, batch {batch}{', guided' if how else ''}, a sample", ours=ours, plain=plain,
                         ratio=plain / ours, unit="s", exact=same, note="ours: one compiled function; plain: torch calls; processor time"))
    for name, settings, heights in (("quick 10x43", QUICK, (2, 5, 10)), ("published 20x86", PUBLISHED, (1, 4, 8))):
        if name.startswith("published") and not published:
            continue
        model = PixelSNAIL(PixelSNAILConfig(**settings)).eval()
        (wall, cpu), (plain, plain_cpu) = _ours(model, 1), _plain(model, 1, heights)
        positions, read = math.prod(model.config.map_shape), _weights_read(model)
        whole = 4e-6 * sum(p.numel() for n, p in model.named_parameters() if n.startswith(("blocks", "out")))
        rows.append(dict(name=f"{name} map, batch 1", ours=wall, plain=plain, ratio=plain / wall, unit="s",
                         share_of_bandwidth=read * positions / 1e3 / wall / gbytes,
                         note=f"plain extrapolated from {heights} rows; processor time ratio {plain_cpu / cpu:.0f}; "
                              f"reads {read:.0f} MB of weights a position, all of them are {whole:.0f} MB: reading all "
                              f"once a position would take {whole * positions / 1e3 / gbytes:.0f} s at {gbytes:.1f} GB/s"))
        eight, eight_cpu = _ours(model, 8)
        rows.append(dict(name=f"{name} map, batch 8, a sample", ours=eight / 8, plain=wall, ratio=8 * wall / eight, unit="s",
                         note=f"plain: batch 1 of the row above; processor time ratio {8 * cpu / eight_cpu:.1f}"))
    return rows


if __name__ == "__main__":
    for row in benchmarks():
        print(row)
