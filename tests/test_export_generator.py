"A whole generator as one ONNX program gives what `sample` gives, in both forms that a flow can have"
import json

import numpy as np
import pytest
import torch

import foleybook as fb
from foleybook.apps.cli import main
from foleybook.audio_features import MelConfig
from foleybook.spectrogram_diffusion import FlowConfig, FlowTransformer, LatentDiffusion, LatentDiffusionConfig, MelVAE, MelVAEConfig
from foleybook.vocoders import ISTFTConfig, ISTFTVocoder

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from foleybook.apps.export_generator import SmallFFT, export_generator, generator_graph, program_inputs, sampler_table  # noqa: E402

MEL = MelConfig(sample_rate=16000, n_fft=256, win_length=256, hop_length=64, n_mels=16, f_max=None)


def flow(guidance=2.0, steps=3, grain=8, sampler="dpm++2m", interval=(0.1, 0.9), **more):
    "A small flow with random weights"
    torch.manual_seed(0)
    vae = MelVAE(MelVAEConfig(MEL, patch=(16, 4), channels=8, width=16, depth=1, hidden=16, grain=grain))
    vae.fit(torch.randn(8, 16, 64) - 3)
    net = FlowTransformer(FlowConfig(channels=8, width=32, depth=2, heads=2, columns=40, n_classes=3, **more))
    with torch.no_grad():
        for p in net.parameters(): p += 0.1 * torch.randn_like(p)
    voice = ISTFTVocoder(ISTFTConfig(MEL, 16, 32, 2, rounds=4, sharpen=3))
    config = LatentDiffusionConfig(("rain", "dog", "bell"), seconds=0.5, guidance=guidance, steps=steps, sampler=sampler, interval=interval)
    return LatentDiffusion(config, vae, net, voice).eval()


def snr(model, file, cond, seed):
    "dB between the program's sound and that of `sample`"
    made = model.sample(cond, seed=seed, progress=False).audio[0].numpy()
    ours, = ort.InferenceSession(file).run(None, program_inputs(model, cond, seed))
    assert ours.shape == made.shape and np.isfinite(ours).all()
    return 10 * np.log10((made**2).sum() / ((made - ours) ** 2).sum())


def test_the_same_noise_gives_the_same_sound(tmp_path):
    "With guidance within an interval, tokens and near columns; classes alone and mixed"
    model = flow(tokens=2, near=3)
    file = export_generator(model, tmp_path / "m.onnx", bits=32)
    for cond, seed in (("dog", 1), ({"rain": 0.5, "bell": 0.5}, 2)):
        assert snr(model, file, cond, seed) > 30


def test_a_student_of_four_calls_asks_once(tmp_path):
    "No guidance, no residual texture; in eight bits; what the file says of itself"
    model = flow(guidance=1.0, steps=4, sampler="ddim", grain=0)
    model.card = dict(licence="CC0")
    file = export_generator(model, tmp_path / "m.onnx")
    session = ort.InferenceSession(file)
    given = program_inputs(model, "dog", 0)
    one, = session.run(None, given)
    none, = session.run(None, given | dict(classes=np.zeros((1, 3), "f4")))
    assert snr(model, file, "dog", 0) > 30 and np.abs(one - none).max() > 1e-4
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["labels"]) == ["rain", "dog", "bell"] and told["sample_rate"] == "16000" and told["samples"] == "8000"
    assert told["calls"] == "4" and "CC0" in told["licence"] and "(1, 3)" in told["classes"]


def test_a_track_of_level_is_an_input(tmp_path):
    model = flow(level=4, hints=2, steps=2)
    file = export_generator(model, tmp_path / "m.onnx", bits=32)
    frames = model.vae.time_stride * -(-125 // model.vae.time_stride)
    level = [-20.0 if k < 60 else -60.0 for k in range(125)]
    asked = {i.name: i.shape for i in ort.InferenceSession(file).get_inputs()}
    assert asked["level"] == [1, frames] and {*asked} == {"noise", "white", "classes", "level"}
    assert snr(model, file, "rain", 3) > 30
    held = level + [level[-1]] * (frames - 125)  # behind the end the last value holds
    made = model.sample("rain", seed=3, progress=False, controls=dict(level=level)).audio[0].numpy()
    ours, = ort.InferenceSession(file).run(None, program_inputs(model, "rain", 3, level=torch.tensor(held)[None]))
    assert 10 * np.log10((made**2).sum() / ((made - ours) ** 2).sum()) > 30


@pytest.mark.parametrize("sampler", ["dpm++2m", "ddim", "heun", "euler"])
def test_a_table_is_the_sampler(sampler):
    "On a network that is a formula: the mixtures give what the sampler gives"
    from foleybook.core.randomness import ItemNoise
    from foleybook.diffwave import diffuse

    model, net = flow(), lambda x, t: (x * 0.3 + t.view(-1, 1) / 2000).sin()
    table = sampler_table(model, 5, 1.0, sampler)
    wanted = diffuse(model.process, net, (1, 7), ItemNoise([0]), sampler, times=model.time_steps(5, None, sampler))
    states = [ItemNoise([0]).randn(7)]
    for row, t in zip(table.mix, table.times):
        states.append(net(sum(a * s for a, s in zip(row, states)), t.view(1)))
    assert torch.allclose(sum(a * s for a, s in zip(table.mix[-1], states)), wanted, atol=1e-3)


@pytest.mark.parametrize("n", [256, 600, 2048])
def test_small_matrices_are_the_transform(n):
    x, fft = torch.randn(2, 3, n), SmallFFT(n)
    assert torch.allclose(torch.complex(*fft(x)), torch.fft.rfft(x), atol=2e-3) and torch.allclose(fft.inverse(*fft(x)), x, atol=1e-4)


def test_what_cannot_be_a_program_is_said(tmp_path, capsys):
    with pytest.raises(ValueError, match="draws noise on its way"): sampler_table(flow(), 3, 1.0, "ddpm")
    with pytest.raises(ValueError, match="up to 0.64 s"): generator_graph(flow(), seconds=9.0)
    with pytest.raises(ValueError, match="cannot be exported as one program"): generator_graph(fb.load("pops"), seconds=1.0)
    folder = flow().save_pretrained(tmp_path / "m")
    assert main(["export", str(folder), "--out", str(tmp_path / "m.pt2")]) == 1 and "becomes a .onnx file" in capsys.readouterr().err
    assert main(["export", "--seconds", "2", "--out", str(tmp_path / "v.onnx")]) == 1 and "is a vocoder" in capsys.readouterr().err


def test_the_verb_writes_it(tmp_path, capsys):
    folder = flow().save_pretrained(tmp_path / "m")
    assert main(["export", str(folder), "--out", str(tmp_path / "m.onnx"), "--steps", "2", "--rounds", "1"]) == 0
    assert "in its metadata" in capsys.readouterr().out
    assert ort.InferenceSession(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map["calls"] == "2"


@pytest.mark.slow
def test_the_shipped_generator(tmp_path):
    "As it ships, in full: at most 25 MB, and the same sound"
    model = fb.load("foley")
    file = export_generator(model, tmp_path / "foley.onnx")
    assert file.stat().st_size <= 25e6
    label = model.labels[0]
    made = model.sample(label, seed=3, progress=False).audio[0].numpy()
    ours, = ort.InferenceSession(file).run(None, program_inputs(model, label, 3))
    assert 10 * np.log10((made**2).sum() / ((made - ours) ** 2).sum()) > 30
