"""Transformers over code maps: cached drawing equals the plain way, windows, holes, conditions, films, shares of a set."""
import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from foleybook import transformer
from foleybook.core.sound_files import read_audio
from foleybook.apps.cli import main
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.core.code_maps import Cascade
from foleybook.core.code_tables import CodeError, CodeTable
from foleybook.core.files import CheckpointError
from foleybook.core.generator import Conditions, Generator
from foleybook.core.randomness import ItemNoise
from foleybook.core.code_maps import draw_code
from foleybook.apps.dub import (
    ResNetEye, VideoError, dub, film_seconds, find_eye, read_frames, sample_takes, tile_features,
    video_features)
from foleybook.published.specvqgan import first_stage
from foleybook.core.cached_transformer import CHUNK
from foleybook.train.transformer import TransformerRecipe, decayed, with_features
from foleybook.transformer import CodeGPT, ParallelTransformer, TransformerConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SMALL = dict(code_shape=(3, 5), n_codes=7, n_classes=3, width=16, n_layers=2, n_heads=2, feature_dim=6, feature_rows=2)
KINDS = {"class": {}, "rows": dict(order="rows"), "spiral": dict(order="spiral out"), "published": dict(places="table", near=False),
         "slope": dict(code_shape=(3, 2, 4)), "flat": dict(code_shape=(2, 2, 4), stages="flat"),
         "features": dict(condition="features"), "both": dict(condition="both"), "nothing": dict(condition="none")}
PATHS = {"torch": 0, "compiled": 1e9}  # values of COMPILED_ROWS_MB


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    "Both ways to draw, whatever the size of the network"
    monkeypatch.setattr(transformer, "COMPILED_ROWS_MB", PATHS[request.param])
    return request.param


def network(kind="class", cls=CodeGPT, seed=0, **changes):
    torch.manual_seed(seed)
    model = cls(TransformerConfig(**SMALL | KINDS[kind] | changes)).eval()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)  # weights of a fresh network give nearly equal odds
    return model


def asked(n, seed=5):
    g = torch.Generator().manual_seed(seed)
    return Conditions(label=torch.arange(n) % 3, features=torch.rand(n, 9, 6, generator=g))


@torch.no_grad()
def plain(model, cond, seeds, init=None, mask=None, guidance=None, **how):
    "The plain way: the whole network again for every step, with the same random draws"
    s, n, noise = model.steps, model.config.n_codes, ItemNoise(seeds)
    blank = torch.zeros(len(seeds), *s.shape, dtype=torch.long)
    init = blank if init is None else init.view_as(blank)
    x, text = s.to_steps(init, n), s.to_steps(torch.ones_like(blank) if mask is None else mask.expand_as(blank).long(), 0).bool()
    first, last = (f(text.any(0).any(-1).nonzero()).item() for f in (torch.min, torch.max))
    for t in range(first, last + 1):
        if (t - first) % CHUNK == 0:
            uniform = noise.rand(CHUNK, s.streams, n)
        logits = [model(model.squeezed(s.to_map(x)), c) for c in ((cond, None) if guidance is not None else (cond,))]
        logits = [v if v.ndim == 5 else v[:, :, None] for v in logits]
        logits = [torch.stack([s.to_steps(one.movedim(0, 0), 0.0)[:, t] for one in v], 0).movedim(1, -1) for v in logits]  # (b, s, n)
        logits = logits[0] if guidance is None else torch.lerp(logits[1], logits[0], guidance)
        drawn = draw_code(logits.flatten(0, 1), uniform[:, (t - first) % CHUNK].flatten(0, 1), **how).view(len(seeds), -1)
        x[:, t] = torch.where(text[:, t], drawn, x[:, t])
    return model.squeezed(s.to_map(x))


@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_full_forward(kind, path):
    model, how = network(kind), dict(temperature=0.9, top_k=5, top_p=0.95)
    assert model.compiled() == (path == "compiled")
    ours = model.sample_codes(asked(2), [3, 4], **how)
    assert torch.equal(ours, plain(model, asked(2), [3, 4], **how)) and len(ours.unique()) > 3


@pytest.mark.parametrize("kind", ["class", "slope", "both"])
def test_item_is_the_same_alone_and_in_a_batch(kind, path):
    model, cond = network(kind), asked(8)
    for how in ({}, dict(guidance=2.0)):
        batch = model.sample_codes(cond, list(range(20, 28)), **how)
        for k in (0, 3, 7):
            assert torch.equal(model.sample_codes(cond[k], [20 + k], **how)[0], batch[k])


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(PATHS)), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_any_map_size(path, h, w, stages, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "COMPILED_ROWS_MB", PATHS[path])
        model = network(code_shape=(stages, h, w), n_layers=1, seed=seed)
        assert torch.equal(model.sample_codes(asked(2), [seed, seed + 1]), plain(model, asked(2), [seed, seed + 1]))


@pytest.mark.parametrize("kind", ["class", "slope", "flat", "rows"])
def test_kept_codes_stay_and_the_rest_is_drawn_given_them(kind, path):
    model, cond = network(kind), asked(2)
    shape = model.config.code_shape
    init, mask = torch.randint(0, 7, (2, *shape)), torch.zeros(shape[-2:], dtype=torch.bool)
    mask[:, 2:4] = True
    codes = model.sample_codes(cond, [1, 2], init=init, mask=mask)
    assert torch.equal(codes[..., ~mask], init[..., ~mask]) and not torch.equal(codes, init)
    assert torch.equal(codes, plain(model, cond, [1, 2], init=init, mask=mask))
    assert torch.equal(model.sample_codes(cond, [1, 2], init=init, mask=mask & False), init)
    assert torch.equal(model.sample_codes(cond, [1, 2], init=init, mask=mask | True), model.sample_codes(cond, [1, 2]))


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("slope",)])
def test_no_code_sees_itself_or_what_follows(kind):
    model = network(kind)
    codes = torch.randint(0, 7, (1, *model.config.code_shape))
    text = model.steps.to_steps(codes if codes.ndim == 4 else codes[:, None], 0)
    other = text.clone()
    other[:, 6] = (other[:, 6] + 1) % 7
    with torch.no_grad():
        a, b = (model(model.squeezed(model.steps.to_map(x)), asked(1)) for x in (text, other))
    differ = (a != b).any(1)
    differ = model.steps.to_steps(differ if differ.ndim == 4 else differ[:, None], False)[0, :, 0]
    assert not differ[:7].any() and differ[7:].all()


def test_guidance():
    model, cond = network(), asked(2)
    none, one = model.sample_codes(None, [1, 2]), model.sample_codes(cond, [1, 2])
    assert torch.equal(model.sample_codes(cond, [1, 2], guidance=1.0), one)
    assert torch.equal(model.sample_codes(cond, [1, 2], guidance=0.0), none)
    assert torch.equal(model.sample_codes(cond, [1, 2], guidance=3.0), plain(model, cond, [1, 2], guidance=3.0))
    assert torch.equal(model.sample_codes(torch.tensor([[1.0, 0, 0], [0, 1, 0]]), [1, 2]), one)
    with pytest.raises(CodeError, match="class_dropout"):
        network(class_dropout=0.0).sample_codes(cond, [1, 2], guidance=2.0)


@pytest.mark.parametrize("slide", ["column", "half"])
def test_long_maps_are_drawn_through_windows(slide):
    model, cond = network("features", slide=slide), asked(2)
    long = model.sample_codes(cond, [1, 2], shape=(3, 17))
    assert long.shape == (2, 3, 17)
    ends = [w[2] for w in model.windows(17)]
    assert ends[-1] == 17 and all(a <= b for a, b in zip(ends, ends[1:])) and all(s <= f < e <= s + 5 for s, f, e in model.windows(17))
    assert torch.equal(model.sample_codes(cond[1], [2], shape=(3, 17))[0], long[1])
    assert torch.equal(model.sample_codes(cond, [1, 2], shape=(3, 3)), model.sample_codes(cond, [1, 2])[..., :3])
    kept = model.sample_codes(cond, [8, 9], shape=(3, 17), init=long, mask=(torch.arange(17) > 8).expand(3, -1))
    assert torch.equal(kept[..., :9], long[..., :9])
    with pytest.raises(CodeError, match="3 rows"):
        model.sample_codes(cond, [1, 2], shape=(4, 5))


@pytest.mark.parametrize("wrong,said", [
    (dict(cond=torch.tensor([3])), "knows 0 to 2"), (dict(cond=torch.tensor([[0.5, 0.5]])), "shares of 2"),
    (dict(cond=torch.tensor([0, 1])), "2 conditions for 1"), (dict(cond=Conditions(features=torch.zeros(1, 9, 5))), "reads 6"),
    (dict(cond=Conditions(features=torch.zeros(1, 1, 6))), "tile_features"), (dict(init=torch.zeros(1, 3, 4).long()), "draws maps")])
def test_what_cannot_be_meant_is_refused(wrong, said):
    with pytest.raises(CodeError, match=said):
        network("both").sample_codes(**dict(cond=None, seeds=[0]) | wrong)


@pytest.mark.parametrize("codes,said", [
    (torch.zeros(1, 3, 4).long(), "expected"), (torch.zeros(1, 3, 5), "float32"), (torch.full((1, 3, 5), 7), "0 ?.*7|from 7 to 7")])
def test_wrong_codes_are_refused(codes, said):
    with pytest.raises(CodeError, match=said):
        network()(codes)


# ---- in rounds ----


@pytest.mark.parametrize("kind", ["class", "slope", "published"])
def test_parallel_drawing(kind):
    model, cond = network(kind, ParallelTransformer), asked(4)
    shape = model.config.code_shape
    drawn = model.sample_codes(cond, [1, 2, 3, 4], steps=4, guidance=2.0)
    assert drawn.shape == (4, *shape) and 0 <= drawn.min() and drawn.max() < 7
    assert torch.equal(model.sample_codes(cond[2], [3], steps=4, guidance=2.0)[0], drawn[2])
    mask = torch.zeros(4, *shape[-2:], dtype=torch.bool)
    mask[0, 0, 1], mask[1, :, 2:] = True, True  # holes of different sizes
    filled = model.sample_codes(cond, [5, 6, 7, 8], init=drawn, mask=mask, steps=3)
    full = mask if len(shape) == 2 else mask[:, None].expand_as(drawn)
    assert torch.equal(filled[~full], drawn[~full]) and filled.max() < 7
    assert torch.equal(model.sample_codes(cond[1], [6], init=drawn[1], mask=mask[1], steps=3)[0], filled[1])
    assert model.sample_codes(cond, [1, 2, 3, 4], shape=(shape[-2], 11), steps=2).shape[-1] == 11


def test_what_is_hidden_is_seen_from_both_sides():
    model = network("class", ParallelTransformer)
    codes = torch.randint(0, 7, (1, 3, 5))
    codes[0, 1, 2] = 7
    for at in ((0, 0), (2, 4)):
        other = codes.clone()
        other[0][at] = (other[0][at] + 1) % 7
        with torch.no_grad():
            assert not torch.allclose(model(codes)[0, :, 1, 2], model(other)[0, :, 1, 2])


# ---- training ----


def table(features=None):
    df = pd.DataFrame(dict(label=["rain", "footstep"] * 6))
    codes = CodeTable(torch.randint(7, (12, 3, 5), generator=torch.Generator().manual_seed(0)), df, 7, "", 0.5, valid_idx=[10, 11])
    return codes if features is None else with_features(codes, features)


TINY = {"model.width": 16, "model.n_layers": 1, "model.n_heads": 2, "device": "cpu", "batch_size": 4}


def test_the_weights_of_the_best_validation_are_kept(tmp_path):
    recipe = TransformerRecipe.preset("quick-transformer").override(TINY, steps=80, epoch_steps=8, lr=2e-2, ema=0.5, **{"model.dropout": 0.0})
    best, last = (recipe.override(best=b).train(table(), tmp_path / str(b), progress=False) for b in (True, False))
    loss = lambda model: torch.nn.functional.cross_entropy(model(table().codes[10:], table().conditions[10:]), table().codes[10:]).item()
    with torch.no_grad():
        history = pd.read_csv(tmp_path / "True" / "history.csv")
        assert abs(loss(best) - history.valid_loss.min()) < 1e-4 < loss(last) - loss(best)


def test_only_matrices_of_the_blocks_are_pulled(tmp_path):
    learn = TransformerRecipe.preset("quick-transformer").override(TINY).learner(table())
    learn.create_opt()
    groups = learn.opt.opt.param_groups
    names = {p: n for n, p in learn.model.named_parameters()}
    assert {names[p] for p in groups[0]["params"]} == decayed(learn.model) and groups[1]["weight_decay"] == 0
    assert sum(len(g["params"]) for g in groups) == len(names)


def test_features_must_be_there():
    recipe = TransformerRecipe.preset("quick-transformer").override(TINY, **{"model.condition": "both"})
    with pytest.raises(CodeError, match="with_features"):
        recipe.learner(table())
    assert recipe.learner(table(torch.rand(12, 6, 9))).model.config.feature_dim == 9


# ---- films ----


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "2 s, dark then bright, 40 x 64 pixels"
    frames = torch.full((50, 40, 64, 3), 20, dtype=torch.uint8)
    frames[25:] = 220
    av, path = pytest.importorskip("av"), tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 40, 64, "yuv420p", 2_000_000
        for x in [*frames, None]:
            film.mux(stream.encode(None if x is None else av.VideoFrame.from_ndarray(x.numpy(), format="rgb24")))
    return path


@pytest.fixture(scope="module")
def follower(tmp_path_factory):
    "A cascade asked by 16 numbers a picture, in a folder"
    torch.manual_seed(0)
    book = VQVAE(VQVAEConfig(width=8, res_blocks=1, res_width=8, dim=8, n_codes=8)).eval()
    shape = book.code_shape(86)
    prior = network("features", code_shape=shape, n_codes=8, n_classes=1, feature_dim=16, codebook_hash=book.codebook_hash)
    model = Cascade(prior, book, labels=["film"], seconds=1.0)
    folder = tmp_path_factory.mktemp("follower")
    model.save_pretrained(folder)
    return model, folder


def test_pictures_are_those_seen_at_their_times(film):
    x = read_frames(film)
    assert x.shape == (43, 224, 224, 3) and x.dtype == torch.uint8
    bright = x.float().mean((1, 2, 3)) > 120
    assert not bright[:22].any() and bright[22:].all()  # 22 / 21.5 > 1 s
    assert read_frames(film, fps=5, seconds=1).shape[0] == 5
    assert video_features(film, seconds=3.0).shape == (64, 16) and torch.equal(video_features(film, seconds=3.0)[43:], video_features(film)[:21])


def test_films_that_cannot_be_read(film, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(film.read_bytes()[:300])
    (tmp_path / "text.mp4").write_text("no film")
    for name in ("bad.mp4", "text.mp4", "nowhere.mp4"):
        with pytest.raises(VideoError, match=name):
            read_frames(tmp_path / name)
    with pytest.raises(ValueError, match="give rows"):
        tile_features(torch.zeros(0, 4), 3)


@pytest.mark.parametrize("name", ["file:x.mp4", "concat:x.mp4", "http:x.mp4", "pipe:0.mp4", "subfile,,start,0,end,9,,:x.mp4", "tcp:x.mp4", "a|b%03d.mp4"])
def test_films_whose_names_look_like_protocols(film, follower, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(film.read_bytes())
    assert film_seconds(name) == film_seconds(film) and torch.equal(read_frames(name), read_frames(film))
    dub(follower[0], name, f"dubbed {name}", seconds=0.5, seed=1, progress=False)
    assert len(read_frames(f"dubbed {name}")) == 43


def test_nothing_but_files_is_opened(film, follower, tmp_path, capsys):
    "Neither a name nor what is written in a file leads elsewhere"
    import http.server
    import threading

    asked, root = [], tmp_path / "www"
    root.mkdir()
    (root / "film.mp4").write_bytes(film.read_bytes())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory=str(root))
        def log_message(self, *_): asked.append(self.path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    for name in (f"http://127.0.0.1:{port}/film.mp4", f"tcp://127.0.0.1:{port}", f"concat:{film}|{film}", f"file:{film}", "/dev/zero"):
        for read in (read_frames, film_seconds):
            with pytest.raises(VideoError, match="no such film"):
                read(name)
    for target in (f"http://127.0.0.1:{port}/film.mp4", str(root / "film.mp4"), "film.mp4"):
        for name, text in dict(hls=f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
                               concat=f"ffconcat version 1.0\nfile '{target}'\nduration 2\n",
                               dash=f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
                                    f'<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>',
                               sdp=f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n").items():
            (root / f"{name}.mp4").write_text(text)
            with pytest.raises(VideoError):
                read_frames(root / f"{name}.mp4")
    server.shutdown()
    assert not asked
    assert main(["sample", str(follower[1]), "--video", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "x.mp4")]) == 1
    assert "none.mp4: no such film" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e9, 0, -1])
def test_lengths_that_no_film_has(film, follower, tmp_path, seconds):
    with pytest.raises(ValueError, match="give a length above 0 and up to an hour"):
        dub(follower[0], film, tmp_path / "x.mp4", seconds=seconds, progress=False)
    assert not (tmp_path / "x.mp4").exists()


def test_a_model_that_cannot_watch_says_so(follower):
    blind = Cascade(network(code_shape=follower[0].prior.config.code_shape, n_codes=8), follower[0].codebook)
    with pytest.raises(ValueError, match="cannot watch films: it is asked by .*not by features"):
        find_eye(blind)


def test_resnet_eye_reads_torchvisions_weights_only(tmp_path):
    eye = ResNetEye("random")
    full = dict(eye.net.state_dict(), **{"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)})
    torch.save(full, tmp_path / "resnet50.pth")
    again, x = ResNetEye(tmp_path / "resnet50.pth"), torch.randint(255, (1, 224, 224, 3), dtype=torch.uint8)
    assert torch.equal(eye(x), again(x)) and eye(x).shape == (1, 2048)
    full.pop("conv1.weight")
    torch.save(full, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match="conv1.weight"):
        ResNetEye(tmp_path / "less.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(CheckpointError):
        ResNetEye(tmp_path / "code.pth")
    with pytest.raises(ValueError, match="16"):
        find_eye(network("features", feature_dim=16), "random")


def test_dubbing(film, follower, tmp_path, capsys):
    import av

    model, folder = follower
    args = ["sample", str(folder), "--video", str(film), "--out", str(tmp_path / "dubbed.mp4")]
    assert main([*args, "--quiet"]) == 0
    with av.open(str(tmp_path / "dubbed.mp4")) as dubbed:
        kinds = {s.type: float(s.duration * s.time_base) for s in dubbed.streams}
        assert len([*dubbed.decode(video=0)]) == 50
    assert abs(kinds["video"] - 2) < 0.05 and abs(kinds["audio"] - 2) < 0.05
    sounds = dub(model, film, tmp_path / "again.mp4", seed=1, progress=False)
    assert sounds.audio.shape == (1, 1, 2 * 44100) and sounds.audio[..., -4000:].abs().max() > 0
    assert torch.equal(sounds.audio[..., :11025], dub(model, film, tmp_path / "b.mp4", seed=1, progress=False).audio[..., :11025])
    assert main([*args[:4], "--out", str(tmp_path / "x.wav"), "--quiet"]) != 0 and "dubbed.mp4" in capsys.readouterr().err
    assert main([*args, "--loop", "--quiet"]) != 0
    with pytest.raises(ValueError, match="features"):
        dub(Cascade(network(code_shape=model.prior.config.code_shape, n_codes=8), model.codebook), film, tmp_path / "c.mp4")


def test_shares_of_a_set_make_the_same_sounds(follower, tmp_path, monkeypatch):
    model, cond = follower[0], Conditions(label=[0, 0, 0], features=torch.rand(3, 8, 16))
    model.asks = model.asks | {"label"}
    names, options = ["a", "b", "c"], dict(takes=2, seconds=0.3)
    one = sample_takes(model, cond, names, tmp_path / "one", batch=4, **options)
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank)), monkeypatch.setenv("WORLD_SIZE", "2")
        sample_takes(model, cond, names, tmp_path / "two", batch=1, **options)
    assert sorted(f.name for f in one) == sorted(f"{n}_sample_{i}.wav" for n in names for i in (0, 1))
    for file in one:
        assert np.allclose(read_audio(file)[0], read_audio(tmp_path / "two" / "cls_0" / file.name)[0], atol=1e-4)
    assert json.loads((tmp_path / "two" / "sampling.json").read_text())["takes"] == 2
    assert sample_takes(model, cond, names, tmp_path / "two", **options) == []
    with pytest.raises(ValueError, match="each its own"):
        sample_takes(model, cond, ["a", "a", "b"], tmp_path / "x")
    files = sample_takes(model, cond, names, tmp_path / "by", pattern="{clip}/{take}.wav", seconds=0.3)
    assert {str(f.relative_to(tmp_path / "by")) for f in files} < {f"{n}/0.wav" for n in names} | {""}


# ---- published files ----


def published(**changes):
    "Weights as the original project names them"
    model = network("published", condition="features", **changes)
    sd = {}
    for k, v in model.state_dict().items():
        if "qkv" in k:
            sd |= {f"transformer.{k.replace('qkv', n)}": p for n, p in zip(("query", "key", "value"), v.chunk(3))}
        else:
            new = {"place.table": "pos_emb", "tokens.weight": "tok_emb.weight", "prefix.features.weight": "embedder.weight",
                   "prefix.features.bias": "embedder.bias"}.get(k, k)
            sd[f"transformer.{new}"] = v[None] if k == "place.table" else v[..., None] if "features.weight" in k else v
    return model, sd | {"first_stage_model.quant_conv.bias": torch.ones(2), "first_stage_permuter.forward_shuffle_idx": model.steps.order}


def test_published_files(tmp_path):
    model, sd = published()
    loaded = CodeGPT.from_original(sd, n_heads=2)
    assert loaded.config.code_shape == (3, 5) and loaded.config.feature_rows == 2
    codes = torch.randint(0, 7, (2, 3, 5))
    with torch.no_grad():
        assert torch.equal(loaded(codes, asked(2)), model(codes, asked(2)))
    assert list(first_stage(sd)) == ["quant_conv.bias"]
    for gone in ("transformer.blocks.1.attn.key.weight", "transformer.head.weight"):
        with pytest.raises(CheckpointError, match="missing"):
            CodeGPT.from_original({k: v for k, v in sd.items() if k != gone}, n_heads=2)
    with pytest.raises(CheckpointError, match="surplus"):
        CodeGPT.from_original(sd | {"transformer.extra": torch.zeros(1)}, n_heads=2)
    with pytest.raises(CheckpointError, match="no SpecVQGAN transformer"):
        CodeGPT.from_original({"a": torch.zeros(1)})


def test_saved_and_loaded(tmp_path):
    for cls in (CodeGPT, ParallelTransformer):
        model = network("slope", cls)
        again = cls.from_pretrained(model.save_pretrained(tmp_path / cls.__name__))
        assert torch.equal(again.sample_codes(asked(2), [1, 2]), model.sample_codes(asked(2), [1, 2]))
