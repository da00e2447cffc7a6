"""Vocoders: pieces equal the whole, folded equals unfolded, bad input is named."""
import json
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from foleybook.core import rendering
from foleybook.audio_features import MelConfig, MelMismatch, log_mel
from foleybook.core.feature_cache import WaveCache
from foleybook.core.sound_files import write_audio
from foleybook.sound_data import make_procedural
from foleybook.core.files import CheckpointError
from foleybook.core.generator import Pretrained
from foleybook.train.recipes import find_recipe
from foleybook.core.settings import from_plain
from foleybook.apps.export import Exportable, export_onnx, export_program, export_vocoder
from foleybook.core.rendering import find_vocoder, fold_weight_norm
from foleybook.published.melgan import MelGAN, MelGANConfig, MelGANDiscriminator, melgan_mel
from foleybook.core.rendering import render_file
from foleybook.published.bigvgan import BigVGAN, BigVGANConfig
from foleybook.train.vocoders import (
    MultiPeriodDiscriminator, MultiResolutionDiscriminator, MultiScaleDiscriminator, wave_to_mel)
from foleybook.vocoders import HiFiGAN, HiFiGANConfig, ISTFTConfig, ISTFTVocoder, multi_resolution_stft_loss

TINY = dict(upsample_initial_channel=16)


def models():
    yield "hifigan-v1", lambda: HiFiGAN(HiFiGANConfig.v1(**TINY))
    yield "hifigan-v3", lambda: HiFiGAN(HiFiGANConfig.v3(**TINY))
    yield "hifigan-chained", lambda: HiFiGAN(HiFiGANConfig.v1(chained=True, **TINY))
    yield "melgan", lambda: MelGAN(MelGANConfig.specvqgan(ngf=2))
    yield "bigvgan", lambda: BigVGAN(BigVGANConfig(upsample_initial_channel=16))
    yield "bigvgan-2", lambda: BigVGAN(BigVGANConfig(upsample_initial_channel=16, resblock="2", activation="snake",
                                                     use_tanh_at_final=False, use_bias_at_final=False))
    yield "istft", lambda: ISTFTVocoder(ISTFTConfig(width=16, hidden=32, n_layers=2, sharpen=3))
    yield "istft-centred", lambda: ISTFTVocoder(ISTFTConfig(MelConfig.preset("specvqgan"), 16, 32, 2, sharpen=3))
    yield "istft-odd-hop", lambda: ISTFTVocoder(ISTFTConfig(MelConfig(hop_length=220, win_length=882), 16, 32, 1, sharpen=3))


@pytest.fixture(params=[m for _, m in models()], ids=[n for n, _ in models()])
def vocoder(request):
    torch.manual_seed(0)
    model = request.param().eval()
    for p in model.parameters():
        if p.ndim > 1:
            p.data.mul_(1.5)
    return model


def mels(vocoder, frames, batch=1):
    x = torch.rand(batch, vocoder.mel.n_mels, frames, generator=torch.Generator().manual_seed(1))
    return x if vocoder.mel.low is not None else 4 * x - 4


def far(y, whole):
    "Relative distance. Where two waves cancel, Griffin-Lim takes its phase from the last bits, and makes them larger"
    y, whole = (torch.as_tensor(v).double() for v in (y, whole))
    return float((y - whole).norm() / whole.norm())


def test_chunks_are_the_whole(vocoder):
    x = mels(vocoder, 90, 2)
    with torch.no_grad():
        whole = vocoder(x)
    assert whole.shape == (2, 1, 90 * vocoder.mel.hop_length) and whole.isfinite().all()
    assert whole.std() > 1e-4
    for chunk in (7, 32):
        assert far(vocoder.vocode(x, chunk=chunk), whole) <= 1e-4


def test_sharpened_attacks_in_chunks_are_those_of_the_whole():
    torch.manual_seed(0)
    v = ISTFTVocoder(ISTFTConfig(width=16, hidden=32, n_layers=1, rounds=1, sharpen=4)).eval()
    sound = torch.randn(1, 200 * 512, generator=torch.Generator().manual_seed(0)) / 10
    bursts = torch.arange(200 * 512) % 20480  # every 40 frames, half of the time
    x = log_mel(sound * (bursts >= 10240), v.mel)
    with torch.no_grad():
        whole = v(x)
        v.config.sharpen = 0
        plain = v(x)
    v.config.sharpen = 4
    assert v.context < 60 and far(v.vocode(x, chunk=64), whole) <= 1e-4 < far(plain, whole)
    early = lambda y: float(y[0, 0, (bursts > 9300) & (bursts < 10200)].square().mean())
    assert early(whole) < 0.6 * early(plain)  # after four rounds


def test_sharpening_is_for_playing_not_for_learning():
    v = ISTFTVocoder(ISTFTConfig(width=16, hidden=32, n_layers=1, rounds=1))
    x = torch.full((1, 128, 40), -9.)
    x[..., 20:] = 0.
    with torch.no_grad():
        played, learned = v.eval()(x), v.train()(x)
        v.config.sharpen = 0
        assert torch.equal(learned, v(x)) and far(played, learned) > 0.01


def test_batches_are_split_to_fit_in_memory(vocoder):
    x = mels(vocoder, 40, 3)
    whole, seen, forward = vocoder.vocode(x), [], type(vocoder).forward
    hook = vocoder.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    parts = vocoder.vocode(x, chunk=40)
    hook.remove()
    assert [s[0] for s in seen] == [1, 1, 1] and far(parts, whole) <= 1e-4


@pytest.mark.parametrize("make", [lambda: HiFiGAN(HiFiGANConfig.v1()), lambda: HiFiGAN(HiFiGANConfig.v2()),
                                  lambda: HiFiGAN(HiFiGANConfig.v3()), lambda: MelGAN(MelGANConfig()),
                                  lambda: BigVGAN(BigVGANConfig()), lambda: ISTFTVocoder(ISTFTConfig()),
                                  lambda: BigVGAN(BigVGANConfig.preset("v2_44khz_128band_512x"))])
def test_a_clip_of_four_seconds_is_one_piece(make):
    with torch.device("meta"):
        model = make()
    frames = model.frames_at_once // 16
    assert frames + model.context >= 4 * model.mel.sample_rate / model.mel.hop_length
    assert 4 * max(model.layer_sizes()) * frames <= 2**24


def test_ten_minutes_stay_small():
    code = ("import resource, torch\ntorch.set_num_threads(1)\nfrom foleybook.vocoders import *\n"
            "v = ISTFTVocoder(ISTFTConfig(width=16, hidden=16, n_layers=1)).eval()\nv.vocode(torch.zeros(1, 128, 64))\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nv.vocode(torch.full((1, 128, 51680), -5.))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) / 1024 < 250


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_bf16_is_near(precision):
    for v in (find_vocoder(), fold_weight_norm(HiFiGAN(HiFiGANConfig.v2(**TINY)))):
        x = torch.randn(1, v.mel.n_mels, 60, generator=torch.Generator().manual_seed(0)) - 5
        exact, near = v.vocode(x), v.vocode(x, precision=precision)
        assert near.dtype == torch.float32
        if isinstance(v, ISTFTVocoder):  # rounds of Griffin-Lim make phases of the last bits: what is heard has to be near
            assert (log_mel(near[:, 0], v.mel) - log_mel(exact[:, 0], v.mel)).abs().mean() < 0.1
        else:
            assert (near - exact).norm() <= 10 ** (-35 / 20) * exact.norm()
        assert precision == "bf16" or v.takes_bf16("auto") or torch.equal(near, exact)
    with pytest.raises(ValueError, match="half.*auto"):
        v.vocode(x, precision="half")


def test_rendering_does_not_inherit_autocast(vocoder):
    x = mels(vocoder, 12)
    want = vocoder.vocode(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vocoder.vocode(x), want)


def test_istft_head_is_float32_inside_autocast():
    "With the backbone out of the way, nothing is left that may differ"
    torch.manual_seed(0)
    v = ISTFTVocoder(ISTFTConfig(MelConfig.preset("dcase2023"), width=16, hidden=32, n_layers=2)).eval()
    v.norm_out = torch.nn.Sequential()
    v.embed, v.blocks, v.norm_in = torch.nn.Identity(), torch.nn.ModuleList(), torch.nn.Identity()
    v.head = torch.nn.Linear(80, 4 * v.bins)
    x = mels(v, 20)
    with torch.no_grad():
        want = v(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(v(x), want)


def test_weights_lie_in_the_order_of_their_axes(vocoder, tmp_path):
    "What optimisers, checkpoints and other processes are given: fused Adam takes the memory as it lies"
    assert not [k for k, w in vocoder.state_dict().items() if not w.is_contiguous()]
    fold_weight_norm(vocoder)
    assert not [k for k, w in vocoder.state_dict().items() if not w.is_contiguous()]


def test_permuted_weights_survive_saving(tmp_path):
    v = fold_weight_norm(HiFiGAN(HiFiGANConfig.v1(**TINY)))
    x = mels(v, 12)
    want = v.vocode(x)
    for p in v.parameters():
        if p.ndim == 3:
            p.data = p.data.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    v.save_pretrained(tmp_path / "v")
    assert torch.equal(Pretrained.from_pretrained(tmp_path / "v").vocode(x), want)
    twin = fold_weight_norm(HiFiGAN(v.config))
    for p in twin.parameters():
        if p.ndim == 3:
            p.data = p.data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    twin.load_state_dict(v.state_dict())
    assert torch.equal(twin.vocode(x), want)


def test_stream_is_the_whole(vocoder):
    x = mels(vocoder, 90)
    whole = vocoder.vocode(x)
    for pieces in (x, x.split([1, 40, 3, 45, 1], -1), iter([x])):
        y = torch.cat(list(vocoder.stream(pieces)), -1)
        assert y.shape == whole.shape and far(y, whole) <= 1e-4


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_short_spectrograms(vocoder, frames):
    y = vocoder.vocode(mels(vocoder, frames))
    assert y.shape[-1] == frames * vocoder.mel.hop_length and torch.isfinite(y).all()


def test_folded_is_unfolded(vocoder):
    x = mels(vocoder, 12)
    with torch.no_grad():
        before = vocoder(x)
        after = fold_weight_norm(vocoder)(x)
    assert (before - after).abs().max() <= 1e-6
    assert not any("parametrizations" in k or "weight_g" in k for k in vocoder.state_dict())


@pytest.mark.parametrize("folded", [False, True])
def test_save_and_load(vocoder, tmp_path, folded):
    if folded:
        fold_weight_norm(vocoder)
    vocoder.save_pretrained(tmp_path / "v")
    again = Pretrained.from_pretrained(tmp_path / "v")
    x = mels(vocoder, 12)
    assert again.mel == vocoder.mel
    assert torch.equal(again.vocode(x), vocoder.vocode(x))


def test_bad_input(vocoder):
    x = mels(vocoder, 12)
    n = vocoder.mel.n_mels
    with pytest.raises(ValueError, match=f"{n}.*{n - 1}"):
        vocoder.vocode(x[:, 1:])
    with pytest.raises(ValueError, match="empty"):
        vocoder.vocode(x[..., :0])
    with pytest.raises(ValueError, match="empty"):
        list(vocoder.stream([]))
    bad = x.clone()
    bad[0, 3, 5] = float("nan")
    with pytest.raises(ValueError, match="nan.*band 3, frame 5"):
        vocoder.vocode(bad)
    with pytest.raises(MelMismatch, match="f_max"):
        vocoder.vocode(x, mel=vocoder.mel.replace(f_max=5000.0))


def test_rates_must_make_the_hop():
    with pytest.raises(ValueError, match="256.*512"):
        HiFiGAN(HiFiGANConfig(MelConfig(hop_length=512, win_length=1024)))


def weights(model):
    old = "parametrizations.weight.original"
    return {k.replace(f"{old}0", "weight_g").replace(f"{old}1", "weight_v"): v for k, v in model.state_dict().items()}


def test_original_files(tmp_path):
    model = HiFiGAN(HiFiGANConfig.v3(**TINY)).eval()
    file = tmp_path / "g_00000001"
    torch.save({"generator": weights(model)}, file)
    settings = dict(resblock="2", upsample_rates=[8, 8, 4], upsample_kernel_sizes=[16, 16, 8],
                    upsample_initial_channel=16, resblock_kernel_sizes=[3, 5, 7],
                    resblock_dilation_sizes=[[1, 2], [2, 6], [3, 12]], num_mels=80,
                    sampling_rate=22050, hop_size=256, win_size=1024, n_fft=1024, fmin=20, fmax=7000, batch_size=16)
    x = mels(model, 9)
    assert torch.equal(HiFiGAN.from_original(file, fold=False).vocode(x), model.vocode(x))
    (tmp_path / "config.json").write_text(json.dumps(settings))
    ours = HiFiGAN.from_original(file)
    assert (ours.mel.f_min, ours.mel.f_max) == (20, 7000)
    assert (ours.vocode(x) - model.vocode(x)).abs().max() <= 1e-6


def test_original_from_new_and_bare_weights(tmp_path):
    model = BigVGAN(BigVGANConfig(upsample_initial_channel=16)).eval()
    x = mels(model, 9)
    for name, state in dict(new=model.state_dict(), bare=fold_weight_norm(model).state_dict()).items():
        torch.save({"generator": state}, tmp_path / name)
        assert (BigVGAN.from_original(tmp_path / name).vocode(x) - model.vocode(x)).abs().max() <= 1e-6


def test_melgan_file_with_other_mels(tmp_path):
    model = MelGAN(MelGANConfig.descriptinc(ngf=2)).eval()
    torch.save(weights(model), tmp_path / "best_netG.pt")
    ours = MelGAN.from_original(tmp_path / "best_netG.pt", mel=melgan_mel())
    assert ours.mel.log == "log10" and (ours.config.ngf, ours.config.n_residual_layers) == (2, 3)
    assert MelGAN.from_original(tmp_path / "best_netG.pt").mel == MelConfig.preset("specvqgan")


class Trap:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_bad_original_files(tmp_path, capsys):
    good = weights(HiFiGAN(HiFiGANConfig.v3(**TINY)))
    file = tmp_path / "g_bad"

    def fails(content, *words, raw=False, cls=HiFiGAN):
        file.write_bytes(content) if raw else torch.save(content, file)
        with pytest.raises(CheckpointError) as e:
            cls.from_original(file)
        for word in (*words, "g_bad"):
            assert word in str(e.value)

    fails({"generator": {k: v for k, v in good.items() if k != "ups.1.bias"}}, "missing", "ups.1.bias")
    fails({"generator": {**good, "extra.weight": torch.zeros(2)}}, "surplus", "extra.weight")
    fails({"generator": {**good, "conv_post.bias": torch.zeros(3)}}, "conv_post.bias", "(3,)")
    fails({"steps": 3, "epoch": 1}, "no weights")
    fails({"generator": good, "args": Trap()}, "pickled code")
    fails(b"", raw=True)
    fails(b"not a checkpoint", raw=True)
    torch.save({"generator": good}, file)
    fails(file.read_bytes()[:-2000], "damaged", raw=True)
    fails({"x": torch.zeros(3)}, "no discriminators", cls=MultiPeriodDiscriminator)
    with pytest.raises(CheckpointError, match="no such file"):
        HiFiGAN.from_original(tmp_path / "absent")
    assert "this must not run" not in capsys.readouterr().out


def test_half_precision_file_loads(tmp_path):
    model = ISTFTVocoder(ISTFTConfig(width=16, hidden=32, n_layers=2)).eval()
    x = mels(model, 9)
    want = model.vocode(x)
    model.half().save_pretrained(tmp_path / "v")
    again = ISTFTVocoder.from_pretrained(tmp_path / "v")
    assert next(again.parameters()).dtype == torch.float32
    assert (again.vocode(x) - want).abs().max() <= 1e-2 * want.abs().max()


def test_items_do_not_depend_on_the_batch(vocoder):
    x = mels(vocoder, 20, 3)
    one = torch.cat([vocoder.vocode(v[None]) for v in x])
    assert far(one, vocoder.vocode(x)) <= 1e-4


def test_onnx_is_the_vocoder(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="pip install 'foleybook[export]'")
    import onnx
    import onnxruntime

    torch.manual_seed(0)
    model = ISTFTVocoder(ISTFTConfig(width=16, hidden=32, n_layers=2, rounds=32)).eval()
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*training mode")
        path = export_onnx(model, tmp_path / "v.onnx")
    assert time.process_time() - began < 30
    operations = [n.op_type for n in onnx.load(path).graph.node]
    assert operations.count("Loop") == 1 and len(operations) < 1000  # its rounds are written once
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert notes["sample_rate"] == "44100" and notes["licence"] == "unknown" and from_plain(MelConfig, json.loads(notes["mel"])) == model.mel
    assert {v.name for v in (*session.get_inputs(), *session.get_outputs())} <= notes.keys()
    told = {v.name: v.doc_string for v in onnx.load(path).graph.input}
    assert "number of the first frame" in told["start"] and "mel spectrogram" in told["log_mel"]
    x = mels(model, 50)
    for frames, batch, start in ((50, 1, 7), (9, 3, 0), (1, 1, 600)):
        piece = x[..., :frames].repeat(batch, 1, 1)
        y = session.run(None, {"log_mel": piece.numpy(), "start": np.array([start])})[0]
        with torch.no_grad():
            assert far(y, model(piece, start)) <= 1e-3


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["quick-vocoder", "hifigan-v2", "melgan", "bigvgan-base_22khz_80band"])
def test_recipes_train(tmp_path, name, precision):
    sounds = make_procedural(tmp_path / "sounds", kinds=["rain"], n=4, seconds=0.6, n_jobs=1)
    cache = WaveCache.build(sounds, 44100 if name == "quick-vocoder" else 22050, 0.6, tmp_path / "cache", n_jobs=1, progress=False)
    recipe = find_recipe(name)
    small = {"melgan": {"model.ngf": 2}, "quick-vocoder": {"model.width": 16, "model.hidden": 16}}.get(
        name, {"model.upsample_initial_channel": 16, "d_width": 0.125})
    recipe = recipe.override({**small, "steps": 2, "epoch_steps": 2, "batch_size": 2, "segment": 8192, "device": "cpu",
                              "precision": precision, "clip_seconds": 0.6})
    model = recipe.train(cache, tmp_path / "out", progress=False)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    again = Pretrained.from_pretrained(tmp_path / "out")
    x = mels(model, 9)
    assert torch.equal(again.vocode(x), model.vocode(x))


def test_fine_tuning_reads_the_mels_of_another_model(tmp_path):
    class Blur(torch.nn.Module):
        "Stands for a model with `encode` and `decode`"

        def __init__(self):
            super().__init__()
            self.mel, self.calls = MelConfig.preset("fullband"), 0

        def encode(self, m):
            self.calls += 1
            return m.mean(1, keepdim=True)

        def decode(self, z):
            return z.expand(-1, 128, -1)

    sounds = make_procedural(tmp_path / "sounds", kinds=["rain"], n=4, seconds=0.6, n_jobs=1)
    cache = WaveCache.build(sounds, 44100, 0.6, tmp_path / "cache", n_jobs=1, progress=False)
    blur = Blur()
    recipe = find_recipe("quick-vocoder").override({"model.width": 16, "model.hidden": 16, "steps": 2, "epoch_steps": 2,
                                                    "batch_size": 2, "device": "cpu", "segment": 8192})
    learn = recipe.learner(cache)
    learn.remove_cb(learn.wave_to_mel)
    learn.add_cb(wave_to_mel(recipe.model.mel, remake=lambda m: blur.decode(blur.encode(m))))
    recipe.fit(learn)
    assert blur.calls >= 2


def moved(module, device):
    "The module with all its tensors on another device; `.to` cannot move to a pretended one"
    for m in module.modules():
        for tensors, kind in ((m._parameters, torch.nn.Parameter), (m._buffers, lambda t: t)):
            tensors |= {k: kind(torch.empty_like(t, device=device)) for k, t in tensors.items() if t is not None}
    return module


@pytest.fixture
def elsewhere():
    "Tensors that pretend to be on a GPU: whoever mixes devices is found out, without one"
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with FakeTensorMode(allow_non_fake_inputs=False, shape_env=ShapeEnv()):
        yield "cuda"


@pytest.mark.parametrize("make", [m for _, m in models()], ids=[n for n, _ in models()])
def test_vocoders_work_off_the_processor(elsewhere, make):
    v = moved(make().eval(), elsewhere)
    x = torch.zeros(2, v.mel.n_mels, 12, device=elsewhere)
    for start in (0, 5):
        assert v._block(x, start).device.type == elsewhere
        with torch.no_grad():
            assert v._block(x, start, True).device.type == elsewhere


def test_judges_and_losses_work_off_the_processor(elsewhere):
    x = torch.zeros(2, 1, 4096, device=elsewhere)
    for judge in (MultiPeriodDiscriminator(widths=[4] * 5), MultiScaleDiscriminator([16] * 7),
                  MultiResolutionDiscriminator(width=4), MelGANDiscriminator(ndf=4, widest=64)):
        assert moved(judge, elsewhere)(x).logits[0].device.type == elsewhere
    assert multi_resolution_stft_loss(x, x).device.type == elsewhere


def test_export_leaves_the_vocoder_as_it_is(tmp_path):
    v = ISTFTVocoder(ISTFTConfig(width=16, hidden=32, n_layers=2)).train()
    export_program(v, tmp_path / "v.pt2")
    assert v.training and not {*map(id, Exportable(v).parameters())} & {*map(id, v.parameters())}


def test_export_from_a_folder(tmp_path):
    v = ISTFTVocoder(ISTFTConfig(width=16, hidden=32, n_layers=2)).eval()
    v.save_pretrained(tmp_path / "v")
    path = export_vocoder(tmp_path / "v", tmp_path / "v.pt2")
    x = mels(v, 20)
    with torch.no_grad():
        y = torch.export.load(path, extra_files=(notes := {"notes.json": ""})).module()(x, torch.tensor([0]))
    assert far(y, v.vocode(x)) <= 1e-3 and json.loads(notes["notes.json"])["sample_rate"] == "44100"
    with pytest.raises(ValueError, match=r"v\.tflite.*\.onnx.*\.pt2"):
        export_vocoder(tmp_path / "v", tmp_path / "v.tflite")
    HiFiGAN(HiFiGANConfig.v3(**TINY)).save_pretrained(tmp_path / "gan")
    with pytest.raises(ValueError, match="HiFiGAN.*ISTFTVocoder"):
        export_vocoder(tmp_path / "gan", tmp_path / "v.pt2")


@pytest.mark.parametrize("samples", [44100, 44545, 30000])
def test_a_rendered_recording_is_as_long_as_it_was(tmp_path, samples):
    "Also where it does not end with a whole frame"
    vocoder = find_vocoder()
    write_audio(tmp_path / "a.wav", 0.3 * torch.randn(1, samples).clamp(-3, 3), vocoder.mel.sample_rate)
    made = render_file(vocoder, tmp_path / "a.wav")
    assert made.shape[-1] == samples and made[..., -400:].abs().max() > 0


def test_loud_mels_are_turned_down_not_clipped(tmp_path):
    vocoder = find_vocoder()
    x = 3 * torch.sin(torch.arange(22050) / 20)[None]
    np.save(tmp_path / "loud.npy", log_mel(x, vocoder.mel)[0].numpy())
    y = render_file(vocoder, tmp_path / "loud.npy")
    assert y.abs().max() == 1 and (y.abs() > 0.999).float().mean() < 0.01


def test_new_frames_fit_the_edges_that_are_there():
    kept, made = torch.zeros(1, 2, 30), torch.ones(1, 2, 30)
    frames = torch.arange(30)
    every = rendering.joined(made, kept, frames >= 0, 9.0, 5)
    assert torch.equal(every, made)  # no edge: nothing to fit
    first = rendering.joined(made, kept, frames < 10, 9.0, 5)[0, 0]
    assert torch.equal(first[:5], made[0, 0, :5]) and first[9] < first[8] < first[6] and torch.equal(first[10:], kept[0, 0, 10:])
    last = rendering.joined(made, kept, frames >= 20, 9.0, 5)[0, 0]
    assert torch.allclose(last[20:], first[:10].flip(0))
    near = rendering.joined(made, kept, (frames >= 10) & (frames < 20), 0.25, 5)  # moved by so much at most
    assert torch.allclose(near[..., 10:20], torch.tensor(0.75)) and torch.equal(made, torch.ones(1, 2, 30))
    alone = rendering.joined(made, kept, frames == 4, 9.0, 5)
    assert torch.equal(alone, kept)
