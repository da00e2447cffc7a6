"Front ends against librosa, inversion against non-negative least squares"
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from _measure import difference, interleaved, row
from sound_data import _recordings

from foleybook import audio_features
from foleybook.audio_features import GriffinLim, MelConfig, log_mel, mel_to_linear
from foleybook.core.feature_cache import MelCache
from foleybook.core.sound_files import fit_length, read_audio


def _clips(n, sample_rate, seconds=5.0):
    "ESC-10 where it is present, noise elsewhere: (n, t), and what it is"
    files = sorted(Path(os.environ.get("FOLEYBOOK_DATA", "none"), "esc10").glob("*/*.ogg"))
    size = int(seconds * sample_rate)
    if not files:
        return (torch.rand(n, size, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.5, "noise"
    step = max(1, len(files) // n)
    clips = [fit_length(read_audio(f, sample_rate)[0][0], size, "loop") for f in files[::step][:n]]
    return torch.stack(clips), "ESC-10"


def _librosa_log_mel(y, mel, exact=False):
    "What one writes with librosa for this front end; `exact`: with what is added to squared magnitudes, too, which takes longer"
    import librosa

    y = np.pad(y, mel.padding, mel.pad_mode)
    frames = dict(n_fft=mel.n_fft, win_length=mel.win_length, hop_length=mel.hop_length, center=False)
    given = dict(y=y, power=mel.power, **frames)
    if exact and mel.magnitude_eps:
        given = dict(S=(np.abs(librosa.stft(y, **frames)) ** 2 + mel.magnitude_eps) ** (mel.power / 2))
    m = librosa.feature.melspectrogram(sr=mel.sample_rate, n_mels=mel.n_mels, fmin=mel.f_min, fmax=mel.top,
                                       htk=mel.mel_scale == "htk", norm=mel.mel_norm, **given)
    if mel.ref_max:
        m = librosa.power_to_db(m, ref=np.max, amin=mel.floor, top_db=mel.top_db)
    else:
        m = np.maximum(m, mel.floor)
        m = np.log(m) if mel.log == "ln" else np.log10(m) * (20 / mel.power if mel.log == "db" else 1)
    return m if mel.low is None else np.clip((m - mel.low) / (mel.high - mel.low), 0, 1)


def _front_ends(n, seconds):
    "Every preset against librosa and against our own torch path, ms per clip"
    spent, by_torch = {}, audio_features._log_mel_by_torch
    for name in ("dcase2023", "fullband", "audyn", "specvqgan", "audio_diffusion"):
        mel = MelConfig.preset(name)
        few = n if name == "dcase2023" else max(4, n // 10)
        x, what = _clips(few, mel.sample_rate, seconds)
        arrays = x.numpy()[: max(4, few // 20)]
        times, results = interleaved(
            lambda: log_mel(x, mel), lambda: by_torch(x, mel), lambda: [_librosa_log_mel(y, mel) for y in arrays])
        ours, torch_path, plain = (1e3 * s / k for s, k in zip(times, (few, few, len(arrays))))
        spent[name], exact = ours, np.stack([_librosa_log_mel(y, mel, True) for y in arrays])
        yield row(f"log-mel {name}, a clip of {seconds:g} s ({few} {what})", ours, "librosa", plain,
                  exactness=difference(results[0][: len(arrays)], exact))
        yield row(f"log-mel {name}, compiled loop", ours, "our torch path", torch_path,
                  exactness=difference(results[0], results[1]))
    yield row("log-mel fullband", spent["fullband"], "log-mel dcase2023 of the same seconds", spent["dcase2023"])


def _from_files(n, seconds):
    "Files to log-mels, ms per clip: a cache of features against librosa's way, and what decoding takes of both"
    import librosa

    mel, fresh = MelConfig.preset("fullband"), iter(range(99))
    with tempfile.TemporaryDirectory() as folder:
        table, what = _recordings(Path(folder, "made"), n)
        files = [str(f) for f in table.files()]
        whole = lambda y: np.resize(y, round(seconds * mel.sample_rate))  # noqa: E731
        times, (cache, plain, _) = interleaved(
            lambda: MelCache.build(table, mel, seconds, Path(folder, f"{next(fresh)}"), n_jobs=1, trim=False, progress=False),
            lambda: [_librosa_log_mel(whole(librosa.load(f, sr=mel.sample_rate)[0]), mel) for f in files],
            lambda: [read_audio(f) for f in files], rounds=3)
        ours, other, read = (1e3 * t / len(files) for t in times)
        yield row(f"files to log-mels, a clip ({len(files)} {what})", ours, "librosa.load and its melspectrogram", other,
                  exactness=difference(np.array(cache.mels[0]), plain[0]) + f"; decoding alone {read:.2g} ms")


def _mel_error(linear, mel, y):
    "How far the mel of a linear spectrum is from the mel that was asked for"
    basis = torch.from_numpy(_librosa_basis(mel))
    return ((basis @ linear - y.exp()).norm() / y.exp().norm()).item()


def _librosa_basis(mel):
    import librosa

    return librosa.filters.mel(sr=mel.sample_rate, n_fft=mel.n_fft, n_mels=mel.n_mels, fmin=mel.f_min, fmax=mel.top,
                               htk=mel.mel_scale == "htk", norm=mel.mel_norm)


def _inversion(n, seconds):
    "From mel back to a linear spectrum, and to a waveform, ms per clip"
    import librosa

    mel = MelConfig.preset("dcase2023")
    x = _clips(n, mel.sample_rate, seconds)[0]
    y = log_mel(x, mel)
    squares = lambda v: librosa.feature.inverse.mel_to_stft(  # noqa: E731
        v, sr=mel.sample_rate, n_fft=mel.n_fft, power=1, fmax=mel.f_max)
    (ours, plain), (a, b) = interleaved(
        lambda: mel_to_linear(y, mel), lambda: np.stack([squares(v) for v in y.exp().numpy()]), rounds=3, warm=False)
    errors = [_mel_error(v, mel, y) for v in (a, torch.from_numpy(b).float())]
    yield row(f"mel to linear, a clip of {seconds:g} s", 1e3 * ours / n, "librosa's least squares", 1e3 * plain / n,
              exactness="error of the mel of the result: ours {:.1%}, librosa {:.1%}".format(*errors))
    lin, invert = a.numpy(), GriffinLim(mel, 32)
    (ours, plain), (a, b) = interleaved(
        lambda: invert(y), lambda: [librosa.griffinlim(m, n_iter=32, hop_length=mel.hop_length) for m in lin], rounds=3)
    b = torch.from_numpy(np.stack(b)).float()
    errors = [(log_mel(fit_length(v.reshape(n, -1), x.shape[-1], "pad"), mel) - y).abs().mean() for v in (a, b)]
    yield row(f"Griffin-Lim, 32 iterations, a clip of {seconds:g} s", 1e3 * ours / n, "librosa, spared the step from mel to linear",
              1e3 * plain / n, exactness="mean error of the log-mel of the result: ours {:.2f}, librosa {:.2f}".format(*errors))


def benchmarks(n=400, seconds=5.0):
    "Rows, see `_measure.row`; `n` clips of `seconds`"
    return [*_front_ends(n, seconds), *_from_files(max(3, n // 4), seconds), *_inversion(4, min(2.0, seconds))]
