"""Front ends against librosa, inversion against non-negative least squares, in the same run on one core.

Times are processor times, so that work in other threads counts. Ours and the other take turns, and the medians are
compared, so that a busy machine slows both.
"""
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from foleybook import audio_features
from foleybook.audio_features import GriffinLim, MelConfig, fit_length, log_mel, mel_to_linear, read_audio


def _medians(*ways, rounds=5):
    "Median processor time of one call of each, seconds; they take turns"
    times = [[] for _ in ways]
    for k in range(rounds + 1):
        for f, spent in zip(ways, times):
            start = time.process_time()
            f()
            if k:  # the first round warms up
                spent.append(time.process_time() - start)
    return [statistics.median(t) for t in times]


def _clips(n, sample_rate, seconds=5.0):
    "ESC-10 where it is present, noise elsewhere: (n, t), and what it is"
    files = sorted(Path(os.environ.get("FOLEYBOOK_DATA", "none"), "esc10").glob("*/*.ogg"))
    size = int(seconds * sample_rate)
    if not files:
        return (torch.rand(n, size, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.5, "noise"
    step = max(1, len(files) // n)
    clips = [fit_length(read_audio(f, sample_rate)[0][0], size, "loop") for f in files[::step][:n]]
    return torch.stack(clips), "ESC-10"


def _librosa_log_mel(y, mel):
    "What one writes with librosa for this front end"
    import librosa

    m = librosa.feature.melspectrogram(
        y=y, sr=mel.sample_rate, n_fft=mel.n_fft, hop_length=mel.hop_length, n_mels=mel.n_mels, fmin=mel.f_min,
        fmax=mel.top, power=mel.power, pad_mode=mel.pad_mode, htk=mel.mel_scale == "htk", norm=mel.mel_norm)
    if mel.ref_max:
        return librosa.power_to_db(m, ref=np.max, amin=mel.floor, top_db=mel.top_db)
    return np.log(np.maximum(m, mel.floor)) if mel.log == "ln" else 20 * np.log10(np.maximum(m, mel.floor))


def _row(name, ours, plain, note):
    return dict(name=name, ours=ours, plain=plain, ratio=plain / ours, unit="ms per clip", note=note)


def benchmarks(n=400):
    "Rows of name, ours, plain, ratio (plain / ours), unit and note"
    import librosa

    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        spent = {}
        for name in ("dcase2023", "foley", "audyn", "specvqgan", "audio_diffusion"):
            mel = MelConfig.preset(name)
            few = n if name == "dcase2023" else max(4, n // 10)
            x, what = _clips(few, mel.sample_rate)
            arrays, by_torch = x.numpy()[: max(4, few // 20)], audio_features._log_mel_by_torch
            ours, torch_path, plain = _medians(
                lambda: log_mel(x, mel), lambda: by_torch(x, mel), lambda: [_librosa_log_mel(y, mel) for y in arrays])
            ours, torch_path, plain = (1e3 * s / k for s, k in zip((ours, torch_path, plain), (few, few, len(arrays))))
            spent[name] = ours
            rows.append(_row(f"log-mel {name}", ours, plain, f"{few} {what} clips of 5 s; plain = librosa"))
            rows.append(_row(f"log-mel {name}, loop", ours, torch_path, "compiled loop; plain = our torch path"))
        rows.append(_row("log-mel foley : dcase2023", spent["foley"], spent["dcase2023"], "for the same seconds"))

        mel = MelConfig.preset("dcase2023")
        x = _clips(4, mel.sample_rate, 2.0)[0]
        y = log_mel(x, mel)
        squares = lambda v: librosa.feature.inverse.mel_to_stft(  # noqa: E731
            v, sr=mel.sample_rate, n_fft=mel.n_fft, power=1, fmax=mel.f_max)
        ours, plain = _medians(
            lambda: mel_to_linear(y, mel), lambda: [squares(v) for v in y.exp().numpy()], rounds=1)
        ours, plain = ours / 4 * 1e3, plain / 4 * 1e3
        rows.append(_row("mel to linear", ours, plain, "clips of 2 s; plain = librosa's least squares"))

        lin = mel_to_linear(y, mel).numpy()
        ours, plain = _medians(lambda: GriffinLim(mel, 32)(y), lambda: [
            librosa.griffinlim(m, n_iter=32, hop_length=mel.hop_length) for m in lin], rounds=3)
        ours, plain = ours / 4 * 1e3, plain / 4 * 1e3
        rows.append(_row("Griffin-Lim, 32 iterations", ours, plain, "clips of 2 s, ours from mel; librosa from linear"))
    finally:
        torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    for row in benchmarks():
        print(f"{row['name']:30s} {row['ours']:8.2f} {row['plain']:8.2f} {row['ratio']:6.1f}x  {row['note']}")
