"""Front ends, mel images and mu-law against the published implementations."""
import torch

from foleybook.audio_features import (
    GriffinLim, MelConfig, image_to_mel, log_mel, mel_filterbank, mel_to_image, mel_to_linear, mel_values,
    mu_law_decode, mu_law_encode)
from foleybook.core.sound_files import fit_length

from . import assert_close, check


def _first(d, *names, default=None):
    "The value of the first of `names` that `d` has"
    return next((d[n] for n in names if n in d), default)


def _mel_config(preset, d):
    "The preset with whatever the case sets, under any of the names that the projects use"
    n_fft = _first(d, "n_fft", "filter_length", default=1024)
    return MelConfig.preset(preset).replace(
        sample_rate=_first(d, "sample_rate", "sampling_rate", "sr", default=22050),
        n_fft=n_fft,
        win_length=_first(d, "win_length", "win_size", default=n_fft),
        hop_length=_first(d, "hop_length", "hop_size", "hop", default=256),
        n_mels=_first(d, "n_mels", "num_mels", "n_mel_channels", "y_res", default=80),
        f_min=float(_first(d, "fmin", "mel_fmin", default=0)),
        f_max=_first(d, "fmax", "mel_fmax"),
    )


def _pcm(x):
    return x.float() / 32768


@check("foley.mel_dcase")
def mel_dcase(case):
    mel, out = _mel_config("dcase2023", case.config), case.outputs
    x = _pcm(case.inputs["pcm16"]).reshape(-1, case.inputs["pcm16"].shape[-1])
    assert_close(log_mel(x, mel), out["mel"], what="log-mel")
    assert_close(log_mel(x, mel.replace(f_max=None)), out["mel_fmax_none"], what="log-mel of the loss")
    for name, basis in out.items():
        if name.startswith("filterbank_"):
            assert_close(mel_filterbank(mel.replace(f_max=float(name.split("_")[1]))), basis, what=name)


@check("specvqgan.mel_transform")
def mel_transform(case):
    mel, out, x = _mel_config("specvqgan", case.config), case.outputs, case.inputs["wave"]
    assert_close(log_mel(x, mel), out["mel32"], what="mel32")
    seconds10 = torch.zeros(10 * mel.sample_rate)
    seconds10[: min(len(x), len(seconds10))] = x[: len(seconds10)]
    kept = out["mel10s"].shape[-1]  # the files hold the first 860 of 862 frames
    assert_close(log_mel(seconds10, mel)[..., :kept], out["mel10s"], what="mel10s")
    edge = out["mel32_zeropad_edge"]
    assert_close(log_mel(x, mel.replace(pad_mode="constant"))[..., : edge.shape[-1]], edge, what="zero padding")
    basis = mel_filterbank(mel)
    assert_close(basis.sum(1), out["mel_basis_rowsum"], what="sums of the filters")
    for name, row in out.items():
        if name.startswith("mel_basis_row") and name != "mel_basis_rowsum":
            assert_close(basis[int(name.removeprefix("mel_basis_row"))], row, what=name)


@check("diffwave.mel2samp")
def mel2samp(case):
    mel = _mel_config("diffwave_ljspeech", case.meta.get("kwargs", case.config))
    assert_close(log_mel(_pcm(case.inputs["pcm16"]), mel), case.outputs["mel"], what="log-mel")


@check("audiodiff.bigvgan_mel")
def bigvgan_mel(case):
    ours, out = log_mel(case.inputs["audio"], _mel_config("bigvgan_22khz_80", case.config)), case.outputs
    assert_close(ours, out["logmel"], what="log-mel")
    low, high = -11.5129, 2.1  # the range that the diffusion model of these mels was trained on
    if "normalised" in out:
        assert_close((ours - low) / (high - low) * 2 - 1, out["normalised"], what="normalised")


def _assert_same_image(ours, theirs, what):
    "Bytes are equal; where a value falls between two bytes, float32 may choose either"
    assert ours.shape == theirs.shape and ours.dtype == torch.uint8, (what, ours.shape, theirs.shape)
    off = (ours.int() - theirs.int()).abs()
    n = off.count_nonzero()
    assert off.max() <= 1 and n <= 1 + off.numel() // 1000, f"{what}: {n} bytes differ, by up to {off.max()}"


def _spectral_convergence(x, wanted, mel):
    "Relative distance of the STFT magnitude of `x` from `wanted` (bins, f)"
    window = torch.hann_window(mel.n_fft)
    kw = dict(window=window, center=True, pad_mode="constant", return_complex=True)
    spec = torch.stft(x, mel.n_fft, mel.hop_length, **kw)
    return ((spec.abs() - wanted).norm() / wanted.norm()).item()


@check("audiodiff.mel_image")
def mel_image(case):
    cfg, out, x = case.config, case.outputs, case.inputs["audio"]
    mel = _mel_config("audio_diffusion", {**cfg, "fmax": None}).replace(top_db=float(cfg["top_db"]))
    size = cfg["x_res"] * cfg["hop_length"] - 1
    assert cfg["slice_size"] == size and cfg["number_of_slices"] == len(x) // size
    slices = x[: len(x) // size * size].view(-1, size)
    _assert_same_image(mel_to_image(log_mel(slices, mel), mel), out["images"], "images")
    level = mel.replace(ref_max=False)  # decibels below 1 in place of the loudest point
    _assert_same_image(mel_to_image(log_mel(slices[0], level), level), out["image_ref1"], "image of ref 1")
    full = cfg["x_res"] * cfg["hop_length"]  # a third of a clip, filled up with zeros
    short = fit_length(x[: full // 3], full - 1)
    _assert_same_image(mel_to_image(log_mel(short, mel), mel), out["image_short"], "image of a short clip")

    linear = mel_to_linear(image_to_mel(out["images"][0], mel), mel)
    power = mel_values(image_to_mel(out["images"][0], mel), mel)
    assert_close(power, out["power0"], what="power")
    basis, theirs = mel_filterbank(mel).float(), out["linmag0"].float()
    off = [((basis @ m.square() - power).norm() / power.norm()).item() for m in (linear, theirs)]
    assert off[0] <= max(off[1], 0.02), f"our linear spectrum misses by {off[0]:.3f}, the published by {off[1]:.3f}"

    sound = GriffinLim(mel, n_iter=cfg["n_iter"])(image_to_mel(out["images"][:1], mel))[0, 0]
    assert len(sound) == cfg.get("gl_len", case.meta.get("gl_len", (cfg["x_res"] - 1) * cfg["hop_length"]))
    theirs_sc, ours_sc = case.meta["gl_spectral_convergence"], _spectral_convergence(sound, linear, mel)
    assert ours_sc <= 1.1 * theirs_sc + 0.01, f"spectral convergence {ours_sc:.3f}, published {theirs_sc:.3f}"


@check("mtcrnn.mu_law")
def mu_law(case):
    channels, x, out = case.config["channels"], case.inputs["x"], case.outputs
    kw = dict(channels=channels, convention="mtcrnn")
    codes = mu_law_encode(x, clip=False, **kw)
    assert torch.equal(codes, out["encoded"])
    assert_close(codes / channels, out["encoded_norm"], what="network values", tol=1e-7)
    table = mu_law_decode(torch.arange(channels), dtype=torch.float64, **kw)
    assert_close(table, out["decode_table"], what="decoded", tol=1e-12)
    assert_close(table, out["decode_norm_table"], what="decoded network values", tol=1e-12)
    assert_close(mu_law_decode(codes, dtype=torch.float64, **kw), out["roundtrip"], what="round trip", tol=1e-12)
    again = mu_law_encode(table, **kw)
    assert torch.equal(again, out["reencoded_table"])
    if "reencode_mismatches" in case.meta:
        assert (again != torch.arange(channels)).sum() == case.meta["reencode_mismatches"]
    for name, rows in out.items():
        if name.startswith("onehot"):
            assert torch.equal(torch.nn.functional.one_hot(rows.argmax(-1), channels).double(), rows.double())
