"""Audio files of every bad kind, and properties of the front ends."""
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foleybook.audio_features import (audio_data_uri, audio_info, AudioError, fit_length,
                                      frame_features, GriffinLim, image_to_mel, log_mel,
                                      mel_data_uri, mel_filterbank, mel_to_image, mel_to_linear,
                                      mel_values, MelConfig, MelMismatch, mu_law_decode,
                                      mu_law_encode, play_table, read_audio, SamplingError, Sounds,
                                      write_audio)
from foleybook.vocoders import play

SR = 22050
PRESETS = MelConfig.presets()
few = settings(max_examples=15, deadline=None, derandomize=True)
SMALL = MelConfig(n_fft=128, win_length=128, hop_length=32, n_mels=10)


def noise(*shape, seed=0, peak=0.5):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * peak


# files


def test_missing(tmp_path):
    with pytest.raises(AudioError, match="none.wav: no such file. Check the path"):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="no such file"):
        audio_info(tmp_path)  # a folder


@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3", "flac"])
def test_empty(tmp_path, suffix):
    f = tmp_path / f"empty.{suffix}"
    f.touch()
    with pytest.raises(AudioError, match=r"is empty \(0 bytes\)"):
        read_audio(f)


@pytest.mark.parametrize("content", [b"<html>404 not found</html>" * 50, bytes(4000), b"RIFF", b"OggS" + bytes(100)])
def test_not_audio(tmp_path, content):
    f = tmp_path / "page.wav"
    f.write_bytes(content)
    with pytest.raises(AudioError, match="page.wav: .*(Convert it|Copy|Leave it out)"):
        read_audio(f)


def test_zero_length(tmp_path):
    f = tmp_path / "zero.wav"
    sf.write(f, np.zeros(0, dtype=np.float32), SR)
    for read in read_audio, audio_info:
        with pytest.raises(AudioError, match=r"holds no samples \(length 0\)"):
            read(f)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated(tmp_path, suffix, share):
    f = write_audio(tmp_path / f"cut.{suffix}", noise(1, 2 * SR), SR)
    whole = f.read_bytes()
    f.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AudioError, match=f"cut.{suffix}: "):
        read_audio(f)


def test_truncated_mp3_says_so_or_gives_what_is_there(tmp_path):
    f = write_audio(tmp_path / "cut.mp3", noise(1, 2 * SR), SR)
    f.write_bytes(f.read_bytes()[: f.stat().st_size // 2])
    try:
        assert 0 < read_audio(f)[0].shape[1] <= 2 * SR + 2304
    except AudioError as e:
        assert "cut.mp3" in str(e)


def test_silent_is_read(tmp_path):
    f = write_audio(tmp_path / "silent.wav", torch.zeros(1, 4000), SR)
    assert torch.equal(read_audio(f)[0], torch.zeros(1, 4000))
    y = log_mel(read_audio(f)[0], MelConfig())
    assert y.isfinite().all() and y.unique().numel() == 1


def test_eight_bit(tmp_path):
    x = noise(1, 4000)
    sf.write(tmp_path / "a.wav", x[0].numpy(), SR, subtype="PCM_U8")
    assert (read_audio(tmp_path / "a.wav")[0] - x).abs().max() < 2 / 128


def test_96_khz(tmp_path):
    t = torch.arange(96000) / 96000
    sf.write(tmp_path / "a.wav", (0.5 * torch.sin(2 * np.pi * 440 * t)).numpy(), 96000, subtype="PCM_24")
    x, rate = read_audio(tmp_path / "a.wav", SR)
    assert (x.shape, rate) == ((1, SR), SR)
    want = 0.5 * torch.sin(2 * np.pi * 440 * torch.arange(SR) / SR)
    assert (x[0] - want)[500:-500].abs().max() < 2e-3


def test_five_point_one(tmp_path):
    x = noise(6, 3000)
    f = write_audio(tmp_path / "surround.wav", x, 48000, subtype="FLOAT")
    assert audio_info(f).channels == 6
    assert torch.equal(read_audio(f, mono=False)[0], x)
    assert torch.allclose(read_audio(f)[0], x.mean(0, keepdim=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_in_file(tmp_path, bad):
    x = noise(1, 500)[0].numpy()
    x[[7, 99]] = bad
    sf.write(tmp_path / "nan.wav", x, SR, subtype="FLOAT")
    with pytest.raises(AudioError, match="nan.wav: holds 2 NaN or inf"):
        read_audio(tmp_path / "nan.wav")
    with pytest.raises(AudioError, match="would hold NaN"):
        write_audio(tmp_path / "new.wav", x, SR)
    assert not (tmp_path / "new.wav").exists()


def test_start_beyond_end(tmp_path):
    f = write_audio(tmp_path / "a.wav", noise(1, SR), SR)
    with pytest.raises(AudioError, match="start=2"):
        read_audio(f, start=2.0)
    assert read_audio(f, start=0.5, seconds=9)[0].shape == (1, SR - SR // 2)


def test_streamed_wav_without_length(tmp_path):
    f = write_audio(tmp_path / "a.wav", noise(1, 1000), SR)
    raw = bytearray(f.read_bytes())
    raw[4:8] = raw[40:44] = b"\xff\xff\xff\xff"
    f.write_bytes(raw)
    assert read_audio(f)[0].shape == (1, 1000)


def test_write_is_atomic(tmp_path, monkeypatch):
    f = write_audio(tmp_path / "a.wav", noise(1, 1000), SR)
    before = f.read_bytes()

    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sf, "write", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_audio(f, noise(1, 2000), SR)
    assert f.read_bytes() == before and os.listdir(tmp_path) == ["a.wav"]


def test_write_warns_of_clipping_and_refuses_odd_suffix(tmp_path):
    with pytest.warns(UserWarning, match="peak 2 was clipped"):
        f = write_audio(tmp_path / "a.wav", torch.tensor([2.0, -2.0, 0.5]), SR)
    assert read_audio(f)[0].tolist() == [[32767 / 32768, -1, 0.5]]
    with pytest.raises(AudioError, match="unknown suffix"):
        write_audio(tmp_path / "a.xyz", noise(1, 10), SR)


@pytest.mark.parametrize("suffix,tol", [("wav", 0), ("flac", 0), ("ogg", 0.1), ("mp3", 0.2)])
def test_formats(tmp_path, suffix, tol):
    t = torch.arange(SR) / SR
    x = torch.stack([0.4 * torch.sin(2 * np.pi * f * t) for f in (300, 700)])
    x = (x * 32768).round() / 32768
    f = write_audio(tmp_path / f"a.{suffix}", x, SR)
    y, rate = read_audio(f, mono=False)
    assert rate == SR and audio_info(f).channels == 2
    assert (y[:, : SR - 3000] - x[:, : SR - 3000]).abs().max() <= tol


@few
@given(st.integers(1, 3), st.integers(1, 300), st.sampled_from(["wav", "flac"]))
def test_sixteen_bits_survive(tmp_path_factory, channels, samples, suffix):
    ints = torch.randint(-32768, 32768, (channels, samples), generator=torch.Generator().manual_seed(samples))
    f = write_audio(tmp_path_factory.mktemp("w") / f"a.{suffix}", ints / 32768, SR)
    assert torch.equal(read_audio(f, mono=False)[0] * 32768, ints.float())


@few
@given(st.integers(1, 50), st.integers(0, 120), st.sampled_from(["pad", "loop"]))
def test_fit_length(t, n, mode):
    x = torch.arange(1.0, t + 1).expand(2, -1)
    y = fit_length(x, n, mode)
    assert y.shape == (2, n)
    k = torch.arange(n)
    want = k % t + 1.0 if mode == "loop" else torch.where(k < t, k + 1.0, 0.0)
    assert torch.equal(y, want.expand(2, -1))


# front ends

configs = st.builds(
    lambda n_fft, hop, n_mels, center, pad_mode, power, log, scale, norm: MelConfig(
        n_fft=n_fft, win_length=n_fft, hop_length=n_fft // hop, n_mels=n_mels, center=center, pad_mode=pad_mode,
        power=power, log=log, mel_scale=scale, mel_norm=norm, f_max=None),
    st.sampled_from([64, 120, 256]), st.sampled_from([2, 3, 4]), st.integers(3, 40), st.booleans(),
    st.sampled_from(["reflect", "constant"]), st.sampled_from([1.0, 2.0]), st.sampled_from(["ln", "log10", "db"]),
    st.sampled_from(["slaney", "htk"]), st.sampled_from(["slaney", None]))


@few
@given(configs, st.integers(300, 2000), st.integers(1, 5))
def test_batch_is_single_and_shapes(mel, samples, b):
    x = noise(b, 2, samples, seed=samples)
    y = log_mel(x, mel)
    assert y.shape == (b, 2, mel.n_mels, mel.frames(samples)) and y.isfinite().all()
    torch.testing.assert_close(y[-1, 1], log_mel(x[-1, 1], mel), rtol=1e-4, atol=1e-4)
    grad = log_mel(x.clone().requires_grad_(), mel).detach()  # the path that keeps gradients gives the same
    torch.testing.assert_close(y, grad, rtol=1e-3, atol=1e-3)


@few
@given(configs, st.integers(4, 60))
def test_frames_and_samples_are_inverse(mel, frames):
    n = mel.samples(frames)
    assert mel.frames(n) == frames and mel.frames(n - 1) == frames - 1
    wave = GriffinLim(mel, n_iter=1)(torch.zeros(1, mel.n_mels, frames))
    assert wave.shape == (1, 1, n) and wave.isfinite().all()


@few
@given(configs)
def test_config_round_trip_and_hash(mel):
    again = MelConfig.from_dict(json.loads(json.dumps(mel.to_dict())))
    assert again == mel and again.hash == mel.hash and mel.diff(again) == {}
    other = mel.replace(n_mels=mel.n_mels + 1)
    assert other.hash != mel.hash and mel.diff(other) == {"n_mels": (mel.n_mels, mel.n_mels + 1)}
    with pytest.raises(MelMismatch, match="the vocoder .*n_mels is"):
        mel.require(other, "the vocoder")


@pytest.mark.parametrize("name", PRESETS)
def test_preset_equals_librosa(name):
    import librosa

    mel = MelConfig.preset(name)
    x = noise(2 * mel.sample_rate, peak=0.9) * torch.linspace(1, 0.01, 2 * mel.sample_rate)
    basis = librosa.filters.mel(sr=mel.sample_rate, n_fft=mel.n_fft, n_mels=mel.n_mels, fmin=mel.f_min, fmax=mel.f_max)
    y = np.pad(x.numpy(), mel.padding, mode=mel.pad_mode)
    spec = librosa.stft(y, n_fft=mel.n_fft, hop_length=mel.hop_length, center=False)
    m = basis @ (np.abs(spec) ** 2 + mel.magnitude_eps) ** (mel.power / 2)
    if mel.ref_max:
        want = librosa.power_to_db(m, ref=np.max, amin=mel.floor, top_db=mel.top_db)
    elif mel.log == "db":
        want = np.clip((20 * np.log10(np.maximum(m, mel.floor)) - 20 + 100) / 100, 0, 1)
    else:
        want = np.log(np.maximum(m, mel.floor))
    ours = log_mel(x, mel).numpy()
    assert np.linalg.norm(ours - want) <= 1e-5 * np.linalg.norm(want)
    assert np.abs(ours - want).max() <= 1e-4 * np.abs(want).max()


def test_librosa_melspectrogram_itself():
    import librosa

    mel, x = MelConfig.preset("audio_diffusion"), noise(SR)
    m = librosa.feature.melspectrogram(y=x.numpy(), sr=SR, n_fft=2048, hop_length=512, n_mels=256)
    want = librosa.power_to_db(m, ref=np.max, top_db=80)
    assert np.linalg.norm(log_mel(x, mel).numpy() - want) <= 1e-5 * np.linalg.norm(want)


def test_known_lengths():
    frames = {"dcase2023": 344, "specvqgan": 345, "audio_diffusion": 173, "bigvgan_44khz_128": 172}
    for name, n in frames.items():
        assert MelConfig.preset(name).frames(88200) == n


def test_type_device_and_modes():
    x, y = noise(2, 3000), log_mel(noise(2, 3000), SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(x, SMALL), y)
    assert log_mel(x.double(), SMALL).dtype == torch.float64
    assert log_mel(x.half(), SMALL).dtype == torch.float32
    fresh = SMALL.replace(n_mels=11)
    with torch.inference_mode():
        log_mel(x, fresh)
    z = x.clone().requires_grad_()
    log_mel(z, fresh).sum().backward()  # what inference mode cached must serve here
    assert z.grad.isfinite().all()


def test_gradient_is_true():
    z = noise(1, 400, seed=3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: log_mel(v, SMALL), z, atol=1e-4)


def test_odd_sizes():
    assert log_mel(torch.zeros(0, 3000), SMALL).shape == (0, 10, SMALL.frames(3000))
    assert log_mel(noise(50), SMALL.replace(pad=0)).shape == (10, 0)
    with pytest.raises(ValueError, match="too short to be padded by 48"):
        log_mel(noise(40), SMALL)
    long = noise(1, 300_000)
    whole = log_mel(long, SMALL)  # more frames than one piece holds
    part = log_mel(long[:, 150_016 - 48 : 160_000], SMALL.replace(pad=0))
    torch.testing.assert_close(whole[..., 4688 : 4688 + part.shape[-1]], part, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [dict(log="log2"), dict(hop_length=200), dict(f_max=20000.0), dict(low=0.0),
                                    dict(power=3.0), dict(pad_mode="edge")])
def test_impossible_configs(change):
    with pytest.raises(ValueError, match="MelConfig: "):
        SMALL.replace(**change)


# and back


@pytest.mark.parametrize("name", PRESETS)
def test_griffin_lim_of_every_preset(name):
    mel = MelConfig.preset(name)
    t = torch.arange(mel.samples(40)) / mel.sample_rate
    x = 0.5 * torch.sin(2 * np.pi * (300 + 400 * t) * t) + noise(len(t), peak=0.02)
    want = log_mel(x[None], mel)
    wave = GriffinLim(mel, 30)(want)
    assert wave.shape == (1, 1, len(t))
    y, z = mel_values(want, mel), mel_values(log_mel(wave[:, 0], mel), mel)
    assert (y - z).norm() / y.norm() < 0.2


@pytest.mark.parametrize("name", PRESETS)
def test_linear_spectrum_has_the_mel_values(name):
    mel = MelConfig.preset(name)
    y = log_mel(noise(1, mel.samples(20)), mel)
    lin = mel_to_linear(y, mel)
    assert lin.shape == (1, mel.n_fft // 2 + 1, 20) and (lin >= 0).all()
    back = mel_filterbank(mel).float() @ lin**mel.power
    want = mel_values(y, mel)
    assert (back - want).norm() / want.norm() < 0.03


def test_seeds_make_items_independent():
    y = log_mel(noise(3, 4000), SMALL)
    gl = GriffinLim(SMALL, 8)
    batch = gl(y, [1, 2, 3])
    torch.testing.assert_close(batch[1:2], gl(y[1:2], [2]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(batch[1:2], gl(y[1:2], [5]), atol=1e-3)
    assert torch.equal(gl(y), gl(y))
    one = [gl(y, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*one)


def test_silence_stays_silent():
    for name in PRESETS:
        mel = MelConfig.preset(name)
        if not mel.ref_max:  # silence is its own loudest point there
            wave = GriffinLim(mel, 3)(log_mel(torch.zeros(1, mel.samples(10)), mel))
            assert wave.isfinite().all() and wave.abs().max() < 1e-3, name


@few
@given(st.integers(2, 60), st.integers(1, 20), st.floats(20, 120))
def test_mel_image_bytes(m, f, top_db):
    mel = MelConfig.preset("audio_diffusion").replace(top_db=top_db)
    image = torch.randint(0, 256, (2, m, f), dtype=torch.uint8, generator=torch.Generator().manual_seed(m))
    assert torch.equal(mel_to_image(image_to_mel(image, mel), mel), image)


@few
@given(st.integers(2, 1024), st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_mu_law(channels, values):
    x = torch.tensor(values, dtype=torch.float64)
    for convention in "torchaudio", "mtcrnn":
        k = mu_law_encode(x, channels, convention)
        assert k.min() >= 0 and k.max() < channels
        order = x.argsort()
        assert (k[order].diff() >= 0).all()
    codes = torch.arange(channels)
    assert torch.equal(mu_law_encode(mu_law_decode(codes, channels), channels), codes)
    down = mu_law_encode(mu_law_decode(codes, channels, "mtcrnn", torch.float64), channels, "mtcrnn")
    assert torch.equal(down, (codes - 1).clamp_min(0))


def test_frame_features():
    t = torch.arange(SR) / SR
    f = frame_features(0.3 * torch.sin(2 * np.pi * 220 * t), SR, hop_length=256, frame_length=1024, n_mfcc=5)
    n = len(f.rms)
    assert (f.centroid.shape, f.pitch.shape, f.mfcc.shape) == ((n,), (n,), (5, n))
    assert (f.pitch[5:-5] - 220).abs().max() < 2
    silent = frame_features(torch.zeros(SR), SR)
    assert silent.pitch.count_nonzero() == 0 and silent.mfcc.isfinite().all()


# what generators return


def test_sounds_round_trip(tmp_path):
    s = Sounds(noise(3, 2, 500), 16000, [7, 7, 8], ["dog bark", "dog bark", "rain/sea"], {"model": "m"})
    files = s.save(tmp_path / "out")
    assert len({f.name for f in files}) == 3 and all(f.parent == tmp_path / "out" for f in files)
    again = Sounds.load(tmp_path / "out")
    assert (again.audio - s.audio).abs().max() <= 0.5 / 32768 + 1e-7
    for k in "seeds", "labels", "meta", "sample_rate":
        assert getattr(again, k) == getattr(s, k)
    Sounds(noise(1, 2, 500), 16000, [9], ["rain/sea"]).save(tmp_path / "out", append=True)
    assert Sounds.load(tmp_path / "out").seeds == [7, 7, 8, 9]
    s[:1].save(tmp_path / "out")
    assert Sounds.load(tmp_path / "out").seeds == [7]


def test_sounds_refuses_what_is_no_sound():
    x = noise(2, 1, 100)
    bad = {"NaN": x * float("nan"), "silent": x * 0, "beyond 1": x * 4, "shape": x[0], "no samples": x[:0]}
    for why, audio in bad.items():
        with pytest.raises(SamplingError, match=why):
            Sounds(audio, SR)
    x[1] = 0
    with pytest.warns(UserWarning, match=r"sounds \[1\] of 2 are silent"):
        Sounds(x, SR)
    with pytest.raises(ValueError, match="3 labels for 2"):
        Sounds(noise(2, 1, 100), SR, labels=list("abc"))


def test_sounds_index():
    s = Sounds(noise(4, 1, 100), SR, labels=list("abcd"))
    assert [i.labels[0] for i in s] == list("abcd")
    assert s[1:3].labels == ["b", "c"] and s[[3, 0]].seeds == [3, 0] and s[-1].labels == ["d"]
    with pytest.raises(IndexError):
        s[4]


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(AudioError, match="metadata.jsonl: no such file"):
        Sounds.load(tmp_path)


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 22050, 44100, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_players(rate, channels):
    x = noise(channels, rate // 4)
    assert audio_data_uri(x, rate).startswith("data:audio/mpeg;base64,")
    assert mel_data_uri(x, rate).startswith("data:image/jpeg;base64,")


def test_players_escape_and_stay_small():
    assert "&lt;b&gt;" in play(noise(1, 4000), SR, "<b>").data
    html = play_table({"<i>": noise(1, 4000)}, SR).data
    assert "&lt;i&gt;" in html and "<i>" not in html
    t = torch.arange(4 * SR) / SR
    assert len(audio_data_uri(0.3 * torch.sin(2 * np.pi * 440 * t), SR)) < 40_000


def test_import_leaves_slow_libraries_alone():
    slow = "('numba', 'fastai', 'matplotlib', 'IPython')"
    code = f"import sys, foleybook.audio_features; print([m for m in {slow} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.strip() == "[]"


def test_no_warnings_in_normal_use(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mel = MelConfig.preset("dcase2023")
        Sounds(GriffinLim(mel, 2)(log_mel(noise(2, SR), mel)).clamp(-1, 1), SR).save(tmp_path)
