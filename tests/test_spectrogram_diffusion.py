"Mel pictures, U-Nets, latents and flows: identities, editing, folders, bad input, resume"
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import foleybook
from foleybook.audio_features import GriffinLim, MelConfig, MelMismatch, log_mel
from foleybook.core.level_tiers import level_rows, LevelTier, LevelTierConfig
from foleybook.core.sound_files import read_audio, write_audio
from foleybook.core.sounds import CEILING
from foleybook.apps.cli import main
from foleybook.core.files import CheckpointError, write_safetensors
from foleybook.core.generator import Conditions, Generator, Pretrained
from foleybook.train.recipes import find_recipe
from foleybook.core.settings import SettingsError
from foleybook.sound_data import make_procedural
from foleybook.published.audio_diffusion import (
    AutoencoderConfig, AutoencoderKL, MelImageConfig, MelImageDiffusion, MelImageDiffusionConfig, from_bytes,
    prepared, read_images, to_bytes, unet_preset, write_images)
from foleybook.spectrogram_diffusion import (
    FlowConfig, FlowTransformer, LatentDiffusion, LatentDiffusionConfig, LatentUNet, MelVAE, MelVAEConfig, UNet,
    UNetConfig, attention, mel_level, slerp, windows)
from foleybook.train.fewer_steps import Paths, StudentRecipe
from foleybook.train.spectrogram_diffusion import Encodings, FlowTask, event_ends, text_encodings, warped
from foleybook.train.checkpoints import Checkpoint

FOLEY = MelConfig.preset("fullband")
SMALL_UNET = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                  down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def noisy(model, scale=0.1):
    "Weights that were zero at the start are not"
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def painter():
    "A latent painter with random weights; its autoencoder has measured coloured noise"
    torch.manual_seed(0)
    x = torch.randn(6, 128, 64).cumsum(-1) * 0.1 - 5
    vae = MelVAE(MelVAEConfig(channels=8, width=16, hidden=16, depth=1)).fit(x)
    backbone = FlowTransformer(FlowConfig(channels=8, width=16, heads=2, depth=2, columns=12, n_classes=2, latents=vae.latents_hash))
    config = LatentDiffusionConfig(("rain", "dog"), seconds=0.5, steps=3, griffin_lim=2)
    return LatentDiffusion(config, vae, noisy(backbone)).eval()


def mels(model, sounds):
    return log_mel(sounds.audio[:, 0], model.mel)


# ---- weights held in bf16 ----


def decibels(exact, near):
    return float(10 * (exact.square().sum() / (exact - near).square().sum()).log10())


@pytest.mark.parametrize("columns", [10, 30])
def test_a_painter_holds_bf16_and_keeps_its_own_weights(painter, columns):
    asked, before = Conditions(label=[0, 1]), {k: v.clone() for k, v in painter.state_dict().items()}
    paint = lambda: painter.sample_latents(asked, [0, 1], columns, guidance=2.0)  # noqa: E731
    exact = paint()
    try:
        near = painter.set_precision("bf16").sample("rain", seed=3, progress=False)
        assert near.meta["arguments"]["precision"] == "bf16" and painter.precision == "bf16"
        assert 15 < decibels(exact, paint()) < 80 and torch.equal(paint(), paint())
        assert torch.equal(paint()[1:], painter.sample_latents(asked[torch.tensor([1])], [1], columns, guidance=2.0)) or columns > 12
        assert before.keys() == painter.state_dict().keys()
        assert all(torch.equal(v, before[k]) for k, v in painter.state_dict().items())
        was = paint()
        with torch.no_grad(): painter.backbone.leave.bias.add_(1)
        assert not torch.equal(paint(), was)  # a changed weight is seen
        with torch.no_grad(): painter.backbone.leave.bias.sub_(1)
        painter.backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in before.items() if k.startswith("backbone.")})
        assert painter.set_precision("auto").precision in ("float32", "bf16")
        with torch.enable_grad():  # training is not touched
            answer = painter.answer(torch.randn(1, 8, 1, 10), torch.tensor([5.0]), asked[torch.tensor([0])])
            assert answer.requires_grad
    finally: painter.set_precision("float32")
    assert torch.equal(paint(), exact) and "precision" not in painter.sample("rain", seed=3, progress=False).meta["arguments"]
    with pytest.raises(ValueError, match="precision='half'.*'auto'"): painter.set_precision("half")


def test_a_unet_of_pictures_holds_bf16():
    torch.manual_seed(0)
    image = MelImageConfig(x_res=16, y_res=8)
    model = MelImageDiffusion(MelImageDiffusionConfig(image.mel, frames=16), noisy(UNet(UNetConfig(**SMALL_UNET)))).eval()
    paint = lambda: model.sample_mel(Conditions(1), 1, [0], 16, steps=3)  # noqa: E731
    exact = paint()
    assert decibels(exact, model.set_precision("bf16").sample_mel(Conditions(1), 1, [0], 16, steps=3)) > 15
    assert model.unet.conv_in.weight.dtype == torch.float32 and torch.equal(model.set_precision("float32") and paint(), exact)
    assert model.set_precision("auto").precision in ("float32", "bf16")


def test_precision_goes_with_the_command(painter, tmp_path, capsys):
    painter.save_pretrained(tmp_path / "model")
    words = ["sample", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--per-class", "1", "--quiet", "--precision"]
    assert main([*words, "bf16"]) == 0
    assert json.loads((tmp_path / "out/sampling.json").read_text())["arguments"]["precision"] == "bf16"
    assert main([*words, "int8"]) != 0 and "'bf16' or 'auto'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no generator"): foleybook.load("vocoder", precision="bf16")
    assert foleybook.load("foley-cascade", precision="bf16").precision == "float32 prior, bf16 codebook"
    assert foleybook.load("foley-cascade", precision="auto").labels


# ---- pictures and networks ----


def test_bytes_there_and_back():
    x = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(from_bytes(x)), x) and from_bytes(x).min() == -1 and from_bytes(x).max() == 1


@pytest.mark.parametrize("length,n", [(10, 1), (63 * 4, 1), (64 * 4, 1), (5000, 19)])
def test_slices(length, n):
    image = MelImageConfig(x_res=64, y_res=8, hop_length=4, n_fft=64)
    assert image.slices(torch.randn(length)).shape == (n, image.slice_size)


@pytest.mark.parametrize("size", [(16, 24), (20, 30), (5, 7)])
@pytest.mark.parametrize("context", [None, 6])
def test_a_unet_takes_any_size(size, context):
    kind = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=context, attention_head_dim=4) if context else {}
    net = UNet(UNetConfig(**SMALL_UNET | kind)).eval()
    x, text = torch.randn(2, 1, *size), torch.randn(2, 3, context) if context else None
    out = net(x, torch.tensor([3, 700]), text)
    assert out.shape == x.shape
    one = net(x[1:], 700, None if text is None else text[1:])
    assert torch.allclose(one, out[1:], atol=1e-4)


def test_a_prepared_network_says_the_same():
    net = noisy(UNet(UNetConfig(**SMALL_UNET)))
    fast = prepared(net)
    with torch.no_grad():
        for shape in ((1, 1, 16, 24), (3, 1, 5, 7)):
            x = torch.randn(shape)
            assert torch.allclose(fast(x, 500), net(x, 500), atol=1e-5)


@pytest.mark.parametrize("changes,said", [(dict(block_out_channels=(8,)), "as many"), (dict(down_block_types=("Down", "Up")), "no block"),
                                          (dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")), "cross_attention_dim")])
def test_unets_that_cannot_be(changes, said):
    with pytest.raises(ValueError, match=said):
        UNet(UNetConfig(**SMALL_UNET | changes))
    with pytest.raises(ValueError, match="no U-Net"):
        unet_preset("huge")


def test_a_context_of_a_wrong_shape_is_named():
    net = UNet(UNetConfig(**SMALL_UNET | dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=4,
                                              cross_attention_dim=6)))
    for context in (None, torch.randn(2, 6), torch.randn(2, 1, 5)):
        with pytest.raises(ValueError, match=r"Give \(2, length, 6\)"):
            net(torch.randn(2, 1, 8, 8), 5, context)


def test_the_middle_of_a_u_net_as_diffusers_writes_it():
    plain = noisy(UNet(UNetConfig(**SMALL_UNET)))
    settings = {k: v for k, v in vars(plain.config).items() if k != "n_classes"}
    written = dict(mid_block_type="UNetMidBlock2D", downsample_type="conv", upsample_type="conv", time_embedding_dim=None)
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(UNet.from_original((settings | written, plain.state_dict()))(x, 5), plain(x, 5))
    crossed = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=6)
    for wrong in (dict(mid_block_type="UNetMidBlock2DSimpleCrossAttn"), crossed | dict(mid_block_type="UNetMidBlock2D")):
        with pytest.raises(CheckpointError, match="mid_block_type"):
            UNet.from_original((settings | wrong, plain.state_dict()))


def test_published_folders_and_old_names(tmp_path):
    unet, vae = noisy(UNet(UNetConfig(**SMALL_UNET))), noisy(AutoencoderKL(AutoencoderConfig(block_out_channels=(8, 8), norm_num_groups=4)))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name, part in dict(unet=unet, vqvae=vae).items():
        (tmp_path / name).mkdir()
        state = part.state_dict()
        for new, was in old.items():
            state = {k.replace(f".{new}.", f".{was}."): v for k, v in state.items()}
        if name == "vqvae":  # 1x1 convolutions, as the files of 2022 have them
            state = {k: v[:, :, None, None] if v.ndim == 2 else v for k, v in state.items()}
        write_safetensors(tmp_path / name / "diffusion_pytorch_model.safetensors", state)
        (tmp_path / name / "config.json").write_text(json.dumps({k: v for k, v in vars(part.config).items() if k != "n_classes"}))
    for name, held in {"model_index.json": dict(unet=["diffusers", "UNet2DModel"]),
                       "mel/mel_config.json": dict(_class_name="Mel", x_res=16, y_res=8, hop_length=256, n_fft=512, n_iter=2, top_db=80),
                       "scheduler/scheduler_config.json": dict(_class_name="DDPMScheduler", num_train_timesteps=1000)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(held))
    model = MelImageDiffusion.from_original(tmp_path)
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(model.unet(x, 5), unet(x, 5)) and torch.equal(model.vae.decode(x), vae.decode(x))
    assert model.sample(seed=1, steps=2, progress=False).audio.isfinite().all()
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(dict(timestep_spacing="linspace")))
    with pytest.raises(CheckpointError, match="linspace"):
        MelImageDiffusion.from_original(tmp_path)


@pytest.mark.parametrize("arguments,said", [(dict(eta=60), "Give 0"), (dict(steps=0), "1 to 1000"), (dict(start_step=2, steps=2), "below"),
                                            (dict(hold=(8, 8)), "leaves nothing"), (dict(sampler="euler"), "published"),
                                            (dict(start_step=1), "need a source")])
def test_what_paint_refuses(arguments, said):
    image = MelImageConfig(x_res=16, y_res=8, hop_length=256, n_fft=512)
    model = MelImageDiffusion(MelImageDiffusionConfig(image.mel, frames=16), UNet(UNetConfig(**SMALL_UNET)))
    with pytest.raises(ValueError, match=said):
        model.paint(torch.randn(1, 1, 8, 16), **{"steps": 4, **arguments})


# ---- data sets of the published tool ----


@pytest.fixture
def pictures():
    "Bytes of three slices; the second is silence, which is white"
    images = torch.randint(0, 255, (3, 8, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[1] = 255
    return images


def test_our_pictures_are_read_by_the_library(pictures, tmp_path):
    datasets = pytest.importorskip("datasets")
    write_images(tmp_path / "data", pictures, ["a.wav", "a.wav", "b.wav"], [0, 1, 7])
    table = datasets.load_from_disk(str(tmp_path / "data"))["train"]
    assert table.features == datasets.Features(image=datasets.Image(), audio_file=datasets.Value("string"), slice=datasets.Value("int16"))
    assert [np.array(x).tolist() for x in table["image"]] == pictures[[0, 2]].tolist()
    images, files, numbers = read_images(tmp_path / "data")
    assert torch.equal(images, pictures[[0, 2]]) and images.dtype == torch.uint8 and (files, numbers) == (["a.wav", "b.wav"], [0, 7])


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("shards", [1, 3])
def test_pictures_of_the_library_are_read(pictures, tmp_path, mode, shards):
    "The published script stores PNG files as bytes, grey, or RGB for autoencoders of three channels"
    datasets, image = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")

    def png(x):
        held = io.BytesIO()
        image.fromarray(x.numpy()).convert(mode).save(held, format="PNG")
        return dict(bytes=held.getvalue(), path=None)

    kinds = datasets.Features(image=datasets.Image(), audio_file=datasets.Value("string"), slice=datasets.Value("int16"))
    rows = [dict(image=png(x), audio_file=f"{i}.wav", slice=i) for i, x in enumerate(pictures)]
    table = datasets.Dataset.from_list(rows, features=kinds)
    datasets.DatasetDict(train=table).save_to_disk(str(tmp_path / "all"), num_shards=dict(train=shards))
    table.save_to_disk(str(tmp_path / "one"))
    for name in ("all", "one"):
        images, files, numbers = read_images(tmp_path / name)
        assert torch.equal(images, pictures) and files == ["0.wav", "1.wav", "2.wav"] and numbers == [0, 1, 2]


def test_pictures_that_cannot_be(pictures, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(dict(text=["a"])).save_to_disk(str(tmp_path / "text"))
    for folder, said in (("nowhere", "not found"), ("", "neither"), ("text", "no audio_file, image, slice")):
        with pytest.raises(CheckpointError, match=said):
            read_images(tmp_path / folder)
    with pytest.raises(CheckpointError, match="is there already"):
        write_images(tmp_path / "text", pictures, list("abc"), [0, 1, 2])
    for images, files in ((pictures, ["a"]), (pictures[1:2], ["a"])):
        with pytest.raises(ValueError, match="as many of each"):
            write_images(tmp_path / "new", images, files, [0])


def test_pictures_need_their_extra(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for call in (lambda: read_images(tmp_path), lambda: write_images(tmp_path / "new", pictures, list("abc"), [0, 1, 2])):
        with pytest.raises(ImportError, match=r"foleybook\[arrow\]"):
            call()


# ---- latents ----


def test_components_are_orthogonal_and_latents_have_unit_deviation(painter):
    vae = painter.vae
    assert torch.allclose(vae.basis[0].T @ vae.basis[0], torch.eye(8), atol=1e-4)
    x = torch.randn(6, 128, 61).cumsum(-1) * 0.1 - 5
    assert vae.encode(x).shape == (6, 8, 1, 8) and vae.decode(vae.encode(x), 61).shape == x.shape


@pytest.mark.parametrize("patch,rows", [((128, 4), 1), ((16, 4), 8), ((64, 1), 2)])
def test_all_components_are_exact(patch, rows):
    x = torch.randn(40, 128, 16)
    vae = MelVAE(MelVAEConfig(patch=patch, channels=min(64, patch[0] * patch[1]), depth=0)).fit(x).eval()
    z = vae.encode(x)
    assert z.shape[1:3] == (vae.config.channels, rows)
    if vae.config.channels == patch[0] * patch[1]:
        assert (vae.decode(z) - x).abs().max() < 1e-3


def test_an_autoencoder_that_cannot_be():
    with pytest.raises(ValueError, match="must divide"):
        MelVAEConfig(patch=(100, 4))
    with pytest.raises(ValueError, match="this model's MelConfig"):
        MelVAE(MelVAEConfig(channels=4)).encode(torch.randn(1, 80, 16))


@pytest.mark.parametrize("kind", ["x0", "flow", "v"])
def test_an_exercise_is_a_point_on_the_line(kind):
    task, z, eps = FlowTask(kind), torch.randn(4, 3, 1, 10), torch.randn(4, 3, 1, 10)
    keep = torch.zeros(4, 10, dtype=torch.bool)
    keep[:, :3] = True
    item = task.exercise(z, keep, torch.tensor([0.0, 249.0, 499.0, 999.0]), eps)
    assert torch.equal(item.x[..., :3], z[..., :3]) and (item.weight[..., :3] == 0).all()
    assert torch.allclose(item.x[3, ..., 3:], eps[3, ..., 3:], atol=1e-6)


@pytest.mark.parametrize("length,size", [(13, 12), (50, 12), (24, 12), (300, 64)])
@pytest.mark.parametrize("ring", [False, True])
def test_windows_cover_everything(length, size, ring):
    where, weight = windows(length, size, ring)
    assert set(where.flatten().tolist()) == set(range(length)) and (weight > 0).all() and where.shape[1] == size


# ---- painting and editing ----


def test_an_item_is_the_same_alone_and_in_a_batch(painter):
    three = painter.sample(["rain", "dog", "rain"], seed=4, progress=False)
    one = painter.sample("dog", seed=5, progress=False)
    assert (mels(painter, three)[1] - mels(painter, one)[0]).abs().mean() < 1e-3
    assert not torch.equal(three.audio[0], three.audio[2]) and three.labels == ["rain", "dog", "rain"]


@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.777, 1.3])
@pytest.mark.parametrize("loop", [False, True])
def test_exact_seconds(painter, seconds, loop):
    assert painter.sample("rain", seconds=seconds, loop=loop, seed=1, progress=False).audio.shape[-1] == round(seconds * 44100)


def test_holes_keep_what_is_outside(painter):
    init = painter.sample(["rain", "dog"], seed=1, progress=False)
    made = painter.sample(["rain", "dog"], init=init, mask=[(0.1, 0.2), (0.3, 0.4)], seed=2, progress=False).audio
    same = (made == init.audio).all(0)[0]
    assert same[: int(0.1 * 44100)].all() and same[int(0.2 * 44100) + 1 : int(0.3 * 44100)].all() and not same[5000:8000].any()


def test_continuing_beyond_what_the_backbone_sees(painter):
    init = painter.sample("rain", seed=1, progress=False)
    made = painter.sample("rain", init=init, seconds=2.2, n=2, seed=3, progress=False).audio
    assert torch.equal(made[0, 0, :22050], init.audio[0, 0]) and torch.equal(made[1, 0, :22050], init.audio[0, 0])
    assert made.shape[-1] == round(2.2 * 44100) and made[..., -4000:].abs().max() > 0


def test_strength_is_a_distance(painter):
    init = painter.sample("rain", seed=1, progress=False)
    far = [(mels(painter, painter.sample("rain", init=init, strength=s, seed=9, progress=False)) - mels(painter, init)).abs().mean()
           for s in (0.0, 0.2, 1.0)]
    assert far[0] < min(far[1:])


@pytest.mark.parametrize("sampler", ["dpm++2m", "ddim", "ddpm", "euler", "heun"])
def test_every_sampler_with_a_hole_and_a_late_start(painter, sampler):
    init = painter.sample("rain", seed=1, progress=False)
    seen = []
    made = painter.sample("rain", init=init, mask=(0.1, 0.3), strength=0.7, sampler=sampler, steps=4, seed=1, progress=False,
                          on_step=lambda k, n, x: seen.append((k, n)))
    assert made.audio.isfinite().all() and seen[-1][0] == seen[-1][1]


def test_what_is_made_from_noise_is_finished_too(painter, monkeypatch):
    "Morphs and restyled sounds peak at -1 dBFS at most, and their ends are faded"
    monkeypatch.setattr(type(painter), "play", lambda self, mel, samples, *how: 2 * torch.ones(1, 1, samples))
    sound = painter.sample("rain", seed=1, progress=False)
    for made in (painter.restyle(sound, "dog", steps=2), painter.morph(sound, sound, n=2, steps=2)):
        assert made.audio.abs().max() <= CEILING + 1e-6 and made.audio[..., [0, -1]].abs().max() < 0.01


def test_stereo_folds_to_the_mono_sound(tmp_path):
    "Middle and side: the fold is the mono sound, the channels are equally strong and correlate as the width says"
    model, kinds = foleybook.load("foley"), ["rain", "wind", "sea_waves"]
    wide = model.sample(kinds, seed=2, seconds=1, channels=2, progress=False)
    mono = model.sample(kinds, seed=2, seconds=1, progress=False).audio
    assert wide.audio.shape == (3, 2, 44100) and wide.meta["arguments"]["channels"] == 2
    fold = wide.audio.mean(1, keepdim=True) * (1 + model.width**2) ** 0.5
    assert (fold - mono).abs().median(-1).values.max() < 1e-6  # but for peaks, which the limiter takes from both channels
    for x in wide.audio:
        assert abs(torch.corrcoef(x)[0, 1].item() - (1 - model.width**2) / (1 + model.width**2)) < 0.12
        assert abs(10 * (x[0].square().mean() / x[1].square().mean()).log10()) < 1.5
    alone = model.sample("wind", seed=3, seconds=1, channels=2, progress=False).audio
    assert (alone[0] - wide.audio[1]).abs().mean() < 1e-3  # the same in a batch of three
    assert read_audio(wide[:1].save(tmp_path)[0], mono=False)[0].shape == (2, 44100)


def test_stereo_through_griffin_lim_and_in_loops(painter):
    two = painter.sample("rain", seed=2, seconds=0.5, channels=2, loop=True, progress=False).audio[0]
    assert two.shape == (2, 22050) and not torch.equal(two[0], two[1])


@pytest.mark.parametrize("arguments,said", [(dict(channels=3), "2 for stereo"), (dict(channels=2, init=torch.rand(1, 22050)), "of its recording")])
def test_stereo_where_it_has_no_place(painter, arguments, said):
    with pytest.raises(ValueError, match=said):
        painter.sample("rain", progress=False, **arguments)


def test_a_stream_has_one_channel():
    with pytest.raises(ValueError, match="one channel"):
        next(foleybook.load("foley").stream("rain", seconds=1, channels=2))


def test_a_loop_has_no_seam(painter):
    ring = painter.sample("rain", seed=2, seconds=1.0, loop=True, progress=False).audio[0, 0]
    twice = log_mel(torch.cat([ring, ring])[None], painter.mel)[0].diff(dim=-1).square().mean(0).sqrt()
    joint = len(ring) // painter.mel.hop_length
    own = torch.cat([twice[3 : joint - 3], twice[joint + 3 : -3]])
    assert twice[joint - 3 : joint + 3].max() < 1.6 * own.quantile(0.95)


@pytest.mark.parametrize("arguments,said", [(dict(mask=(0.1, 0.2)), "needs init"), (dict(strength=2.0), "strength"),
                                            (dict(seconds=200), "longer than"), (dict(sampler="magic"), "magic"), (dict(top_k=3), "cannot honour")])
def test_what_sample_refuses(painter, arguments, said):
    with pytest.raises(ValueError, match=said):
        painter.sample("rain", **({"init": torch.zeros(1, 1, 22050)} if "strength" in arguments else {}), **arguments)


def test_a_mask_outside_the_sound(painter):
    with pytest.raises(ValueError, match="not within"):
        painter.sample("rain", init=torch.randn(1, 1, 22050), mask=(0.4, 0.9), progress=False)


def test_inversion_leads_back_and_morphs_begin_and_end(painter):
    a, b = (painter.sample(c, seed=1, progress=False).audio for c in ("rain", "dog"))
    painter = LatentDiffusion(replace(painter.config, prediction="flow"), painter.vae, painter.backbone).eval()
    z = painter.latents_of(a)
    again = painter.sample_latents(Conditions(label=[-1]), [0], z.shape[-1], steps=40, sampler="ddim",
                                   noise=painter.hidden_noise(z, steps=40))
    assert (again - z).square().mean() < 0.1 * z.square().mean()
    way = painter.morph(a, b, 3, ("rain", "dog"), steps=4)
    assert len(way) == 3 and way.labels[0] == "rain" and way.labels[2] == "dog"
    assert painter.restyle(a, "dog", "rain", steps=3).audio.isfinite().all()


def test_init_is_any_waveform(painter):
    "A tensor, an array, either with its rate, one channel or (c, t): the same sound; what is none is told"
    x = 0.1 * torch.randn(1, 1, 22050)
    mend = lambda init: painter.sample("rain", init=init, mask=(0.2, 0.3), seed=1, steps=2, progress=False).audio
    rate = painter.sample_rate
    for init in (x[0], x[0, 0].numpy(), x[0].double().numpy(), x[0, 0].numpy()[::-1][::-1], (x, rate), (x[0].numpy(), float(rate))):
        assert torch.equal(mend(init), mend(x))
    assert mend((x[..., :11025].numpy(), rate // 2)).shape[-1] == 11025  # at its own rate
    for init, told in (((1000 * x).short(), "holds int16"), ((x, "fast"), "rate in Hz"), ([0.1, 0.2], "Give a path"),
                       (x[0].T, "transpose what soundfile reads"), (x * float("nan"), "finite")):
        with pytest.raises(ValueError, match=told):
            mend(init)


@pytest.mark.parametrize("samples", [11025, 11300, 9001])
def test_what_is_made_of_a_recording_is_as_long(painter, samples):
    "Also where that is no whole number of frames; morphs have the shorter one's length"
    x = 0.1 * torch.randn(1, 1, samples)
    for made in (painter.restyle(x, "dog", steps=2), painter.morph(x, 0.1 * torch.randn(1, 1, 12000), n=2, steps=2)):
        assert made.audio.shape[-1] == samples and made.audio.isfinite().all()


def test_slerp_keeps_the_length():
    a, b = torch.randn(2, 10_000)
    assert abs(slerp(a, b, 0.5).std() - 1) < 0.05 and torch.allclose(slerp(a, a, 0.3), a, atol=1e-4)


def test_folders(painter, tmp_path):
    again = Generator.from_pretrained(painter.save_pretrained(tmp_path / "model"))
    assert torch.equal(again.sample("rain", seed=3, progress=False).audio, painter.sample("rain", seed=3, progress=False).audio)
    other = MelVAE(replace(painter.vae.config)).fit(torch.randn(4, 128, 32))
    with pytest.raises(ValueError, match="Join it with"):
        LatentDiffusion(painter.config, other, painter.backbone)
    with pytest.raises(MelMismatch):
        LatentDiffusion(painter.config, painter.vae, painter.backbone, GriffinLim(MelConfig.preset("hifigan")))


# ---- conditions ----


def test_classes_shares_and_nothing(painter):
    net, x, t = painter.backbone, torch.randn(2, 8, 1, 10), torch.tensor([5.0, 500.0])
    by_number, by_share = Conditions(label=[0, -1]), Conditions(shares=[[1.0, 0], [0, 0]])
    assert torch.allclose(net(x, t, by_number), net(x, t, by_share), atol=1e-5)
    assert torch.allclose(net(x, t, by_number)[1], net(x, t, None)[1], atol=1e-5)
    assert torch.allclose(net(x, t, by_number.drop(torch.tensor([True, True]))), net(x, t, None), atol=1e-5)


def test_encodings(tmp_path):
    held = Encodings({"a.wav": torch.randn(2, 4), "b": torch.randn(4)})
    held.save(tmp_path / "text.safetensors")
    again = Encodings.load(tmp_path / "text.safetensors")
    assert again.width == 4 and again.of("folder/b.wav").shape == (1, 4) and torch.equal(again.of("x/a.wav"), held.table["a.wav"])
    with pytest.raises(CheckpointError, match="no encoding for c.wav"):
        again.of("c.wav")


def test_text_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"foleybook\[text\]"):
        text_encodings(["a dog"])


def test_a_tiny_t5(tmp_path):
    transformers = pytest.importorskip("transformers")
    assert hasattr(transformers, "T5EncoderModel")


# ---- training ----


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_procedural(tmp_path_factory.mktemp("clips"), ["rain", "footstep"], n=6, seconds=0.6, sample_rate=44100, n_jobs=1)


def tiny(name, folder):
    run = dict(steps=6, epoch_steps=3, batch_size=2, precision="float32", cache_dir=str(folder), seconds=0.6, checkpoint_steps=2)
    changes = {f"{s}.{k}": v for s in ("vae", "backbone") for k, v in run.items()} | {"vae.frames": 16, "backbone.frames": 48}
    recipe = find_recipe(name)
    changes = {k: v for k, v in changes.items() if k not in recipe.taken}
    flat = recipe.backbone.model
    changes |= {"backbone.model.block_out_channels": (16, 16, 16)} if isinstance(flat, UNetConfig) else {
        "backbone.model.width": 16, "backbone.model.heads": 2, "backbone.model.depth": 1}
    if recipe.student is not None:
        small = dict(run, pairs=8, teacher_steps=4)
        changes |= {f"student.{k}": v for k, v in small.items() if k != "seconds"}
    return recipe.override(changes | {"vae.model.width": 8, "vae.model.hidden": 8, "vae.model.depth": 1, "vocoder": None, "seconds": 0.5})


@pytest.mark.parametrize("name", ["quick-diffusion", "foley", "foley-unet-diffusion", "foley-fine"])
def test_presets_train_resume_and_sample(clips, tmp_path, name, monkeypatch):
    recipe, save = tiny(name, tmp_path), Checkpoint.after_batch
    model = recipe.train(clips, tmp_path / "a", progress=False)

    def stop(self):
        save(self)
        if self.learn.training and self.learn.train_iter == 5 and self.folder.parent.name == "backbone":
            raise KeyError("stopped")

    with monkeypatch.context() as m, pytest.raises(KeyError):
        m.setattr(Checkpoint, "after_batch", stop)
        recipe.train(clips, tmp_path / "b", progress=False)
    recipe.train(clips, tmp_path / "b", progress=False)
    for part in [".", "teacher"] if recipe.student else ["."]:
        a, b = (load_file(tmp_path / k / part / "backbone/model.safetensors") for k in "ab")
        assert all(torch.equal(a[k], b[k]) for k in a)
    again = recipe.train(clips, tmp_path / "a", progress=False)  # all was finished before
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert model.sample("rain", seed=1, progress=False).audio.shape[-1] == 22050
    assert isinstance(model.backbone, LatentUNet) == ("unet" in name)


def test_a_wrong_vocoder_is_refused_before_training(clips, tmp_path, monkeypatch):
    from foleybook.train import spectrogram_diffusion

    monkeypatch.setattr(spectrogram_diffusion, "find_vocoder", lambda name: GriffinLim(MelConfig.preset("hifigan")))
    with pytest.raises(MelMismatch):
        tiny("quick-diffusion", tmp_path).override(vocoder="default").train(clips, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "vae").exists()


def test_a_backbone_needs_its_autoencoder():
    with pytest.raises(SettingsError, match="folder of a trained MelVAE"):
        find_recipe("quick-flow").autoencoder


def test_published_training_learns_pictures(clips, tmp_path):
    recipe = find_recipe("quick-mel-images").override(
        {"steps": 4, "epoch_steps": 2, "batch_size": 2, "precision": "float32", "cache_dir": str(tmp_path), "image.x_res": 16,
         "image.y_res": 16, "model.block_out_channels": (8, 16, 16), "model.norm_num_groups": 4})
    model = recipe.train(clips, tmp_path / "run", progress=False)
    again = Generator.from_pretrained(tmp_path / "run")
    made = again.sample("rain", seed=1, steps=2, guidance=2.0, progress=False)
    assert made.audio.isfinite().all() and model.labels == ["footstep", "rain"] and np.isfinite(made.audio).all()
    rain, step = (again.sample(c, seed=1, steps=2, guidance=0, progress=False).audio for c in ("rain", "footstep"))
    assert torch.equal(rain, step)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.1, 0.9)])
def test_guidance_0_asks_for_nothing_also_outside_the_interval(painter, interval, monkeypatch):
    monkeypatch.setattr(painter, "config", replace(painter.config, interval=interval))
    first, last = (painter.sample(c, seed=4, steps=4, guidance=0, progress=False).audio for c in (painter.labels[0], painter.labels[-1]))
    nothing = painter.sample(Conditions(label=[-1]), seed=4, steps=4, guidance=1, progress=False).audio
    assert torch.equal(first, last) and torch.allclose(first, nothing, atol=1e-6)
    assert not torch.equal(first, painter.sample(painter.labels[0], seed=4, steps=4, guidance=1, progress=False).audio)


def test_the_page_of_edits(painter):
    from foleybook.core.sounds import Sounds
    from foleybook.judge.pages import EDITS, edits_page

    page = edits_page(painter, Sounds(0.1 * torch.randn(2, 1, 22050), 44100, labels=["rain", "dog"]), most=1)
    assert all(kind in page for kind in EDITS) and "1. rain" in page and "2. dog" not in page


def test_the_page_of_edits_takes_recordings_as_they_are(painter, tmp_path):
    from foleybook.core.sound_files import write_audio
    from foleybook.core.data_sets import open_dataset
    from foleybook.judge.pages import edits_page

    loud = 1.2 * torch.randn(1, 22050).clamp(-1, 1)
    for name, x in (("loud", loud), ("silent", torch.zeros(1, 22050))):
        (tmp_path / name).mkdir()
        write_audio(tmp_path / name / f"{name}.wav", x, 44100, "FLOAT")
    page = edits_page(painter, open_dataset(tmp_path))
    assert "loud</h2>" in page and "silent</h2>" not in page
    assert "silent.wav is left out: all 1 sounds are silent" in page


def test_the_books_own_vocoder_is_not_saved_again(tmp_path):
    mel = MelConfig.preset("fullband")
    vae = MelVAE(MelVAEConfig(mel=mel, channels=8, width=8, hidden=8, depth=1, grain=8)).fit(torch.randn(4, 128, 32)).eval()
    net = FlowTransformer(FlowConfig(channels=8, width=16, heads=2, depth=1, n_classes=2, latents=vae.latents_hash)).eval()
    model = LatentDiffusion(LatentDiffusionConfig(("rain", "pops"), seconds=0.5, steps=2), vae, net, "default").eval()
    model.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a/vocoder").exists()
    same = Pretrained.from_pretrained(tmp_path / "a").sample("rain", seed=1, progress=False).audio
    assert torch.equal(same, model.sample("rain", seed=1, progress=False).audio)
    other = model.with_vocoder(GriffinLim(mel, 2))
    other.save_pretrained(tmp_path / "b")
    again = Pretrained.from_pretrained(tmp_path / "b")
    assert isinstance(again.vocoder, GriffinLim) and model.config.vocoder == "default"


def test_loops_and_holes_with_grain(tmp_path):
    "The grain of a loop is a ring, and a recording is kept outside its hole to the last bit"
    mel = MelConfig.preset("fullband")
    vae = MelVAE(MelVAEConfig(mel=mel, channels=8, width=8, hidden=8, depth=1, grain=8)).fit(torch.randn(4, 128, 32)).eval()
    z = vae.decode(torch.randn(1, 8, 1, 12))
    ring, plain = vae.with_grain(z, [3], True), vae.with_grain(z, [3])
    assert ring.shape == plain.shape == z.shape and not torch.equal(ring, plain) and (plain - z).std() > 0.01
    net = FlowTransformer(FlowConfig(channels=8, width=16, heads=2, depth=1, n_classes=2, latents=vae.latents_hash)).eval()
    model = LatentDiffusion(LatentDiffusionConfig(("rain", "pops"), seconds=0.5, steps=2), vae, net).eval()
    sound = torch.rand(1, 1, 44100) * 0.2 - 0.1
    made = model.sample("rain", init=sound, mask=(0.4, 0.6), seed=0, progress=False).audio
    assert torch.equal(made[..., :17000], sound[..., :17000]) and not torch.equal(made, sound)


def test_a_recording_becomes_a_loop(tmp_path):
    "Only its last second or quarter and the first 20 ms are made anew"
    mel = MelConfig.preset("fullband")
    vae = MelVAE(MelVAEConfig(mel=mel, channels=8, width=8, hidden=8, depth=1)).fit(torch.randn(4, 128, 32)).eval()
    net = FlowTransformer(FlowConfig(channels=8, width=16, heads=2, depth=1, n_classes=2, latents=vae.latents_hash)).eval()
    LatentDiffusion(LatentDiffusionConfig(("rain", "pops"), steps=2, griffin_lim=2), vae, net).save_pretrained(tmp_path / "m")
    sound = (torch.rand(1, 44100) * 0.2 - 0.1)
    write_audio(tmp_path / "rain.wav", sound, 44100)
    assert main(["edit", str(tmp_path / "m"), str(tmp_path / "rain.wav"), "--class", "rain", "--loop", "--out",
                 str(tmp_path / "loop.wav"), "--quiet"]) in (0, None)
    made = read_audio(tmp_path / "loop.wav")[0]
    kept = slice(round(0.025 * 44100), round(0.74 * 44100))
    assert made.shape == sound.shape and (made - sound)[:, kept].abs().max() < 1e-4
    assert (made - sound)[:, round(0.8 * 44100):].abs().max() > 0.01


def test_bytes_are_those_of_a_number_of_threads():
    "As the generator notebook says: a seed's bytes on one machine with one number of threads; with another, the same sound to the ear"
    model, before, made = Pretrained.from_pretrained(Path(foleybook.__file__).parent / "weights/foley"), torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            made.append(model.sample("rain", seed=1, seconds=0.5, progress=False).audio)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    assert (made[2] - made[0]).norm() < 1e-2 * made[0].norm()


# ---- the second edition: events, alterations, level ----


@pytest.fixture(scope="module")
def timed():
    "A painter that can be asked by a track of level"
    torch.manual_seed(0)
    vae = MelVAE(MelVAEConfig(patch=(128, 4), channels=8, depth=0)).fit(torch.randn(6, 128, 64).cumsum(-1) * 0.1 - 5)
    config = FlowConfig(channels=8, width=16, heads=2, depth=2, columns=30, n_classes=2, latents=vae.latents_hash, near=5, level=4,
                        hints=4, tokens=2, base=200.0)
    return LatentDiffusion(LatentDiffusionConfig(("rain", "dog"), seconds=1.0, steps=2, griffin_lim=2), vae,
                           noisy(FlowTransformer(config), 0.2)).eval()


def test_a_level_is_heard_and_can_be_left_out(timed):
    draw = lambda **given: timed.sample("dog", seed=1, progress=False, **given).audio  # noqa: E731
    plain, quiet = draw(), draw(controls=dict(level=[-60.0, -20.0, -60.0]))
    assert not torch.allclose(plain, quiet, atol=1e-3)
    assert torch.equal(plain, timed.sample("dog", seed=1, progress=False).audio)


@pytest.mark.parametrize("seconds,loop", [(1.0, False), (3.0, False), (3.0, True)])
def test_a_level_is_the_same_alone_in_a_batch_and_in_windows(timed, seconds, loop):
    tracks = [[-30.0, -50.0, -30.0], [-10.0, -40.0, -20.0]]
    both = timed.sample(["rain", "dog"], seed=1, seconds=seconds, loop=loop, progress=False, controls=dict(level=tracks))
    one = timed.sample("dog", seed=2, seconds=seconds, loop=loop, progress=False, controls=dict(level=tracks[1]))
    assert both.audio.shape[-1] == round(seconds * 44100)
    assert torch.allclose(both.audio[1], one.audio[0], atol=1e-4)


def test_a_constant_level_turns_with_a_ring(timed):
    cond = Conditions(label=[0], controls=dict(level=torch.arange(-160.0, 0.0)[None] / 2))
    seen = []
    timed.backbone.register_forward_pre_hook(hook := lambda _, args: seen.append((args[0], args[2].controls["level"])))
    try:
        x = torch.randn(1, 8, 1, 40)
        timed.predictor(cond, 1.0, ring=True)(x, torch.tensor([500.0]))
    finally:
        timed.backbone._forward_pre_hooks.clear()
    assert hook is not None and len(seen) == 1
    parts, tracks = seen[0]
    for part, track in zip(parts, tracks):  # each column meets its own four values
        for column in (0, 7, 29):
            at = next(i for i in range(40) if torch.equal(x[0, :, 0, i], part[:, 0, column]))
            assert torch.equal(track[4 * column:4 * column + 4], cond.controls["level"][0, 4 * at:4 * at + 4])


@pytest.fixture(scope="module")
def tier():
    "A slow tier with random weights, of the classes of `timed`"
    torch.manual_seed(3)
    return LevelTier(LevelTierConfig(labels=("rain", "dog"), hidden_size=8, row_rate=44100 / 512 / 8)).eval()


def test_levels_that_a_tier_draws_are_those_that_could_be_told(timed, tier):
    ask = lambda **more: timed.sample(["rain", "dog"], seed=4, progress=False, **more).audio  # noqa: E731
    before = ask()
    seconds = timed.mel.frames(before.shape[-1]) * 512 / 44100
    track = tier.levels(Conditions(label=[0, 1]), [4, 5], seconds)
    assert track.min() >= -80 and track.max() <= 0 and track.std() > 1 and not torch.equal(track[0], track[1])
    told = ask(controls=dict(level=track.clamp(-100, -1e-3)))
    given = ask(controls=dict(level=[-30.0, -10.0]))
    try:
        drawn = timed.draw_levels(tier).sample(["rain", "dog"], seed=4, progress=False).audio
        assert torch.equal(drawn, told) and torch.equal(drawn, ask()) and not torch.equal(drawn, before)
        assert torch.equal(ask(controls=dict(level=[-30.0, -10.0])), given)  # who says when is heard
        alone = timed.sample("dog", seed=5, progress=False).audio
        assert torch.allclose(alone[0], drawn[1], atol=1e-3)
    finally: timed.draw_levels(None)
    assert torch.equal(ask(), before)


def test_levels_of_a_mixture_a_ring_and_a_long_sound_are_drawn(timed, tier):
    timed.draw_levels(tier)
    try:
        for cond, how in (({"rain": 0.5, "dog": 0.5}, {}), ("dog", dict(loop=True)), ("rain", dict(seconds=3.0)), (None, {})):
            made = timed.sample(cond, seed=1, progress=False, **how).audio
            assert torch.isfinite(made).all() and made.abs().max() > 0
    finally: timed.draw_levels(None)


def test_a_tier_that_does_not_fit_says_so(timed, painter, tier, tmp_path):
    with pytest.raises(ValueError, match="knows no track of level"): painter.draw_levels(tier)
    other = LevelTier(LevelTierConfig(labels=("dog", "rain"), hidden_size=8))
    with pytest.raises(ValueError, match="draws levels of dog, rain.*makes rain, dog"): timed.draw_levels(other)
    with pytest.raises(ValueError, match="which draws no levels"): timed.draw_levels(painter.vae.save_pretrained(tmp_path / "vae"))
    timed.draw_levels(tier.save_pretrained(tmp_path / "tier"))
    read = timed.drawn_levels
    timed.draw_levels(None)
    assert torch.equal(read(Conditions(label=[1]), [2], 0.5), tier.levels(Conditions(label=[1]), [2], 0.5))


def test_the_shipped_tier_fits_the_shipped_painter():
    from importlib.resources import files

    folder = Path(str(files("foleybook") / "weights/foley"))
    shipped = Pretrained.from_pretrained(folder / "levels")
    assert (folder / "levels/model.safetensors").stat().st_size < 50_000
    assert [*shipped.labels] == json.loads((folder / "pipeline.json").read_text())["config"]["labels"]
    asked = Conditions(label=[shipped.labels.index(k) for k in ("rain", "dog_bark")] * 4)
    tracks = shipped.levels(asked, [*range(8)], 4.0)
    assert torch.equal(tracks, shipped.levels(asked, [*range(8)], 4.0)) and -80 <= tracks.min() and tracks.max() <= 0
    assert tracks[1::2].std(1).mean() > 2 * tracks[::2].std(1).mean()  # barks come and go, rain stays


def test_levels_in_rows_end_sixty_below_the_loudest():
    track = torch.full((1, 96), -100.0)
    track[0, 40:44] = -20.0
    rows = level_rows(track)
    back = (rows.flatten() - 1) * 80
    assert rows.shape == (1, 12, 4) and torch.allclose(back[[20, 21]], torch.tensor(-20.0), atol=1e-4)
    assert torch.allclose(back[:20], torch.tensor(-80.0), atol=1e-4)
    assert torch.allclose((level_rows(track + 15)[0, 0] - 1) * 80, torch.tensor(-65.0), atol=1e-4)
    assert torch.allclose((level_rows(torch.full((1, 8), -95.0)) - 1) * 80, torch.tensor(-80.0))


@pytest.mark.parametrize("level,said", [(3.0, "0 is the loudest"), ([-3.0, float("nan")], "finite"),
                                        (Conditions(label=[0], controls=dict(level=[[-3.0] * 100]), control_rate=50.0), "2.00 s long")])
def test_levels_that_cannot_be(timed, level, said):
    asked = dict(cond=level) if isinstance(level, Conditions) else dict(cond="rain", controls=dict(level=level))
    with pytest.raises(ValueError, match=said):
        timed.sample(seconds=1.0, progress=False, **asked)


def test_a_painter_without_level_says_so(painter):
    with pytest.raises(ValueError, match="cannot be asked by controls"):
        painter.sample("rain", controls=dict(level=-30.0), progress=False)


def test_follow_and_events(timed):
    taps = torch.zeros(1, 1, 88200)
    taps[..., [10000, 50000]] = 0.5
    level = timed.follow(taps)["level"]
    drawn = timed.events([10000 / 44100, 50000 / 44100], 2.0)["level"]
    for track in (level[0], drawn):
        assert track.max() == -12 and track.min() == -72
        peaks = [k for k in range(1, len(track) - 1) if track[k] > track[k - 1] and track[k] >= track[k + 1] and track[k] > -20]
        assert len(peaks) == 2 and all(abs(k * 512 - t) < 1024 for k, t in zip(peaks, (10000, 50000)))
    with pytest.raises(ValueError, match="^nothing to follow"):
        timed.follow(torch.zeros(1, 1, 44100))
    with pytest.raises(ValueError, match="nothing can happen at 3 s"):
        timed.events([1.0, 3.0], 2.0)


def test_events_stand_where_they_stood_and_the_floor_fades():
    torch.manual_seed(0)
    clip = torch.full((1, 128, 400), float(np.log(1e-5)))
    clip[..., 100:160] = -2 - torch.linspace(0, 6, 60)
    task = FlowTask(place=True, gain_db=0.0, from_start=1.0)
    made = task.altered(clip, FOLEY, 340)
    assert torch.allclose(made.log_mel[..., 100:157], clip[..., 100:157], atol=1e-3) and not made.hints.any()
    assert made.log_mel[..., 200:].max() < clip.max() - 5 and made.log_mel[..., -1].max() < -11
    places = {task.altered(clip, FOLEY, 340).log_mel.amax(1).argmax().item() for task in [FlowTask(place=True, from_start=0.0)] * 8}
    assert len(places) > 4


def test_a_tape_at_another_speed_is_higher_and_shorter():
    tone = lambda hz: log_mel(0.5 * (2 * np.pi * hz * torch.arange(88200) / 44100).sin()[None], FOLEY)  # noqa: E731
    clip = torch.cat([tone(800.0), torch.full((1, 128, 100), float(np.log(1e-5)))], -1)
    faster = warped(clip, FOLEY, torch.zeros(1), torch.full((1,), 1.25), torch.full((1,), 1.25))
    assert faster[0, :, 50].argmax() == tone(1000.0)[0, :, 50].argmax()
    assert event_ends(faster)[1, 0] in range(132, 142)  # of 172


def test_level_is_what_a_meter_shows():
    noise = 0.1 * torch.randn(1, 44100, generator=torch.Generator().manual_seed(0))
    assert abs(mel_level(log_mel(noise, FOLEY), FOLEY).mean() + 20) < 0.7
    louder = mel_level(log_mel(noise, FOLEY) + 1, FOLEY) - mel_level(log_mel(noise, FOLEY), FOLEY)
    assert torch.allclose(louder, torch.full_like(louder, 8.686), atol=1e-2)


def test_plain_attention_is_torch_s():
    q, k, v = (torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3))
    assert (attention(q.requires_grad_(), k, v).detach() - attention(q.detach(), k, v)).abs().max() < 2e-2


# ---- students ----


def student(folder, **changes):
    return find_recipe("foley-student").override(dict(pairs=9, teacher_steps=8, steps=6, epoch_steps=3, batch_size=4, precision="float32",
                                                      cache_dir=str(folder), checkpoint_steps=2, guidance=2.0) | changes)


def test_pieces_of_a_straight_path_lead_to_its_end(timed, tmp_path):
    recipe, times = student(tmp_path), timed.time_steps(4)
    noise, clean = torch.randn(6, 1, 8, 1, 22), torch.randn(6, 1, 8, 1, 22)
    tau = ((times + 1) / 1000).float().view(1, -1, 1, 1, 1)
    found = Paths((1 - tau) * clean + tau * noise, torch.zeros(6).long(), torch.zeros(6, 88))
    for jump in ("piece", "end"):
        item = recipe.override(jump=jump).exercise(found, times, FlowTask("x0", keep=0.5))
        assert torch.allclose(item.target, clean[:, 0], atol=1e-3)
        tau_t = ((item.t + 1) / 1000).view(-1, 1, 1, 1)
        expected = torch.where(item.keep[:, None, None], clean[:, 0], (1 - tau_t) * clean[:, 0] + tau_t * noise[:, 0])
        assert torch.allclose(item.x, expected, atol=1e-3) and not (item.weight * item.keep[:, None, None]).any()


def test_a_piece_leads_where_the_teacher_went(timed, tmp_path):
    "Steps of the sampler along what a perfect student says pass the nodes of a bent path"
    recipe, times = student(tmp_path), timed.time_steps(4)
    found = recipe.walk(timed, range(4))
    assert found.nodes.shape == (4, 5, 8, 1, 22) and found.label.tolist() == [0, 1, -1, 0]
    nodes = found.nodes.float()
    tau = ((times + 1) / 1000).float()
    for k in range(4):
        slope = (nodes[:, k] - nodes[:, k + 1]) / (tau[k] - tau[k + 1])
        clean = nodes[:, k] - tau[k] * slope
        step = clean + tau[k + 1] / tau[k] * (nodes[:, k] - clean)
        assert torch.allclose(step, nodes[:, k + 1], atol=1e-3)
    again = timed.sample_latents(Conditions(label=found.label), [0, 1, 2, 3], 22, steps=8, guidance=2.0, sampler="dpm++2m",
                                 noise=nodes[:, 0])
    assert torch.allclose(again, nodes[:, -1], atol=0.05)


def test_a_student_resumes_and_keeps_what_its_teacher_can(timed, tmp_path, monkeypatch):
    recipe, save, walk, walked = student(tmp_path / "cache"), Checkpoint.after_batch, StudentRecipe.walk, []

    def stop(self):
        save(self)
        if self.learn.training and self.learn.train_iter == 5:
            raise KeyError("stopped")

    monkeypatch.setattr(StudentRecipe, "walk", lambda self, model, rows: (walked.append(rows), walk(self, model, rows))[1])
    made = recipe.train(timed, tmp_path / "a", progress=False)
    with monkeypatch.context() as m, pytest.raises(KeyError):
        m.setattr(Checkpoint, "after_batch", stop)
        recipe.train(timed, tmp_path / "b", progress=False)
    recipe.train(timed, tmp_path / "b", progress=False)
    assert len(walked) == 1  # the paths are walked once
    a, b = (load_file(tmp_path / k / "backbone/model.safetensors") for k in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert made.config.steps == 4 and made.config.guidance == 1 and made.optional_tracks == ("level",)
    source = made.sample("dog", seed=1, seconds=1.0, progress=False).audio
    filled = made.sample("dog", seed=2, init=source, mask=(0.4, 0.6), progress=False).audio
    assert torch.equal(filled[..., :17000], source[..., :17000]) and not torch.equal(filled, source)


@pytest.mark.parametrize("changes,said", [(dict(teacher_steps=10), "Give a multiple"), (dict(jump="far"), "jump='far'")])
def test_students_that_cannot_be(changes, said):
    with pytest.raises(SettingsError, match=said):
        find_recipe("foley-student").override(changes).check()


def test_sounds_are_asked_when_from_the_command_line(timed, painter, tmp_path, capsys):
    timed.save_pretrained(tmp_path / "model")
    painter.save_pretrained(tmp_path / "old")
    taps = torch.zeros(1, 33075)
    taps[:, 10000] = 0.5
    write_audio(tmp_path / "taps.wav", taps, 44100)
    write_audio(tmp_path / "silence.wav", torch.zeros(1, 44100), 44100)
    ask = lambda *more, model="model": main(["sample", str(tmp_path / model), "--class", "dog", "--per-class", "1", "--quiet",  # noqa: E731
                                             "--out", str(tmp_path / "out" / str(len(list(tmp_path.glob("out/*"))))), *more])
    assert not ask("--follow", str(tmp_path / "taps.wav"))
    made, rate = read_audio(next((tmp_path / "out/0").rglob("*.wav")))
    assert made.shape[-1] == 33075 and rate == 44100
    assert not ask("--at", "0.2", "0.9", "--seconds", "1")
    for more, said in [(("--follow", str(tmp_path / "silence.wav")), "silence.wav: nothing to follow"), (("--at", "2"), "nothing can happen at 2 s"),
                       (("--at", "soon"), "Give seconds"), (("--at", "0.1", "--controls", "level=-20"), "say the same thing")]:
        assert ask(*more) and said in capsys.readouterr().err
    assert ask("--at", "0.1", model="old") and "cannot be asked when" in capsys.readouterr().err
