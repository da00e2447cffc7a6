"""The spectrogram VQGAN and its codec outside their notebook: any sizes, broken files, judges that are missing, the verb"""
import hashlib
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_presets import Data, shrunk

from foleybook.audio_features import GriffinLim, MelConfig, MelMismatch
from foleybook.core.sounds import Sounds
from foleybook.apps.cli import main
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.core.code_maps import Cascade, PriorConfig, UnigramPrior
from foleybook.core.code_tables import CodeError
from foleybook.judge.mel_classifiers import MelClassifier, MelClassifierConfig
from foleybook.core.files import CheckpointError
from foleybook.core.generator import Pretrained
from foleybook.pixelsnail import PixelSNAIL, PixelSNAILConfig
from foleybook.core.settings import SettingsError
from foleybook.apps.codec import (
    CodecError, Encoded, NeuralCodec, bitrate, decode_long, encode_long, lossy, pack_codes,
    unpack_codes)
from foleybook.core.vqgan_networks import AttnBlock
from foleybook.spectrogram_vqgan import (
    LPAPS, SpectrogramVQGAN, VQGANConfig, VQGANLoss, adaptive_weight, unit_length)
from foleybook.train.spectrogram_vqgan import find_perceptual

MEL = MelConfig.preset("fullband")
TINY = dict(widths=(8, 8), groups=4, z_channels=8, dim=4, n_codes=16, kmeans_iters=0)


def tiny(**changes):
    torch.manual_seed(0)
    return SpectrogramVQGAN(VQGANConfig(**TINY | changes)).eval()


def plain(**changes):
    torch.manual_seed(0)
    sizes = dict(freq_strides=(4, 4), time_strides=(4, 2), kernels=(8, 4), width=8, res_width=4, res_blocks=2, dim=4, n_codes=16)
    return VQVAE(VQVAEConfig(**sizes | dict(mel=MEL, kmeans_iters=0) | changes)).eval()


BOOKS = dict(vqgan=tiny, three_levels=lambda: tiny(widths=(8, 8, 8), freq_strides=(2, 2, 2), time_strides=(2, 2, 1), attention=(1,), window=3),
             rvq=lambda: plain(n_quantizers=3), vqvae=plain, residual_vqgan=lambda: tiny(n_quantizers=3, n_codes=5),
             fsq=lambda: tiny(quantizer="fsq", levels=(3, 3)), published=lambda: tiny(norm="group", window=None, frames=128))
book = pytest.mark.parametrize("make", BOOKS.values(), ids=BOOKS)


# ---- numbers ----


@given(window=st.integers(0, 9), block=st.integers(1, 12), h=st.integers(1, 4), w=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_attention_in_blocks_is_masked_attention(window, block, h, w, seed):
    torch.manual_seed(seed)
    attn, x = AttnBlock(4, "frame", 2, window), torch.randn(2, 4, h, w)
    attn.block = block
    with torch.no_grad():
        ours, y = attn(x), attn.norm(x)
        q, k, v = (f(y).mT.flatten(2).mT for f in (attn.q, attn.k, attn.v))  # (b, w h, c)
        column = torch.arange(w).repeat_interleave(h)
        scores = (q @ k.mT / 2).masked_fill((column[:, None] - column).abs() > window, -math.inf)
        plainly = (scores.softmax(-1) @ v).mT.reshape(2, 4, w, h).mT
        assert torch.allclose(ours, x + attn.proj_out(plainly), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(dtype):
    model, x = tiny(kmeans_iters=4).train(), torch.randn(2, 128, 64) * 30
    with torch.autocast("cpu", dtype=dtype):
        out = model(x)
    out.loss.float().backward()
    assert out.loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@given(n=st.integers(2, 3000), shape=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_codes_survive_packing(n, shape, seed):
    codes = torch.randint(n, shape, generator=torch.Generator().manual_seed(seed))
    packed = pack_codes(codes, n)
    assert torch.equal(unpack_codes(packed, shape, n), codes)
    assert len(packed) == -(-math.prod(shape) * math.ceil(math.log2(n)) // 8)
    assert bitrate(shape, n, 2.0) == math.prod(shape) * math.ceil(math.log2(n)) / 2000


def test_no_gradient_is_lost_at_zero_features():
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    unit_length(x).square().sum().backward()
    assert x.grad.isfinite().all()


@given(st.integers(-8, 3), st.integers(1, 8), st.integers(0, 99))
def test_short_vectors_keep_their_direction(power, channels, seed):
    torch.manual_seed(seed)
    x = torch.randn(2, channels, 3, 3).mul_(10.0**power).requires_grad_()
    y, pull = x.detach().double().requires_grad_(), torch.randn(2, channels, 3, 3)
    ours, exact = unit_length(x), y / (y.square().sum(1, keepdim=True).sqrt() + 1e-10)
    (ours * pull).sum().backward()
    (exact * pull).sum().backward()
    steepest = (pull.norm(dim=1) / y.detach().norm(dim=1)).norm()  # what the gradient's terms are before they cancel
    for a, b, scale in ((ours, exact, 1), (x.grad, y.grad, steepest)):
        assert (a - b).norm() <= 2e-5 * (b.norm() + scale)


def test_adaptive_weight_balances_any_model():
    model = tiny().train()
    out = model(torch.randn(2, 128, 32))
    other = out.log_mel.square().mean() * 7
    w = adaptive_weight(out.error, other, model.last_layer)
    g = [torch.autograd.grad(v, model.last_layer, retain_graph=True)[0].norm() for v in (out.error, other)]
    assert w == pytest.approx((g[0] / (g[1] + 1e-4)).item(), rel=1e-4) and not w.requires_grad


# ---- a codebook like the others ----


@book
def test_it_is_a_codebook(make, tmp_path):
    model = make()
    x = torch.randn(2, 128, 50)
    codes = model.encode(x)
    assert codes.shape[1:] == model.code_shape(50) and codes.max() < model.n_codes
    assert model.decode(codes, 50).shape == x.shape
    again = Pretrained.from_pretrained(model.save_pretrained(tmp_path))
    assert again.config == model.config and again.codebook_hash == model.codebook_hash and torch.equal(again.encode(x), codes)


def test_priors_take_it():
    model = tiny()
    shape = model.code_shape(40)
    for prior in (UnigramPrior(PriorConfig(shape, 16, 2, model.codebook_hash)),
                  PixelSNAIL(PixelSNAILConfig(shape, 16, 2, model.codebook_hash, channels=8, res_channels=8, kernel_size=3, n_blocks=1,
                                              n_res_blocks=1, n_heads=2, attention_width=8, cond_channels=8)).eval()):
        made = Cascade(prior, model, GriffinLim(MEL, 2)).sample(1, seed=0, seconds=0.2, progress=False)
        assert made.audio.shape == (1, 1, 8820)
    with pytest.raises(CodeError, match="was trained on codebook"):
        Cascade(prior, tiny(n_codes=16, dim=5))


def test_wrong_mels_are_refused():
    with pytest.raises(CodeError, match="128"):
        tiny().encode(torch.zeros(1, 80, 32))
    with pytest.raises(CodeError, match="NaN"):
        tiny().encode(torch.full((1, 128, 32), math.nan))


# ---- pieces ----


@book
def test_pieces_are_the_whole(make):
    model, x = make(), torch.randn(1, 128, 1203)
    whole = model.encode(x)
    codes = encode_long(model, x, chunk=200)
    mels = decode_long(model, whole, 1203, chunk=200)
    assert codes.shape == whole.shape and mels.shape == x.shape
    if model.reach is not None:
        assert torch.equal(codes, whole) and torch.allclose(mels, model.decode(whole, 1203), atol=1e-4)


@book
def test_reach_holds(make):
    model = make()
    if model.reach is None:
        return
    s, r = model.time_stride, model.reach
    x = torch.randn(1, 128, 96 * s)
    y = x.clone()
    y[..., 48 * s] += 9
    with torch.no_grad():
        moved = ((model.latent(x) - model.latent(y)).abs().amax((0, 1, 2)) > 0).nonzero()
    assert moved.min() >= 48 - -(-r.frames // s) and moved.max() <= 48 + -(-r.frames // s)
    z = torch.randn(1, 4, model.code_shape(1)[-2], 96)
    y = z.clone()
    y[..., 48] += 9
    with torch.no_grad():
        moved = ((model.decoder(z) - model.decoder(y)).abs().amax((0, 1, 2)) > 0).nonzero()
    assert moved.min() >= (48 - r.columns) * s and moved.max() < (49 + r.columns) * s


# ---- judges ----


def classifier(mel=MEL):
    torch.manual_seed(0)
    return MelClassifier(MelClassifierConfig(mel, labels=("a", "b"), width=4, embedding=8)).eval()


def test_a_judge_that_is_missing_is_an_error(tmp_path):
    recipe = shrunk("quick-vqgan")
    with pytest.raises(SettingsError, match="no network that listens"):
        recipe.loss_func()
    with pytest.raises(CheckpointError, match="no such folder"):
        recipe.override(perceptual=str(tmp_path / "none"), classifier=recipe.baseline.classifier).loss_func()
    with pytest.raises(MelMismatch, match="n_mels"):
        find_perceptual(classifier().save_pretrained(tmp_path / "a") and tmp_path / "a", MEL.replace(n_mels=64))
    with pytest.raises(CheckpointError, match="cannot be listened in on"):
        find_perceptual(tiny().save_pretrained(tmp_path / "b") and tmp_path / "b", MEL)
    with pytest.raises(CheckpointError, match="no LPAPS network"):
        LPAPS.from_original({"loss.perceptual_loss.net.slice1.0.weight": torch.zeros(4, 1, 3, 3)})


def test_the_judge_never_learns_and_never_drops():
    ear, x, y = find_perceptual(classifier(), MEL), torch.randn(2, 128, 64), torch.randn(2, 128, 64, requires_grad=True)
    loss = VQGANLoss(ear)
    assert torch.equal(ear.train()(x, y), ear(x, y)) and not ear.training and not ear.net.model.training
    ear(x, y).sum().backward()
    assert y.grad.abs().sum() > 0 and all(p.grad is None for p in ear.parameters())
    out = tiny()(x)
    assert loss(out).item() == pytest.approx((out.loss + ear(x, out.log_mel).mean()).item(), rel=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Data(tmp_path_factory.mktemp("data"))


def test_training_with_a_given_judge(data, tmp_path):
    classifier().save_pretrained(tmp_path / "ear")
    recipe = shrunk("quick-vqgan")
    recipe = recipe.override(perceptual=str(tmp_path / "ear"), classifier=recipe.baseline.classifier)
    model = recipe.train(data.of(recipe), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "perceptual").exists() and isinstance(model, SpectrogramVQGAN)
    rows = (tmp_path / "run" / "history.csv").read_text()
    assert "perceptual" in rows and "critic_weight" in rows and "discriminator" in rows


def test_one_class_teaches_no_judge(tmp_path):
    from foleybook.sound_data import make_procedural

    recipe = shrunk("quick-vqgan")
    one = make_procedural(tmp_path / "one", ["rain"], n=4, seconds=0.5, n_jobs=1)
    with pytest.raises(SettingsError, match="teach no classifier"):
        recipe.override(cache_dir=str(tmp_path)).train(one, tmp_path / "run", progress=False)


# ---- codec ----


@book
@pytest.mark.parametrize("samples,rate", [(1, 44100), (901, 16000), (30_011, 48000), (44_100, 44100)])
def test_as_many_samples_as_went_in(make, samples, rate, tmp_path):
    codec = NeuralCodec(make(), GriffinLim(MEL, 1), chunk=64)
    made = codec.encode(0.1 * torch.randn(2, samples), rate)
    again = Encoded.load(made.save(tmp_path / "a.foley"))
    y = codec.decode(again)
    assert y.shape == (2, samples) and y.abs().max() <= 1 and torch.equal(again.codes, made.codes)
    head = json.dumps(dict(shape=list(made.codes.shape), n_codes=made.n_codes, samples=samples, sample_rate=rate, codebook=made.codebook))
    bits = made.kbps * 1000 * made.seconds
    assert (tmp_path / "a.foley").stat().st_size == 28 + len(head) + -(-round(bits) // 8)


@book
def test_a_rounded_codec_is_near(make):
    book, x = make(), 0.1 * torch.randn(1, 22_050)
    whole, rounded = (NeuralCodec(book, GriffinLim(MEL, 1), precision=p) for p in ("float32", "bf16"))
    codes = whole.encode(x, 44100)
    near = rounded.encode(x, 44100)
    assert (near.codes == codes.codes).float().mean() > 0.8 and rounded.decode(codes).dtype == torch.float32
    with pytest.raises(CodecError, match="'fp8' is not known. Give 'float32' or 'bf16'"):
        NeuralCodec(book, GriffinLim(MEL, 1), precision="fp8")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: b[:5], lambda b: b"FOLEYB01",
                                    *(lambda b, k=k: b[:k] + bytes([b[k] ^ 4]) + b[k + 1:] for k in (9, 30, -20, -2))])
def test_a_damaged_file_is_told(damage, tmp_path):
    file = NeuralCodec(tiny(), GriffinLim(MEL, 1)).encode(torch.randn(1, 5000), 44100).save(tmp_path / "a.foley")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CodecError, match="a.foley"):
        Encoded.load(file)


def forge(file, to, head=None, **changed):
    "A copy whose digest is right and whose head lies"
    body = file.read_bytes()[:-16]
    end = 12 + int.from_bytes(body[8:12], "little")
    text = json.dumps({k: v for k, v in (json.loads(body[12:end]) | changed).items() if v != "gone"}).encode() if head is None else head
    body = body[:8] + len(text).to_bytes(4, "little") + text + body[end:]
    to.write_bytes(body + hashlib.blake2b(body, digest_size=16).digest())
    return to


LIES = [dict(head=b"[" * 5000), dict(head=b"[]"), dict(head=b"7"), dict(head=b"{"), dict(head=b"\xff"), dict(head=b'{"shape": ' + b"9" * 5000 + b"}"),
        *(dict([(k, v)]) for k in ("shape", "n_codes", "samples", "sample_rate", "codebook") for v in ("gone", None, True, -1, 0, 1.5, 2**70, "x", [], [[1]], {})),
        dict(more=1), dict(shape=[1, 0, 3]), dict(shape=[2**40, 1, 1]), dict(shape=[1] * 9), dict(n_codes=1), dict(sample_rate=7),
        dict(samples=1), dict(samples=2**26), dict(samples=10 * 3600 * 44100), dict(samples=36_000_000, sample_rate=1000), dict(samples=10_001), dict(n_codes=13)]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: str(lie)[:40])
def test_a_forged_file_of_codes_is_told(lie, tmp_path):
    codec = NeuralCodec(tiny(), GriffinLim(MEL, 1))
    file = codec.encode(torch.randn(1, 5000), 44100).save(tmp_path / "a.foley")
    with pytest.raises(CodecError):
        codec.decode(Encoded.load(forge(file, tmp_path / "b.foley", **lie)))


def test_devices_and_pipes_are_no_codes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for odd in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(CodecError):
            Encoded.load(odd)


def test_the_codec_verb_finds_its_codebook_and_spares_its_input(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = (0.3 * np.sin(np.arange(22050) / 7)).astype(np.float32)
    sf.write("a.wav", x, 44100)
    assert main(["codec", "encode", "a.wav", "--device", "cpu"]) == 0  # the one that ships
    assert main(["codec", "decode", "a.foley", "--device", "cpu", "--vocoder", "none"]) == 0 and sf.info("a.decoded.wav").frames == 22050
    sf.write("b.wav", x, 44100)
    os.replace("b.wav", "b.foley")
    for words in (["encode", "b.foley"], ["encode", "a.wav", "--out", "./a.wav"], ["decode", "a.foley", "--out", "a.foley"]):
        before = Path(words[1]).read_bytes()
        assert main(["codec", *words]) == 1 and "is the input itself. Give --out another name" in capsys.readouterr().err
        assert Path(words[1]).read_bytes() == before
    assert main(["vocode", "a.wav", "--out", "a.wav"]) == 1 and "is the input itself" in capsys.readouterr().err
    assert main(["codec", "encode", "a.wav", "--codebook", "foley"]) == 1 and "such as foley-cascade" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["MP3", "Vorbis", "Opus"])
def test_rivals_are_in_step(kind):
    t = torch.arange(88200) / 44100
    x = 0.3 * torch.sin(2 * math.pi * 300 * t) * (t % 0.5 < 0.1)
    y, kbps = lossy(x[None], 44100, kind, 0.2)
    assert y.shape == (1, 88200) and 5 < kbps < 400
    assert ((x - y[0]).norm() / x.norm()) < 0.5


def test_the_verb(tmp_path, capsys):
    top = tmp_path
    plain(n_quantizers=2).save_pretrained(top / "rvq")
    t = np.arange(30_000) / 22050
    sf.write(top / "a.wav", 0.3 * np.stack([np.sin(2500 * t), np.sin(900 * t)], 1), 22050)
    words = ["--codebook", str(top / "rvq"), "--device", "cpu"]
    assert main(["codec", "encode", str(top / "a.wav"), *words, "--stages", "1"]) == 0
    said = capsys.readouterr().out
    assert "kbit/s" in said and (top / "a.foley").exists()
    assert main(["codec", "decode", str(top / "a.foley"), *words, "--vocoder", "none"]) == 0
    x, rate = sf.read(top / "a.decoded.wav")
    assert x.shape == (30_000, 2) and rate == 22050
    assert main(["codec", "squeeze", str(top / "a.wav"), *words]) == 1 and "encode or decode" in capsys.readouterr().err
    tiny().save_pretrained(top / "other")
    assert main(["codec", "decode", str(top / "a.foley"), "--codebook", str(top / "other"), "--vocoder", "none"]) == 1
    assert "codebook that encoded" in capsys.readouterr().err
    (top / "a.foley").write_bytes(b"FOLEYB01 and more")
    assert main(["codec", "decode", str(top / "a.foley"), *words, "--vocoder", "none"]) == 1 and "damaged" in capsys.readouterr().err


# ---- published files ----


def test_a_transformers_checkpoint_holds_its_codebook(tmp_path):
    golden = load_file("tests/golden/specvqgan/codebook_full.safetensors")
    sd = {k[3:]: v for k, v in golden.items() if k.startswith("sd.")}
    whole = {f"first_stage_model.{k}": v for k, v in sd.items()} | {"transformer.head.weight": torch.zeros(3, 3)}
    torch.save({"state_dict": whole, "epoch": 1}, tmp_path / "last.ckpt")
    a, b = SpectrogramVQGAN.from_original(tmp_path / "last.ckpt"), SpectrogramVQGAN.from_original(sd)
    assert a.codebook_hash == b.codebook_hash and replace(a.config) == b.config
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:999])
    with pytest.raises(CheckpointError, match="cut.ckpt"):
        SpectrogramVQGAN.from_original(tmp_path / "cut.ckpt")
    del sd["encoder.mid.attn_1.q.weight"]
    with pytest.raises(CheckpointError, match="encoder.mid.attn_1.q.weight"):
        SpectrogramVQGAN.from_original(sd)
