"""Codebooks outside their notebook: half precision, two processes, broken input, interrupted cascades"""
import json
import math
import os
import pickle
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from foleybook.audio_features import GriffinLim, MelConfig, MelMismatch
from foleybook.codebooks import (
    FSQ, VQVAE, ResidualVQ, VectorQuantizer, VQVAEConfig, kmeans, nearest_code, noise_texture)
from foleybook.train.codebooks import CascadeRecipe, UnigramRecipe, VQVAERecipe
from foleybook.core.code_maps import augment_codes, Cascade, PriorConfig, UnigramPrior
from foleybook.core.code_tables import CodeError, CodeTable, encode_table
from foleybook.published.dcase2023 import (
    VQVAE_PRESETS, PublishedVQVAE, PublishedVQVAEConfig, _audyn_names, _baseline_names)
from foleybook.core.clip_tables import split_table
from foleybook.core.feature_cache import MelCache
from foleybook.sound_data import make_procedural
from foleybook.core.files import CheckpointError
from foleybook.core.settings import SettingsError

ROOT = Path(__file__).parent.parent
TINY = dict(mel=MelConfig.preset("dcase2023"), freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=8, res_width=4, res_blocks=1, dim=4,
            n_codes=16)
GOLDEN = ROOT / "tests/golden/foley"


def tiny(**changes):
    torch.manual_seed(0)
    return VQVAE(VQVAEConfig(**{**TINY, "kmeans_iters": 0, **changes})).eval()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    table = make_procedural(folder / "sounds", ["rain", "pops"], n=5, seconds=0.5, n_jobs=1)
    return MelCache.build(table, MelConfig.preset("dcase2023"), 0.5, folder / "cache", n_jobs=1, progress=False)


# ---- numbers ----


def read_and_wanted(codes, training=True, **options):
    "What a batch of maps becomes"
    from types import SimpleNamespace
    callback = augment_codes(**options)
    model = UnigramPrior(PriorConfig(code_shape=codes.shape[1:], n_codes=1000, n_classes=2))
    callback.learn = SimpleNamespace(xb=(codes, "classes"), yb=(codes,), training=training, model=model)
    callback.before_batch()
    assert callback.learn.xb[1] == "classes"
    return callback.learn.xb[0], callback.learn.yb[0]


@pytest.mark.parametrize("shape", [(8, 3, 20), (8, 20)])
def test_maps_are_turned_where_that_is_asked_for(shape):
    torch.manual_seed(0)
    codes = torch.arange(math.prod(shape)).view(shape) % 1000
    for options, training in ((dict(turn=False), True), ({}, False), (dict(noise=0.5), False)):
        assert all(torch.equal(x, codes) for x in read_and_wanted(codes, training, **options))
    read, wanted = read_and_wanted(codes)
    assert torch.equal(read, wanted)
    places = [next(k for k in range(20) if torch.equal(a, b.roll(k, -1))) for a, b in zip(read, codes)]
    assert len({*places}) > 2  # each map by a number of its own
    read, wanted = read_and_wanted(codes, turn=False, noise=0.3)
    assert torch.equal(wanted, codes) and 0.1 < (read != codes).float().mean() < 0.5


def test_a_recipe_says_whether_maps_are_turned(monkeypatch):
    from types import SimpleNamespace
    from foleybook.core import code_maps
    asked = []
    monkeypatch.setattr(code_maps, "augment_codes", lambda *options: asked.append(options))
    for turn, noise in ((True, 0.0), (False, 0.1), (False, 0.0)):
        code_maps.PriorRecipe.callbacks(SimpleNamespace(turn=turn, noise=noise))
    assert asked == [(True, 0.0), (False, 0.1)]


@given(n=st.integers(1, 40), l=st.integers(1, 60), d=st.integers(1, 6), chunk=st.integers(1, 70),
       seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_nearest_code_is_nearest(n, l, d, chunk, seed):
    g = torch.Generator().manual_seed(seed)
    z, book = torch.randn(l, d, generator=g), torch.randn(n, d, generator=g)
    distance = torch.cdist(z.double(), book.double())
    got = distance.gather(1, nearest_code(z, book, chunk)[:, None])[:, 0]
    assert torch.allclose(got, distance.min(1).values, atol=1e-4)


@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4), scale=st.floats(0.1, 50), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_fsq_codes_and_points_agree(levels, scale, seed):
    fsq = FSQ(tuple(levels)).eval()
    out = fsq(scale * torch.randn(2, len(levels), 7, generator=torch.Generator().manual_seed(seed)))
    assert 0 <= out.codes.min() and out.codes.max() < math.prod(levels)
    assert torch.allclose(fsq.lookup(out.codes), out.z_q, atol=1e-5)


def test_kmeans_with_fewer_points_than_rows():
    assert kmeans(torch.randn(3, 2), 8).shape == (8, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [
    lambda: VectorQuantizer(512, 16), lambda: VectorQuantizer(512, 16, kmeans_iters=0),
    lambda: ResidualVQ(64, 16, 2), lambda: VectorQuantizer(64, 16, update="gradient")])
def test_110_080_alike_half_latents_stay_finite(dtype, make):
    torch.manual_seed(0)
    latents, vq = (0.7 + 0.05 * torch.randn(64, 16, 20, 86)).to(dtype), make().train()
    assert latents[:, 0].numel() == 110_080
    for _ in range(2):
        with torch.autocast("cpu", dtype=dtype):
            out = vq(latents)
        assert out.z_q.dtype == dtype and out.z_q.isfinite().all() and out.loss.isfinite()
        assert all(t.isfinite().all() for t in vq.state_dict().values())


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_broken_batch_moves_nothing(poison):
    vq = VectorQuantizer(8, 4, kmeans_iters=0, restart_below=0.5).train()
    z = torch.randn(2, 4, 6)
    vq(z)
    before = {k: v.clone() for k, v in vq.state_dict().items()}
    z[0, 1, 2] = poison
    vq(z)
    assert all(torch.equal(v, before[k]) for k, v in vq.state_dict().items())


def test_kmeans_start_waits_for_a_finite_batch():
    vq, z = VectorQuantizer(8, 4).train(), torch.randn(2, 4, 20)
    vq(z * math.nan)
    assert not vq.started and vq.codebook.isfinite().all()
    vq(z)
    assert vq.started


def test_evaluation_moves_nothing():
    model = tiny().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.encode(torch.randn(1, 80, 16))
    assert model.quantizer.training
    model.eval()(torch.randn(1, 80, 16))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_dropped_stages_do_not_move():
    torch.manual_seed(0)
    rvq = ResidualVQ(8, 4, 3, dropout=1.0, kmeans_iters=0, restart_below=0).train()
    before = [s.codebook.clone() for s in rvq.stages]
    depth = rvq(torch.randn(2, 4, 9), n_quantizers=1).codes.shape[1]
    moved = [not torch.equal(s.codebook, b) for s, b in zip(rvq.stages, before)]
    assert depth == 1 and moved == [True, False, False]
    assert {rvq(torch.randn(1, 4, 3)).codes.shape[1] for _ in range(40)} == {1, 2, 3}


def test_gradient_stages_that_did_not_run_have_a_zero_gradient():
    rvq = ResidualVQ(8, 4, 3, update="gradient", kmeans_iters=0).train()
    rvq(torch.randn(2, 4, 9), n_quantizers=1).loss.backward()
    assert rvq.stages[0].codebook.grad.abs().sum() > 0 and rvq.stages[2].codebook.grad.abs().sum() == 0


# ---- two processes ----

WORKER = """
import sys, torch, torch.distributed as dist
from foleybook.codebooks import ResidualVQ, VectorQuantizer
rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
torch.manual_seed(0)
plain = VectorQuantizer(8, 3, kmeans_iters=4, restart_below=0).train()
restarting = VectorQuantizer(8, 3, decay=.5, restart_below=.9).train()
deep = ResidualVQ(8, 3, 3, dropout=1., restart_below=0).train()
torch.manual_seed(100 + rank)
for step in range(6):
    g = torch.Generator().manual_seed(step)
    half = torch.randn(2, 3, 20, generator=g)[rank:rank + 1]
    plain(half); restarting(half); deep(half)
torch.save([plain.state_dict(), restarting.state_dict(), deep.state_dict()], f'{out}/{rank}.pt')
dist.destroy_process_group()
"""


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([sys.executable, "-c", WORKER, str(r), str(port), str(tmp_path)], env=env)
             for r in range(2)]
    assert [p.wait(240) for p in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    for a, b in zip(first, second):
        assert all(torch.equal(a[k], b[k]) for k in a)
    torch.manual_seed(0)
    alone = VectorQuantizer(8, 3, kmeans_iters=4, restart_below=0).train()
    for step in range(6):
        alone(torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(step)))
    assert all(torch.allclose(first[0][k].float(), v.float(), atol=1e-5) for k, v in alone.state_dict().items())


# ---- published files ----


def original(name="vqvae_a"):
    return {k[3:]: v for k, v in load_file(GOLDEN / f"{name}.safetensors").items() if k.startswith("sd.")}


def test_published_files(tmp_path):
    sd, mel = original(), MelConfig.preset("dcase2023").replace(n_mels=16)
    torch.save(sd, tmp_path / "bare.pt")
    torch.save({"model": {f"module.{k}": v for k, v in sd.items()}}, tmp_path / "wrapped.pth")
    a, b = (VQVAE.from_original(tmp_path / f, mel=mel) for f in ("bare.pt", "wrapped.pth"))
    assert a.codebook_hash == b.codebook_hash and a.config.relu_skip and not a.config.restart_below
    again = VQVAE.from_pretrained(a.save_pretrained(tmp_path / "ours"))
    assert again.config == a.config and again.codebook_hash == a.codebook_hash


@pytest.mark.parametrize("kind,changes", [
    ("baseline", {}), ("baseline", dict(res_blocks=0, res_width=32, width=6, kernels=(2, 8))),
    ("baseline", dict(res_blocks=3, channels=2, dim=5)), ("audyn", {}), ("audyn", dict(res_blocks=0, res_width=32)),
    ("audyn", dict(res_blocks=1, n_codes=7, kernels=(2, 4))), ("audyn", dict(n_quantizers=4, dim=3))])
def test_published_models_of_any_size(kind, changes):
    baseline, sizes = kind == "baseline", dict(width=10, res_width=3, dim=4, n_codes=9, mel=MelConfig(n_mels=12))
    ours = PublishedVQVAE(PublishedVQVAEConfig(**sizes | VQVAE_PRESETS["dcase2023" if baseline else "audyn"] | changes)).eval()
    c, state, first = ours.config, ours.state_dict(), 1 if baseline else 0
    branch, block = ("enc_b.blocks_{}.0.weight", "dec.blocks.{}.conv.1.weight") if baseline else (
        "encoder.backbone.{}.conv2d_1.weight", "decoder.res_blocks.{}.conv2d_1.weight")
    hints = [branch.format(first + i) for i in range(len(c.kernels))]
    hints += [block.format(first + r) for r in range(c.res_blocks)]
    hints += [f"vector_quantizer.codebooks.{k}.weight" for k in range(c.n_quantizers) if c.n_quantizers > 1]
    names = (_baseline_names if baseline else _audyn_names)(dict.fromkeys(hints))
    sd = {old: state[new] for old, new in names.items()}
    if baseline:
        sd |= {k: sd[k].t() for k in ("quantize_b.embed", "quantize_b.embed_avg")}
    again = VQVAE.from_original(sd, mel=c.mel)
    x = torch.randn(2, *[c.channels][: c.channels - 1], 12, 20)
    assert again.config == c and torch.equal(again(x).log_mel, ours(x).log_mel)


def test_quirks_are_the_published_models_own(tmp_path):
    "The teaching class has none of them; a saved reader's model comes back as one, and trains as one"
    assert not {"count_init", "laplace", "relu_skip"} & {f.name for f in fields(VQVAEConfig)}
    model = VQVAE.from_original(original(), mel=MelConfig.preset("dcase2023").replace(n_mels=16))
    again = VQVAE.from_pretrained(model.save_pretrained(tmp_path))
    assert type(again) is PublishedVQVAE and again.config == model.config
    plain = VQVAE(VQVAEConfig(**{f.name: getattr(model.config, f.name) for f in fields(VQVAEConfig)})).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(1, 16, 20)
    assert torch.equal(again(x).log_mel, model(x).log_mel) and not torch.allclose(plain(x).log_mel, model(x).log_mel)
    fresh = PublishedVQVAE(PublishedVQVAEConfig(**{**TINY, **VQVAE_PRESETS["dcase2023"]}))
    assert not fresh.quantizer.count.any() and VQVAERecipe.preset("dcase-vqvae").model.relu_skip


def test_one_base_for_every_mel_autoencoder():
    from foleybook.core.mel_autoencoders import MelAutoencoder, MelAutoencoderRecipe
    from foleybook.spectrogram_diffusion import MelVAE
    from foleybook.train.spectrogram_diffusion import MelVAERecipe
    from foleybook.spectrogram_vqgan import SpectrogramVQGAN
    from foleybook.train.spectrogram_vqgan import VQGANRecipe
    for model, recipe in ((VQVAE, VQVAERecipe), (SpectrogramVQGAN, VQGANRecipe), (MelVAE, MelVAERecipe)):
        for name in ("mel", "time_stride", "with_grain", "listen"):
            assert getattr(model, name) is getattr(MelAutoencoder, name)
        for name in ("dataloaders", "listen", "ear", "check_listen", "loss_func"):
            assert getattr(recipe, name) is getattr(MelAutoencoderRecipe, name) or name == "loss_func"


def test_a_reader_of_the_parent_is_not_the_childs():
    "Whichever file is read first, a VQGAN asks its own reader"
    from foleybook.spectrogram_vqgan import SpectrogramVQGAN
    VQVAE.from_original(original(), mel=MelConfig.preset("dcase2023").replace(n_mels=16))
    assert SpectrogramVQGAN.from_original.__func__ is not VQVAE.from_original.__func__
    with pytest.raises(CheckpointError):
        SpectrogramVQGAN.from_original({"encoder.x": torch.zeros(1)})
    assert SpectrogramVQGAN.from_original.__func__.__module__ == "foleybook.published.specvqgan"


def test_audyn_flag_is_accepted():
    model = VQVAE.from_original(original("audyn_rvqvae") | {"vector_quantizer.is_initialized": True})
    assert model.config.n_quantizers == 3 and model.mel.mel_scale == "htk"


def test_missing_surplus_and_misshapen_keys_are_listed():
    sd = original()
    lacking = {k: v for k, v in sd.items() if k not in ("quantize_b.embed_avg", "dec.blocks.1.conv.1.weight")}
    with pytest.raises(CheckpointError) as e:
        VQVAE.from_original(lacking | {"optimizer.step": torch.ones(1)})
    for name in ("quantize_b.embed_avg", "dec.blocks.1.conv.1.weight", "optimizer.step"):
        assert name in str(e.value)
    with pytest.raises(CheckpointError, match="enc_b.blocks_1.4.bias has shape"):
        VQVAE.from_original(sd | {"enc_b.blocks_1.4.bias": torch.ones(3)})


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("content", ["pickled code", "half a file", "text", "empty"])
def test_files_that_are_no_weights(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "vqvae_001.pt"
    torch.save(original(), file)
    if content == "pickled code":
        torch.save({"model": Evil()}, file)
    else:
        file.write_bytes({"half a file": file.read_bytes()[:2000], "text": b"not a checkpoint", "empty": b""}[content])
    with pytest.raises(CheckpointError, match="vqvae_001.pt"):
        VQVAE.from_original(file)
    assert not (tmp_path / "owned").exists()
    (tmp_path / "list.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(CheckpointError):
        VQVAE.from_original(tmp_path / "list.pt")


# ---- things that do not fit ----


def test_codes_and_mels_that_do_not_fit():
    model, codes = tiny(), torch.zeros(1, 10, 4, dtype=torch.long)
    for bad, words in ((codes + 16, "0..15"), (codes - 1, "-1"), (codes.float(), "whole numbers"),
                       (codes[:, :5], "columns"), (codes[:, None], "columns")):
        with pytest.raises(CodeError, match=words):
            model.decode(bad)
    for bad in (torch.zeros(1, 64, 32), torch.zeros(80, 32), torch.full((1, 80, 32), math.nan)):
        with pytest.raises(CodeError):
            model.encode(bad)
    with pytest.raises(CodeError, match="5 stages"):
        ResidualVQ(8, 4, 3).lookup(torch.zeros(1, 5, 2, 2, dtype=torch.long))


def test_any_length_survives_the_round_trip():
    model = tiny()
    for frames in (1, 7, 8, 9, 100):
        x = torch.randn(2, 80, frames)
        assert model.decode(model.encode(x), frames).shape == x.shape == model(x).log_mel.shape
        assert model.encode(x).shape[1:] == model.code_shape(frames)


def parts(cache, **changes):
    model = tiny(**changes)
    table = encode_table(cache, model, progress=False)
    return model, UnigramPrior(PriorConfig(table.code_shape, table.n_codes, 2, model.codebook_hash)).fit(table), table


def test_parts_that_do_not_belong_together(cache, tmp_path):
    model, prior, table = parts(cache)
    other = tiny()
    other.decoder.conv.bias.data += 1
    with pytest.raises(CodeError, match=f"{model.codebook_hash}.*{other.codebook_hash}"):
        Cascade(prior, other)
    with pytest.raises(MelMismatch, match="f_max"):
        Cascade(prior, model, GriffinLim(model.mel.replace(f_max=None)))
    with pytest.raises(CodeError, match="3 labels"):
        Cascade(prior, model, labels=["a", "b", "c"])
    wrong = UnigramPrior(replace(prior.config, code_shape=(5, 5)))
    with pytest.raises(CodeError, match=r"\(5, 5\)"):
        Cascade(wrong, model)
    table.save(tmp_path / "codes")
    with pytest.raises(CodeError, match="Encode the clips again"):
        CodeTable.load(tmp_path / "codes", other)
    with pytest.raises(MelMismatch):
        encode_table(cache, tiny(mel=model.mel.replace(f_max=None)), progress=False)


def test_a_folder_mixed_from_two_runs_is_noticed(cache, tmp_path):
    model, prior, _ = parts(cache)
    folder = Cascade(prior, model, labels=cache.labels).save_pretrained(tmp_path / "run")
    assert Cascade.from_pretrained(folder).labels == cache.labels
    other = tiny(n_codes=16)
    other.quantizer.codebook += 1
    other.save_pretrained(folder / "codebook")
    with pytest.raises(CheckpointError, match="pipeline.json"):
        Cascade.from_pretrained(folder)
    (folder / "pipeline.json").write_text('{"parts": ["prior"')
    with pytest.raises(CheckpointError, match="pipeline.json"):
        Cascade.from_pretrained(folder)


@pytest.mark.parametrize("changes", [{}, dict(n_quantizers=2), dict(quantizer="fsq", levels=(4, 4))])
def test_cascade_samples(cache, changes):
    model, prior, table = parts(cache, **changes)
    cascade = Cascade(prior, model, GriffinLim(model.mel, 2), cache.labels, cache.seconds)
    for seconds in (0.2, 0.3337, 0.5):
        sound = cascade.sample("rain", seconds=seconds, seed=1, progress=False)
        assert sound.audio.shape == (1, 1, round(seconds * 22050))
    many = cascade.sample(["rain", "pops", "rain"], seed=5, top_p=0.9, progress=False)
    alone = cascade.sample("rain", seed=7, top_p=0.9, progress=False)
    assert torch.equal(many.audio[2], alone.audio[0]) and many.labels == ["rain", "pops", "rain"]
    holed = cascade.sample("rain", init=many.audio[:1], mask=(0.25, 0.4), seed=3, progress=False).audio[0, 0]
    same = holed == many.audio[0, 0]
    assert same[:5512].all() and same[8821:].all() and not same[6000:8000].any()
    for bad, words in ((dict(seconds=9), "Ask for less"), (dict(mask=(0, 1)), "init"), (dict(guidance=2.0), "guidance"),
                       (dict(cond="cat"), "cat"), (dict(cond=2), "0 to 1"),
                       (dict(init=many.audio[:1], mask=torch.ones(3, 3)), "shape")):
        with pytest.raises(ValueError, match=words):
            cascade.sample(**{"cond": "rain", "progress": False, **bad})


# ---- recipes ----


def small_recipe(**changes):
    book = VQVAERecipe(steps=4, epoch_steps=2, batch_size=4, seconds=0.5, model=VQVAEConfig(**TINY), log_every=1)
    return CascadeRecipe(codebook=book, prior=UnigramRecipe()).override(changes)


def test_cascade_recipe_goes_on_where_it_stood(cache, tmp_path, capsys):
    done = small_recipe().train(cache, tmp_path / "run")
    made = (tmp_path / "run/codebook/history.csv").stat().st_mtime_ns
    assert "1/3 codebook" in capsys.readouterr().out
    again = small_recipe().train(cache, tmp_path / "run")
    assert "finished before" in capsys.readouterr().out
    assert (tmp_path / "run/codebook/history.csv").stat().st_mtime_ns == made
    told = json.loads((tmp_path / "run/pipeline.json").read_text())["config"]["codebook_hash"]
    assert again.codebook.codebook_hash == done.codebook.codebook_hash == told
    assert pd.read_csv(tmp_path / "run/codebook/history.csv").error.notna().sum() == 4
    changed = small_recipe(**{"codebook.model.n_codes": "8"}).train(cache, tmp_path / "run")
    assert changed.codebook.n_codes == 8 and (tmp_path / "run/codebook/earlier_1").is_dir()
    with pytest.raises(SettingsError, match="stepps"):
        small_recipe(**{"prior.stepps": 3})


def test_a_prior_can_learn_from_every_clip(cache, tmp_path):
    "The validation clips join the codes, on the codebook that is there; and leave them again"
    held, seen = len(split_table(cache.index)[1]), []
    for every in (False, True, False):
        model = small_recipe(every_clip=every).train(cache, tmp_path / "run", progress=False)
        table = CodeTable.load(tmp_path / "run/codes")
        seen.append((len(table.train_idx), int(model.prior.counts.sum()), model.codebook.codebook_hash))
    assert held and seen[0] == seen[2] and seen[1][0] == len(cache) == seen[0][0] + held
    assert seen[1][1] > seen[0][1] and seen[1][2] == seen[0][2]


@pytest.mark.parametrize("changes", [
    {"precision": "bf16"}, {"precision": "fp16"}, {"model.quantizer": "gradient"}, {"model.quantizer": "fsq"},
    {"model.n_quantizers": 2, "model.quantizer_dropout": 1.0}, {"audio_every": 2}])
def test_recipe_variants_train(cache, tmp_path, changes):
    recipe = VQVAERecipe(steps=4, epoch_steps=2, batch_size=4, seconds=0.5, model=VQVAEConfig(**TINY)).override(changes)
    model = recipe.train(cache, tmp_path, progress=False)
    assert all(t.isfinite().all() for t in model.state_dict().values())
    back = VQVAE.from_pretrained(tmp_path)
    assert back.codebook_hash == model.codebook_hash
    if "audio_every" in changes:
        assert len(list((tmp_path / "samples").rglob("*.wav"))) >= 4


def test_an_official_test_split_trains_no_prior(tmp_path):
    "Rows with split 'test' are in neither part, also after saving; a table of nothing else is trained on all the same"
    import pandas as pd

    df = pd.DataFrame(dict(label=["a", "b"] * 4, split=["train", "train", "valid", "test"] * 2))
    codes = torch.randint(8, (8, 2, 3), generator=torch.Generator().manual_seed(0))
    table = CodeTable(codes, df, 8, "x", valid_idx=[2, 6])
    for t in (table, CodeTable.load(table.save(tmp_path / "codes"))):
        assert t.train_idx == [0, 1, 4, 5] and t.conditions.label.tolist() == [0, 1] * 4 and t.conditions.names == ["a", "b"] * 4
    counted = UnigramPrior(PriorConfig((2, 3), 8, 2, "x")).fit(table, smooth=0).counts
    assert counted.sum() == 4 * 6 and torch.equal(counted, UnigramPrior(PriorConfig((2, 3), 8, 2, "x")).fit(
        CodeTable(codes[:6], df[:6], 8, "x", valid_idx=[2, 3]), smooth=0).counts)
    assert CodeTable(codes, df.assign(split="test"), 8, "x").train_idx == list(range(8))


# ---- grain ----


def grained(width=8):
    torch.manual_seed(0)
    config = VQVAEConfig(mel=MelConfig.preset("dcase2023"), freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=8, res_width=4,
                         res_blocks=1, dim=4, n_codes=16, kmeans_iters=0, grain=width, mel_mean=-5.0, mel_std=2.0)
    return VQVAE(config).eval()


def test_grain_is_the_seeds_and_nothing_else():
    "The same alone, in a batch and after saving; codes, their hash and what is decoded do not change with it"
    book, x = grained(), torch.randn(3, 80, 40)
    made = book.decode(book.encode(x))
    rough = book.with_grain(made, [4, 5, 6])
    assert rough.shape == made.shape and 0.05 < (rough - made).std() < 2
    assert torch.equal(book.with_grain(made[1:2], [5]), rough[1:2]) and not torch.equal(book.with_grain(made, [4, 5, 7])[2], rough[2])
    plain = VQVAE(replace(book.config, grain=0)).eval()
    plain.load_state_dict({k: v for k, v in book.state_dict().items() if not k.startswith("grain.")})
    assert torch.equal(plain.decode(plain.encode(x)), made) and plain.with_grain(made, [1, 2, 3]) is made
    assert plain.codebook_hash == book.codebook_hash


def test_grain_teaches_the_codebook_nothing():
    "Its loss has no gradient outside the grain"
    book, x = grained().train(), torch.randn(2, 80, 40)
    book(x).loss.backward()
    with_it = {k: p.grad.clone() for k, p in book.named_parameters() if p.grad is not None}
    torch.manual_seed(0)
    plain = VQVAE(replace(book.config, grain=0)).train()
    plain.load_state_dict({k: v for k, v in grained().state_dict().items() if not k.startswith("grain.")})
    plain(x).loss.backward()
    assert any(k.startswith("grain.") and g.abs().sum() > 0 for k, g in with_it.items())
    for k, p in plain.named_parameters():
        if p.grad is not None: assert torch.allclose(p.grad, with_it[k], atol=1e-6), k


@pytest.mark.parametrize("mel", ["dcase2023", "fullband", "audio_diffusion", "specvqgan"])
def test_texture_of_noise(mel):
    "Even in every band of every front end, and a ring where that is asked"
    mel = MelConfig.preset(mel)
    grain = noise_texture(mel, [0, 1], 200)
    assert grain.shape == (2, mel.n_mels, 200) and grain.isfinite().all()
    assert abs(grain.mean()) < 0.1 and 0.8 < grain.std() < 1.2
    short = noise_texture(mel, [0], 1)  # shorter than what a frame looks at
    assert short.shape == (1, mel.n_mels, 1) and short.isfinite().all()
    ring = noise_texture(mel, [3], 100, loop=True)[0]
    alike = lambda a, b: float((a * b).mean())
    steps = [alike(ring[:, k], ring[:, k + 1]) for k in range(99)]
    assert ring.shape[-1] == 100 and alike(ring[:, -1], ring[:, 0]) > min(steps) - 0.1


def test_a_cascade_draws_grain():
    book = grained()
    prior = UnigramPrior(PriorConfig((10, 5), 16, 2, book.codebook_hash)).eval()
    cascade = Cascade(prior, book, labels=["rain", "pops"])
    both = cascade.sample("rain", n=2, seed=[3, 4], progress=False).audio
    assert torch.equal(cascade.sample("rain", seed=4, progress=False).audio, both[1:])
    book.grain = None
    assert not torch.equal(cascade.sample("rain", seed=4, progress=False).audio, both[1:])
