"Speed of the judge: wide Fréchet distances against scipy's matrix root, bootstrap against plain recomputation"
import time

import numpy as np
import torch
from foleybook import embedders as em
from foleybook import evaluation as ev


def seconds(f, repeats=1):
    best = np.inf
    for _ in range(repeats):
        began = time.process_time()
        f()
        best = min(best, time.process_time() - began)
    return best


def frechet(n, d):
    from scipy import linalg

    g = torch.Generator().manual_seed(0)
    a, b = (ev.gaussian(torch.randn(n, d, generator=g)) for _ in range(2))
    ours = seconds(lambda: ev.frechet_distance(a, b))
    plain = seconds(lambda: linalg.sqrtm((a.sigma @ b.sigma).numpy()))
    return dict(name=f"Fréchet, {n} x {d}", ours=ours, plain=plain, ratio=plain / ours, unit="cpu s", note="scipy sqrtm")


def intervals(clips=400, windows=3, d=512, times=20):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(clips * windows, d, generator=g) for _ in range(2))
    emb = em.Embeddings(x, torch.full((clips,), windows), np.array(["a"] * clips), [""] * clips, [], None, [], [])
    index = [torch.randint(clips, (clips,), generator=g) for _ in range(times)]
    measure = ev._frechet_to(emb, y)
    ours = seconds(lambda: [measure(i) for i in index])
    plain = seconds(lambda: [ev.frechet_distance(x[emb.rows_of(i)], y) for i in index])
    return dict(name=f"{times} bootstrap distances", ours=ours, plain=plain, ratio=plain / ours, unit="cpu s",
                note="each from scratch")


def embedding(count=3):
    "Processor seconds for one clip of 5 s"
    x = torch.randn(1, 5 * 44100, generator=torch.Generator().manual_seed(0))
    rows = []
    for name in ("log-mel", "aisfx"):
        try:
            embedder = em.find_embedder(name)
        except FileNotFoundError:
            continue
        rows.append(dict(name=f"embed 5 s, {embedder.name}", ours=seconds(lambda: embedder.embed(x, 44100), count), plain=None,
                         ratio=None, unit="cpu s", note=""))
    return rows


def benchmarks():
    "One dict a row: name, ours, plain, ratio, unit, note"
    return [frechet(1000, 2048), frechet(4000, 2048), intervals(), *embedding()]
