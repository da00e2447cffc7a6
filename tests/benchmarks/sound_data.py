"Sound data: the loader over the cache against decoding and computing each item, and the making of procedural sounds"
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import torch
from _measure import OWN_LENGTH, difference, interleaved, row, share
from torch.utils.data import DataLoader

from foleybook.audio_features import MelConfig, log_mel
from foleybook.core.sound_files import fit_length, read_audio
from foleybook.core.data_sets import read_esc
from foleybook.core.clip_tables import trim_silence
from foleybook.core.feature_cache import MelCache
from foleybook.train.loaders import mel_dls, wave_dls
from foleybook.sound_data import PROCEDURAL, make_procedural, procedural_sound

MEL, SECONDS, BATCH = MelConfig.preset("dcase2023"), 4.0, 16


class Plain(torch.utils.data.Dataset):
    "Decodes, trims and transforms at every access"

    def __init__(self, table):
        self.files, self.labels = table.files(), [table.labels.index(name) for name in table.df.label]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        x = trim_silence(read_audio(self.files[i], MEL.sample_rate)[0], MEL.sample_rate)
        return log_mel(fit_length(x, round(SECONDS * MEL.sample_rate), "loop"), MEL)[0], self.labels[i]


def _passes(loader, n=1):
    "Some passes over a loader; how many items and bytes"
    items = size = 0
    for _ in range(n):
        for x, *_ in loader:
            items, size = items + len(x), size + x.nbytes
    return items, size


def _recordings(folder, n):
    data = Path(os.environ.get("FOLEYBOOK_DATA") or "none") / "esc10"
    if data.exists():
        table = read_esc(data)
        return table.subset(range(0, len(table), max(1, len(table) // n))), "ESC-10"
    return make_procedural(folder, n=max(1, n // len(PROCEDURAL)), seconds=5.0, sample_rate=44100), "procedural"


def _built(table, folder):
    return MelCache.build(table, MEL, SECONDS, folder, n_jobs=1, progress=False)


def _loaders(table, what, folder, rounds):
    "Items of a loader over the cache, of all files decoded each time, and of the first build"
    fresh, plain = iter(range(99)), DataLoader(Plain(table), BATCH, shuffle=True)
    cache = _built(table, folder / "kept")
    whole, crops = (mel_dls(cache, bs=BATCH, frames=frames, device="cpu").train for frames in (None, 160))
    times, counts = interleaved(
        lambda: _passes(whole, 10), lambda: _passes(crops, 10), lambda: _built(table, folder / f"first{next(fresh)}"),
        lambda: _passes(plain), rounds=rounds, warm=False)
    few = range(min(len(table), 8))
    same = difference(torch.stack([torch.as_tensor(cache.mels[i]) for i in few]), torch.stack([plain.dataset[i][0] for i in few]))
    reference = f"decoding and computing at every access, {len(table)} {what} clips"
    decoded = 1e3 * times[3] / counts[3][0]
    for name, took, (items, size) in zip(("whole clips", "crops of 160 frames"), times, counts):
        yield row(f"mel loader, {name}, an item", 1e3 * took / items, reference, decoded, exactness="clips: " + same,
                  share=share(took, read=size))
    yield row("mel cache, first build, an item", 1e3 * times[2] / len(table), reference, decoded, exactness="clips: " + same)


def _prepared(table, what, folder, rounds):
    "What `prepare` does with a folder: files checked while they are computed, and checked before"
    fresh = iter(range(99))
    once = lambda: _built(table.check(decode=False, n_jobs=1), folder / f"once{next(fresh)}")  # noqa: E731
    twice = lambda: _built(table.check(n_jobs=1), folder / f"once{next(fresh)}")  # noqa: E731
    (ours, reference), (a, b) = interleaved(once, twice, rounds=rounds, warm=False)
    same = difference(torch.as_tensor(a.mels[:]), torch.as_tensor(b.mels[:]))
    return row("prepare, every file decoded once, an item", 1e3 * ours / len(table), f"decoded to be checked, and again, {len(table)} {what} clips",
               1e3 * reference / len(table), exactness=same)


def _one_more(table, what, folder, rounds):
    "Wall time to compute a set, to add one clip to all others, and to open it again"
    fresh, part = iter(range(99)), table.subset(range(len(table) - 1))
    _built(part, folder / "part0")
    for k in range(1, rounds):
        shutil.copytree(folder / "part0", folder / f"part{k}")
    parts = iter(range(rounds))
    (added, again, whole), (a, _, b) = interleaved(
        lambda: _built(table, folder / f"part{next(parts)}"), lambda: _built(table, folder / "part0"),
        lambda: _built(table, folder / f"set{next(fresh)}"),
        rounds=rounds, warm=False, clock=time.perf_counter)
    same, reference = difference(torch.as_tensor(a.mels[:]), torch.as_tensor(b.mels[:])), "computing the whole set"
    for name, took in (("one clip more", added), ("nothing new", again)):
        yield row(f"mel cache of {len(table)} {what} clips, {name}, wall time", 1e3 * took, reference, 1e3 * whole, exactness=same)


def _waves(table, what, folder, rounds):
    "Random crops of cached waveforms against decoding each file"
    dls = wave_dls(table, 22050, 8192 / 22050, BATCH, cache_dir=folder, device="cpu", n=BATCH * 50, progress=False)
    (ours, plain), ((items, size), _) = interleaved(
        lambda: _passes(dls.train), lambda: [read_audio(f, 22050) for f in table.files()], rounds=rounds)
    clip = trim_silence(read_audio(table.files()[0], 22050)[0], 22050)
    cached = torch.from_numpy(dls.cache.waves[0] / 32767).float()
    return row("wave loader, crops of 8192, an item", 1e3 * ours / items, f"decoding and resampling, {len(table)} {what} clips",
               1e3 * plain / len(table), exactness="clip of 16 bits: " + difference(cached, fit_length(clip, len(cached), "loop")[0]),
               share=share(ours, read=size))


def _procedural(rounds):
    "Making each kind of sound"
    for kind in PROCEDURAL:
        seeds = iter(range(99))
        (took,), (first,) = interleaved(lambda: procedural_sound(kind, SECONDS, seed=next(seeds)), rounds=rounds)
        again = difference(procedural_sound(kind, SECONDS, seed=0), first)
        yield row(f"procedural {kind}, {SECONDS:g} s", 1e3 * took, OWN_LENGTH, 1e3 * SECONDS, exactness=f"same seed: {again}")


def benchmarks(n=80, many=400, rounds=3):
    "Rows, see `_measure.row`; loaders over `n` clips, a set of `many`"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(folder)
        table, what = _recordings(folder / "made", n)
        rows = [*_loaders(table, what, folder, rounds), _waves(table, what, folder, rounds), _prepared(table, what, folder, rounds)]
        rows += _one_more(*_recordings(folder / "many", many), folder / "sets", min(2, rounds))  # a minute a round
    return rows + [*_procedural(5)]
