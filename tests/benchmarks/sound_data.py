"Sound data: the loader over the cache against decoding and computing each item, and the making of procedural sounds"
import os
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from foleybook.audio_features import MelConfig, fit_length, log_mel, read_audio
from foleybook.data_sets import read_esc
from foleybook.sound_data import PROCEDURAL, MelCache, make_procedural, mel_dls, procedural_sound, trim_silence, wave_dls

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


def _rate(loader, at_least=0.0):
    "Processor time per item, ms: one pass, or passes that take `at_least` seconds together"
    start, items = time.process_time(), 0
    while True:
        items += sum(len(x) for x, *_ in loader)
        if time.process_time() - start >= at_least:
            return (time.process_time() - start) / items * 1e3


def _row(name, ours, plain, note):
    return dict(name=name, ours=ours, plain=plain, ratio=plain / ours, unit="ms/item", note=note)


def _recordings(folder, n):
    data = Path(os.environ.get("FOLEYBOOK_DATA") or "none") / "esc10"
    if data.exists():
        table = read_esc(data)
        return table.subset(range(0, len(table), max(1, len(table) // n))), "ESC-10"
    return make_procedural(folder, n=max(1, n // len(PROCEDURAL)), seconds=5.0, sample_rate=44100), "procedural"


def _one_more(table, folder):
    "Seconds of wall time to build a cache of all clips but one, to add that one, and to open it again"
    took, part = [], table.subset(range(len(table) - 1))
    for clips in (part, table, table):
        start = time.perf_counter()
        MelCache.build(clips, MEL, SECONDS, folder, n_jobs=1, progress=False)
        took.append(time.perf_counter() - start)
    return took


def benchmarks(n=80):
    "Rows of name, ours, plain, ratio (plain / ours), unit and note"
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table, what = _recordings(Path(folder) / "made", n)
            plain = _rate(DataLoader(Plain(table), BATCH, shuffle=True))
            start = time.process_time()
            cache = MelCache.build(table, MEL, SECONDS, folder, n_jobs=1, progress=False)
            once = (time.process_time() - start) / len(table) * 1e3
            for name, frames in (("whole clips", None), ("crops of 160 frames", 160)):
                ours = _rate(mel_dls(cache, bs=BATCH, frames=frames, device="cpu").train, 0.5)
                note = f"{1e3 / ours:.0f} against {1e3 / plain:.0f} items/s of {what}; plain decodes each time"
                rows.append(_row(f"mel loader, {name}", ours, plain, note))
            rows.append(_row("mel cache, first build", once, plain, "paid once: back after the first epoch"))
            many, _ = _recordings(Path(folder) / "many", 400)
            whole, added, again = (1e3 * t for t in _one_more(many, Path(folder) / "one"))
            for name, took in (("one clip more", added), ("nothing new", again)):
                note = f"{len(many)} clips; plain: computing the set; ms of wall time"
                rows.append(dict(_row(f"mel cache, {name}", took, whole, note), unit="ms/set"))
            made = dict(cache_dir=folder, device="cpu", n=BATCH * 50, progress=False)
            ours = _rate(wave_dls(table, 22050, 8192 / 22050, BATCH, **made).train, 0.5)
            start = time.process_time()
            for f in table.files():
                read_audio(f, 22050)
            plain = (time.process_time() - start) / len(table) * 1e3
            rows.append(_row("wave loader, crops of 8192", ours, plain, "plain decodes and resamples each time"))
        for kind in PROCEDURAL:
            procedural_sound(kind, SECONDS)
            start = time.process_time()
            for seed in range(5):
                procedural_sound(kind, SECONDS, seed=seed)
            took = (time.process_time() - start) / 5 * 1e3
            rows.append(_row(f"procedural {kind}", took, SECONDS * 1e3, "plain: its own length, so x real time"))
    finally:
        torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    for row in benchmarks():
        print("{name:32} {ours:9.3f} {plain:9.3f} {unit:8} x{ratio:8.1f}  {note}".format(**row))
