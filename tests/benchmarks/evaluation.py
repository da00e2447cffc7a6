"Speed of the judge: wide Fréchet distances against scipy's matrix root, bootstrap against plain recomputation"
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _measure import OWN_LENGTH, difference, interleaved, row

from foleybook.core.files import atomic_file
from foleybook.judge import clips as heard_clips
from foleybook.judge import embedders as em
from foleybook import evaluation as ev


def _plain_frechet(a, b):
    "The formula with scipy's matrix root"
    from scipy import linalg

    root = linalg.sqrtm((a.sigma @ b.sigma).numpy()).real
    return float((a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * np.trace(root))


def frechet(n, d, rounds):
    g = torch.Generator().manual_seed(0)
    a, b = (ev.gaussian(torch.randn(n, d, generator=g)) for _ in range(2))
    (ours, plain), results = interleaved(
        lambda: float(ev.frechet_distance(a, b)), lambda: _plain_frechet(a, b), rounds=rounds, warm=False)
    return row(f"Fréchet distance, {n} x {d}", ours, "scipy's sqrtm", plain, "s", difference(*results, "difference"))


def intervals(clips=400, windows=3, d=512, times=20):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(clips * windows, d, generator=g) for _ in range(2))
    emb = heard_clips.Embeddings(x, torch.full((clips,), windows), np.array(["a"] * clips), [""] * clips, [], None, [], [])
    index = [torch.randint(clips, (clips,), generator=g) for _ in range(times)]
    measure = ev._frechet_to(emb, y)
    (ours, plain), (a, b) = interleaved(
        lambda: [float(measure(i)) for i in index],
        lambda: [float(ev.frechet_distance(x[emb.rows_of(i)], y)) for i in index], rounds=3, warm=False)
    return row(f"{times} bootstrap distances, {clips} clips, {windows} x {d} each", ours, "each from scratch", plain, "s",
               difference(a, b))


def embedding(rounds, seconds=5.0):
    "One clip, beside its own length"
    x = torch.randn(1, round(seconds * 44100), generator=torch.Generator().manual_seed(0))
    for name in ("log-mel", "aisfx"):
        try:
            embedder = em.find_embedder(name)
        except FileNotFoundError:
            continue
        (ours,), (mono,) = interleaved(lambda: embedder.embed(x, 44100), rounds=rounds)
        yield row(f"embed {seconds:g} s, {embedder.name}", ours, OWN_LENGTH, seconds, "s",
                  "mono and two equal channels: " + difference(embedder.embed(x.expand(2, -1), 44100), mono))


def halves(rounds, seconds=5.0):
    "aiSFX in bf16 against float32, where the processor has such products"
    try:
        half, full = em.Aisfx(precision="bf16"), em.Aisfx(precision="float32")
    except FileNotFoundError:
        return
    x = torch.randn(1, round(seconds * 44100), generator=torch.Generator().manual_seed(0))
    (ours, plain), (a, b) = interleaved(lambda: half.embed(x, 44100), lambda: full.embed(x, 44100), rounds=rounds)
    cosine = float(torch.cosine_similarity(a, b).min())
    yield row(f"embed {seconds:g} s, aiSFX in bf16", ours, "float32", plain, "s", f"cosine {cosine:.5f}")


def kept(clips=200, d=512, windows=3):
    "Vectors of clips written and found again: many in a file, against a file for each, as `evaluate` had them; real time"
    g = torch.Generator().manual_seed(0)
    rows = {hashlib.sha256(str(i).encode()).hexdigest(): torch.randn(windows, d, generator=g).numpy() for i in range(clips)}
    with tempfile.TemporaryDirectory() as tmp:
        def ours():
            shelf = heard_clips._Shelf(Path(tempfile.mkdtemp(dir=tmp)))
            for name, v in rows.items(): shelf.add(name, v)
            shelf.save()
            found = shelf.find(rows)
            return np.stack([found[name] for name in rows])

        def each():
            folder = Path(tempfile.mkdtemp(dir=tmp))
            for name, v in rows.items():
                with atomic_file(folder / name) as work, open(work, "wb") as f: np.save(f, v)
            return np.stack([np.load(folder / name, allow_pickle=False) for name in rows])

        (mine, plain), results = interleaved(ours, each, rounds=3, warm=False, clock=time.perf_counter)
    return row(f"keep the vectors of {clips} clips, {windows} x {d} each", mine, "a file for each", plain, "s", difference(*results))


def benchmarks(widths=((1000, 2048), (4000, 2048)), rounds=3, **sizes):
    "Rows, see `_measure.row`; `sizes` of `intervals`"
    return [*(frechet(n, d, rounds) for n, d in widths), intervals(**sizes), *embedding(rounds), *halves(rounds), kept()]
