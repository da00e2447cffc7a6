"Weights held in fewer bits: what is drawn stays near, float32 stays exact, and every verb says what it cannot"
import json

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import nn

from foleybook.apps.cli import main
from foleybook.core import clip_tables, feature_cache
from foleybook.core.cached_transformer import CachedGPT, CompiledGPT
from foleybook.core.code_maps import Cascade
from foleybook.core.feature_cache import MelCache
from foleybook.core.half_precision import held, held_linears, HeldLinear
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.audio_features import MelConfig
from foleybook.pixelsnail import PixelSNAIL, PixelSNAILConfig
from foleybook.spectrogram_vqgan import SpectrogramVQGAN, VQGANConfig
from foleybook.transformer import CodeGPT, TransformerConfig


def decibels(near, exact):
    return 10 * torch.log10(exact.var() / (near - exact).square().mean()).item()


@pytest.fixture(scope="module")
def gpt():
    torch.manual_seed(0)
    model = CodeGPT(TransformerConfig(code_shape=(4, 7), n_codes=32, n_classes=3, width=96, n_layers=3, n_heads=3)).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("size", [(1, 1), (40, 4), (100, 5), (1026, 30)])
@pytest.mark.parametrize("precision, least", [("bf16", 45), ("int8", 35)])
def test_a_linear_layer_of_any_size(size, precision, least):
    torch.manual_seed(0)
    layer = nn.Linear(*size)
    for shape in ((1,), (3,), (2, 9)):
        x = torch.randn(*shape, size[0])
        with torch.no_grad():
            near, exact = HeldLinear(layer, precision)(x), layer(x)
        assert near.shape == exact.shape and (near - exact).norm() < 10 ** (-least / 20) * exact.norm()


@pytest.mark.parametrize("precision, least", [("bf16", 35), ("int8", 25)])
def test_a_transformer_answers_nearly_the_same(gpt, precision, least):
    codes, label = torch.randint(32, (2, 1, 4, 7)), torch.tensor([0, 2])
    with torch.no_grad():
        exact, near = gpt(codes[:, 0], label), held(gpt, precision, held_linears)(codes[:, 0], label)
    assert decibels(near, exact) > least
    assert (exact.argmax(1) == near.argmax(1)).float().mean() > 0.8


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_transformer_draws_from_rounded_weights_and_returns_to_its_own(gpt, precision):
    draw = lambda: gpt.sample_codes(torch.tensor([0, 1]), [3, 4])  # noqa: E731
    exact, weights = draw(), {k: v.clone() for k, v in gpt.state_dict().items()}
    assert gpt.compiled(2)
    gpt.set_precision(precision)
    try:
        assert not gpt.compiled(2)
        near, one = draw(), gpt.sample_codes(torch.tensor([1]), [4])
        assert torch.equal(draw(), near) and torch.equal(one, near[1:])  # the same seed, in any batch
        step = held(gpt, precision, held_linears)
        assert type(step.blocks[0].attn.qkv) is HeldLinear and type(gpt.blocks[0].attn.qkv) is nn.Linear
    finally:
        gpt.set_precision("float32")
    assert torch.equal(draw(), exact) and all(torch.equal(v, weights[k]) for k, v in gpt.state_dict().items())


def test_a_trial_changes_nothing(gpt):
    before = gpt.sample_codes(torch.tensor([2]), [5])
    assert gpt.set_precision("auto").precision in ("float32", "bf16")
    gpt.set_precision("float32")
    assert torch.equal(gpt.sample_codes(torch.tensor([2]), [5]), before)


def test_weights_of_inference_mode_are_rounded_once_and_tell_when_they_change():
    made, codes = [], torch.randint(32, (1, 4, 7))

    def rounded(net, precision):
        made.append(precision)
        return held_linears(net, precision)

    with torch.inference_mode():
        torch.manual_seed(0)
        model = CodeGPT(TransformerConfig(code_shape=(4, 7), n_codes=32, n_classes=1, width=32, n_layers=1, n_heads=2)).eval()
        exact, weights = model(codes), {k: v.clone() for k, v in model.state_dict().items()}
        assert model.head.weight.is_inference()
        first = held(model, "bf16", rounded)
        assert held(model, "bf16", rounded) is first and made == ["bf16"]
        assert torch.equal(model(codes), exact) and all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
        model.head.weight.mul_(2)
        assert held(model, "bf16", rounded) is not first and len(made) == 2
    assert not any(p.is_inference() for p in model.parameters())
    with torch.no_grad():
        assert held(model, "bf16", rounded) and len(made) == 2
    shared = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    with torch.inference_mode():
        shared[0].weight = shared[1].weight = nn.Parameter(torch.ones(4, 4))
        held(shared, "int8", held_linears)
    assert shared[0].weight is shared[1].weight and shared[0].weight.requires_grad


def test_what_is_compiled_reads_the_models_own_weights(gpt):
    prefix, x = gpt.prefix(torch.tensor([0]), 1).detach(), torch.zeros(1, 28, 1, dtype=torch.long)
    assert CompiledGPT(gpt, prefix, x).model is gpt and CachedGPT(gpt, prefix, x).model is gpt


@pytest.mark.parametrize("make", [
    lambda: VQVAE(VQVAEConfig(mel=MelConfig.preset("dcase2023"), freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=16, res_blocks=1, dim=8, n_codes=32)),
    lambda: SpectrogramVQGAN(VQGANConfig(widths=(32, 64), blocks=1, n_codes=32, dim=32, z_channels=32, kmeans_iters=0))])
def test_a_decoder_in_bf16_says_nearly_the_same(make):
    torch.manual_seed(0)
    model = make().eval()
    codes = torch.randint(32, (1, *model.code_shape(64)))
    with torch.no_grad():
        exact = model.decode(codes)
        near = model.set_precision("bf16").decode(codes)
        assert decibels(near, exact) > 30 and near.dtype == torch.float32
        assert torch.equal(model.set_precision("float32").decode(codes), exact)


def small_cascade(prior=None):
    torch.manual_seed(0)
    book = VQVAE(VQVAEConfig(mel=MelConfig.preset("dcase2023"), freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=16, res_blocks=1, dim=8,
                             n_codes=32, kmeans_iters=0)).eval()
    shape = book.code_shape(64)
    config = TransformerConfig(code_shape=shape, n_codes=32, n_classes=2, width=32, n_layers=1, n_heads=2)
    return Cascade(prior(shape) if prior else CodeGPT(config).eval(), book)


def test_a_cascade_tells_its_parts():
    model = small_cascade()
    assert model.precision == "float32"
    assert model.set_precision("bf16").precision == "bf16"
    assert model.set_precision("int8").precision == "int8 prior, float32 codebook"
    made = model.sample("0", n=1, seed=1)
    assert made.meta["arguments"]["precision"] == "int8 prior, float32 codebook"
    assert "precision" not in model.set_precision("float32").sample("0", n=1, seed=1).meta["arguments"]
    with pytest.raises(ValueError, match="'half'.*float32, bf16, int8"):
        model.set_precision("half")


def test_a_prior_that_gains_nothing_stays_exact():
    net = dict(n_classes=2, channels=16, res_channels=16, n_blocks=1, attention_width=16)
    model = small_cascade(lambda shape: PixelSNAIL(PixelSNAILConfig(code_shape=shape, n_codes=32, **net)).eval())
    assert model.set_precision("bf16").precision == "float32 prior, bf16 codebook"
    with pytest.raises(ValueError, match="'int8'.*PixelSNAIL and VQVAE hold their weights in float32, bf16"):
        model.set_precision("int8")


@pytest.mark.parametrize("words", [["edit", "foley", "IN"], ["morph", "foley", "IN", "IN"], ["restyle", "foley", "IN", "--class", "rain"],
                                   ["gallery", "foley", "--edits", "--data", "DATA"], ["serve", "foley", "--no-browser"]])
def test_every_verb_refuses_what_its_model_cannot(words, tmp_path, capsys):
    (tmp_path / "tone").mkdir()
    sf.write(tmp_path / "tone" / "a.wav", 0.3 * np.sin(np.arange(22050) / 20), 22050)
    words = [dict(IN=str(tmp_path / "tone" / "a.wav"), DATA=str(tmp_path)).get(w, w) for w in words]
    out = [] if words[0] == "serve" else ["--out", str(tmp_path / "out.wav")]
    assert main([*words, *out, "--precision", "int8"]) == 1
    assert "precision='int8' is not known; give 'float32' or 'bf16' or 'auto'" in capsys.readouterr().err.replace(", ", " or ")
    assert not (tmp_path / "out.wav").exists()


def test_a_page_of_finished_sounds_has_no_precision(tmp_path, capsys):
    assert main(["gallery", str(tmp_path), "--precision", "bf16"]) == 1
    assert "--precision would not be used" in capsys.readouterr().err


def test_an_edit_in_bf16_is_near_the_exact_one(tmp_path):
    rng = np.random.default_rng(0)
    sf.write(tmp_path / "in.wav", 0.1 * rng.standard_normal(44100), 44100, subtype="FLOAT")
    made = {}
    for precision in ("float32", "bf16"):
        out = tmp_path / f"{precision}.wav"
        assert main(["edit", "foley", str(tmp_path / "in.wav"), "--class", "rain", "--mask", ".4:.7", "--steps", "4", "--out", str(out),
                     "--precision", precision, "--quiet"]) == 0
        made[precision] = torch.from_numpy(sf.read(out)[0])
    kept = torch.ones(44100, dtype=torch.bool)
    kept[15000:33500] = False
    assert torch.equal(made["float32"][kept], made["bf16"][kept]) and not torch.equal(made["float32"], made["bf16"])
    level = [m[19000:29000].square().mean().sqrt().item() for m in made.values()]
    assert abs(level[0] / level[1] - 1) < 0.1


def test_prepare_decodes_every_file_once_and_keeps_the_same_bytes(tmp_path, monkeypatch, capsys):
    rng, sounds = np.random.default_rng(0), tmp_path / "sounds" / "noise"
    sounds.mkdir(parents=True)
    for i in range(4):
        sf.write(sounds / f"{i}.wav", 0.2 * rng.standard_normal(11025), 22050)
    sf.write(sounds / "silent.wav", np.zeros(11025), 22050)
    (sounds / "text.wav").write_text("no sound")
    read, pieces = [], clip_tables._pieces

    def counted(file, *more):
        read.append(file.name)
        return pieces(file, *more)

    monkeypatch.setattr(clip_tables, "_pieces", counted)
    monkeypatch.setattr(feature_cache, "_pieces", counted)
    monkeypatch.setenv("FOLEYBOOK_CACHE", str(tmp_path / "once"))
    words = ["prepare", str(tmp_path / "sounds"), "--mel", "dcase2023", "--seconds", ".5", "--jobs", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert sorted(read) == ["0.wav", "1.wav", "2.wav", "3.wav", "silent.wav"]
    said = capsys.readouterr().out
    assert "silent.wav: silent" in said and "text.wav" in said and "2 left out in all" in said and "4 clips" in said
    table = clip_tables.ClipTable.read(tmp_path / "out" / "clips.csv")
    assert [f.name for f in table.files()] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    once = next((tmp_path / "once").glob("*/rows.bin"))
    whole = clip_tables.ClipTable(table.df, table.root).check(n_jobs=1)
    twice = MelCache.build(whole, MelConfig.preset("dcase2023"), 0.5, tmp_path / "twice", n_jobs=1, progress=False)
    assert once.read_bytes() == (twice.path.parent / "rows.bin").read_bytes()
    read.clear()
    assert main(words) == 0 and read == []  # nothing is decoded again
    assert json.loads((next((tmp_path / "once").glob("*/*/set.json"))).read_text())["skipped"][0][1].endswith("silent.wav")
