"Adapting: files of differences, what `adapt` learns, exact resume, bad input"
import copy
import json
import math
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import foleybook as fb
from foleybook.apps.cli import main
from foleybook.audio_features import log_mel
from foleybook.core.clip_tables import ClipTable
from foleybook.core.feature_cache import MelCache
from foleybook.core.files import CheckpointError, TableError, read_safetensors, write_safetensors
from foleybook.core.generator import Conditions, Pretrained
from foleybook.core.low_rank import LowRank, differences, open_differences, put_on, weights_digest, with_adapters
from foleybook.core.settings import SettingsError
from foleybook.core.sound_files import read_audio, write_audio
from foleybook.core.sounds import Sounds
from foleybook.sound_data import procedural_sound
from foleybook.spectrogram_diffusion import FlowConfig, FlowTransformer, LatentDiffusion, LatentDiffusionConfig, MelVAE, MelVAEConfig
from foleybook.train.adapters import (
    METHODS, AdaptRecipe, Ears, adapt, clips_to_learn, fresh_differences, lengths_told, nearest_kinds, nearness, shifted_distance)

RATE = 22050
SMALL = dict(steps=4, epoch_steps=2, batch_size=4, embedder="", precision="float32", listen_steps=2, listen_sounds=2)


def small_base(second=False):
    "A painter with random weights; `second` has what the second edition has: tokens, near columns, hints, a level"
    torch.manual_seed(0)
    x = torch.randn(6, 128, 64).cumsum(-1) * 0.1 - 5
    vae = MelVAE(MelVAEConfig(channels=8, width=16, hidden=16, depth=1)).fit(x)
    more = dict(tokens=2, near=3, hints=4, level=vae.time_stride, base=200.0) if second else {}
    backbone = FlowTransformer(FlowConfig(channels=8, width=16, heads=2, depth=2, columns=12, n_classes=2, latents=vae.latents_hash, **more))
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=chance))
    model = LatentDiffusion(LatentDiffusionConfig(("rain", "dog"), seconds=0.5, steps=3, griffin_lim=2), vae, backbone).eval()
    model.card = dict(licence="CC0-1.0")
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["first", "second"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "painter"
    small_base(request.param).save_pretrained(folder, bits=8)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "painter"
    small_base().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    "Two kinds, three clips each: short, long, stereo, other rates"
    home = tmp_path_factory.mktemp("sounds") / "mine"
    for k, (kind, seconds, rate, channels) in enumerate([("knock", .1, 8000, 1), ("knock", .4, 96000, 2), ("knock", .9, 44100, 1),
                                                         ("bird", .3, 22050, 1), ("bird", .5, 48000, 2), ("bird", .7, 22050, 1)]):
        (home / kind).mkdir(parents=True, exist_ok=True)
        x = torch.randn(channels, round(seconds * rate), generator=torch.Generator().manual_seed(k)) * .1
        write_audio(home / kind / f"{k}.wav", x, rate)
    return home


@pytest.fixture(scope="module")
def adapted(first, sounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "mine"
    return out, adapt(str(first), sounds, out, progress=False, **SMALL)


def drawn(model, label="rain", **asked):
    return model.sample(label, n=2, seed=3, progress=False, **asked).audio


# ---- files of differences ----


def random_differences(model, labels=("crow",), base="", seed=0, method="lora"):
    own = fresh_differences(model, list(labels), method, base=base, rank=2)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in own.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=chance))
    return own.rounded()


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("second", [False, True])
def test_added_to_the_weights_or_beside_them_is_the_same(second, method):
    model = small_base(second)
    own = random_differences(model, ("crow", "rain"), method=method)
    on, x, t = put_on(model, (own, 1.0)), torch.randn(3, 8, 1, 9), torch.tensor([100.0, 500.0, 900.0])
    asked = Conditions(label=[2, 0, -1])
    with torch.no_grad():
        beside = copy.deepcopy(own).attach(model).eval()(x, t, asked)
        added, alone = on.backbone(x, t, asked), model.backbone(x, t, Conditions(label=[0, 0, -1]))
    assert torch.allclose(beside, added, atol=1e-4) and not torch.allclose(added, alone, atol=1e-2)
    assert on.labels == ["rain", "dog", "crow"] and model.labels == ["rain", "dog"]


def test_strength_0_is_the_base_bit_for_bit(first, adapted):
    out, _ = adapted
    alone = fb.load(str(first))
    for none in ([(out, 0)], [f"{out}:0"], {out: 0.0}):
        model = fb.load(str(first), adapters=none)
        assert model.labels == alone.labels and all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), alone.state_dict().values()))
        assert torch.equal(drawn(model), drawn(alone))


def test_lengths_and_directions_row_by_row(base):
    "DoRA: each row is turned by the factors, then has the length it had, longer by what was learned; of a base in 8 bits as well"
    model = fb.load(str(base))
    own = random_differences(model, method="dora")
    after, before = (m.state_dict() for m in (put_on(model, (own, 1.0)).backbone, model.backbone))
    for name in own.config.factors:
        up, down, longer = (table[name.replace(".", "/")].detach() for table in (own.up, own.down, own.longer))
        for k, row in enumerate(before[name]):
            turned = torch.stack([row[j] + sum(up[k, r] * down[r, j] for r in range(2)) for j in range(len(row))])
            want = turned / turned.norm() * row.norm() * (1 + longer[k])
            assert torch.allclose(after[name][k], want, atol=1e-5), (name, k)
        assert not torch.allclose(after[name].norm(dim=1), before[name].norm(dim=1), rtol=1e-2)


def test_dora_begins_at_the_base_and_learns_lengths():
    model = small_base()
    own = fresh_differences(model, ["crow"], "dora", rank=2)
    x, t, asked = torch.randn(3, 8, 1, 9), torch.tensor([100.0, 500.0, 900.0]), Conditions(label=[0, 1, -1])
    said = own.attach(model).eval()(x, t, asked)
    assert torch.allclose(said, model.backbone(x, t, asked), atol=1e-5)
    assert sum(p.numel() for p in own.longer.values()) == sum(s[0] for s in own.config.factors.values())
    said.square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in (*own.longer.values(), *own.up.values()))


def test_dora_as_a_slider_and_beside_others(first):
    "The change of weights is what is put on: half of it at half strength, sums of several in any order, 0 nothing"
    model = small_base()
    turned, thin = random_differences(model, ("crow",), method="dora"), random_differences(model, ("owl",), seed=1)
    other = random_differences(model, ("siren",), seed=2, method="dora")
    weights = lambda *on: {k: v for k, v in put_on(model, *on).backbone.state_dict().items() if k in turned.config.factors}
    alone = weights()
    assert put_on(model, (turned, 0), (other, 0.0)) is model
    change = {k: v - alone[k] for k, v in weights((turned, 1.0)).items()}
    for strength in (1e-3, 0.5, 1.0, 1.5, -1.0):
        assert all(torch.allclose(v, alone[k] + strength * change[k], atol=1e-5) for k, v in weights((turned, strength)).items())
    parts = dict(turned=(turned, 0.7), thin=(thin, 1.0), other=(other, 0.4))
    want = {k: alone[k] + sum(weights(on)[k] - alone[k] for on in parts.values()) for k in alone}
    for order in (("turned", "thin", "other"), ("other", "thin", "turned"), ("thin", "other", "turned")):
        assert all(torch.allclose(v, want[k], atol=1e-5) for k, v in weights(*(parts[name] for name in order)).items()), order


@pytest.mark.parametrize("change,told", [
    ({"blocks.0.qkv.weight": 5}, "has 5 lengths for blocks.0.qkv.weight, its factors not"),
    ({"leave.weight": 8}, "has 8 lengths for leave.weight, its factors not")])
def test_lengths_that_fit_no_factors(change, told):
    model = small_base()
    own = random_differences(model, method="dora")
    own.config.lengths = own.config.lengths | change
    with pytest.raises(CheckpointError, match=told):
        put_on(model, (LowRank(own.config), 1.0))


def test_guidance_leads_away_from_the_base(first):
    model = fb.load(str(first))
    own = fresh_differences(model, ["crow"], rank=2, null="base")
    with torch.no_grad():
        for p in own.parameters():
            p.normal_(std=0.2)
    away, plain = put_on(model, (own, 1.0)), copy.deepcopy(own)
    plain.config.sampling = {}
    plain = put_on(model, (plain, 1.0))
    assert torch.equal(drawn(away, "crow", guidance=0.0), drawn(model, "rain", guidance=0.0))  # asked by nothing: the base
    assert torch.equal(drawn(away, "crow", guidance=1.0), drawn(plain, "crow", guidance=1.0))  # without guidance: the adapted one
    assert not torch.equal(drawn(away, "crow"), drawn(plain, "crow"))
    mixed = dict(label={"crow": 0.5, "rain": 0.5}, guidance=2.0)
    assert torch.isfinite(drawn(away, **mixed)).all()
    assert torch.allclose(drawn(away, "crow", seconds=1.5), drawn(away, "crow", seconds=1.5))  # several windows


def test_guidance_leads_away_from_half_of_the_change(first):
    "A new kind and a known one in one batch, alone and mixed: each led away from its own side"
    model = fb.load(str(first))
    own = random_differences(model, ("crow",))
    own.config.sampling = dict(null="half")
    on = put_on(model, (own, 1.0))
    plain = copy.deepcopy(own)
    plain.config.sampling = {}
    whole, half = (put_on(model, (plain, s)).backbone for s in (1.0, 0.5))
    x, t = torch.randn(4, *model.vae.encode(torch.zeros(1, model.mel.n_mels, 16)).shape[1:3], 4), torch.full((4,), 500.0)
    cond = Conditions(label=[2, 0, 2, 1])
    with torch.no_grad():
        said = on.predictor(cond, 3.0)(x, t)
        asked = torch.where(torch.tensor([1, 0, 1, 0]).bool().view(-1, 1, 1, 1), whole(x, t, cond), model.backbone(x, t, Conditions(label=[0, 0, 0, 1])))
        nothing = Conditions(label=[-1] * 4)
        away = torch.where(torch.tensor([1, 0, 1, 0]).bool().view(-1, 1, 1, 1), half(x, t, nothing), model.backbone(x, t, nothing))
        torch.testing.assert_close(said, away + 3 * (asked - away), atol=1e-5, rtol=1e-4)
        mixed = Conditions(shares=[[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
        said, far = on.predictor(mixed, 3.0)(x[:2], t[:2]), torch.zeros(2, 3)
        whole, half, base = whole(x[:2], t[:2], mixed), half(x[:2], t[:2], Conditions(shares=far)), model.backbone(x[:2], t[:2], Conditions(shares=far[:, :2]))
        known = model.backbone(x[:2], t[:2], Conditions(shares=mixed.shares[:, :2]))
        torch.testing.assert_close(said[0], (half + 3 * (whole - half))[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(said[1], (base + 3 * (known - base))[1], atol=1e-5, rtol=1e-4)
    assert torch.equal(drawn(on, "crow", guidance=0.0), drawn(model, "rain", guidance=0.0))  # asked by nothing: the base
    before = copy.deepcopy(own)
    before.config = replace(own.config, labels=("owl",), sampling=dict(null="base"))
    both = [put_on(model, *pairs) for pairs in (((own, 1.0), (before, 0.5)), ((before, 0.5), (own, 1.0)))]
    torch.testing.assert_close(drawn(both[0], "crow"), drawn(both[1], "crow"), atol=1e-4, rtol=1e-3)  # in any order


@pytest.mark.parametrize("null", ["base", "half"])
def test_old_kinds_stay_the_base_bit_for_bit(first, null):
    "At full strength, whatever was learned: the base answers for the kinds it knew, alone or mixed, followed or lengthened"
    model = fb.load(str(first))
    own = random_differences(model, ("crow",))
    own.config.sampling = dict(null=null)
    on = put_on(model, (own, 1.0))
    for asked in (dict(label="rain"), dict(label={"rain": 0.3, "dog": 0.7}), dict(label="dog", seconds=1.5), dict(label=["rain", "dog"], guidance=2.0)):
        assert torch.equal(drawn(on, **asked), drawn(model, **asked)), asked
    new = drawn(on, "crow")
    assert torch.isfinite(new).all() and not any(torch.equal(new, drawn(model, l)) for l in model.labels)
    assert not torch.equal(drawn(on, {"crow": 0.5, "rain": 0.5}), drawn(model, "rain"))
    own.config.labels = ("rain",)  # one that is improved is answered anew, the other one not
    better = put_on(model, (own, 1.0))
    assert better.labels == model.labels and torch.equal(drawn(better, "dog"), drawn(model, "dog"))
    assert not torch.equal(drawn(better, "rain"), drawn(model, "rain"))


def test_strength_is_a_slider(first, adapted):
    out, whole = adapted
    half, full = fb.load(str(first), adapters=f"{out}:0.5"), fb.load(str(first), adapters=[out])
    assert torch.equal(drawn(full, "bird"), drawn(whole, "bird")) and torch.equal(drawn(fb.load(str(out)), "bird"), drawn(whole, "bird"))
    weights = [m.backbone.adapted if m is not base else m.backbone for base in [fb.load(str(first))] for m in (base, half, full)]
    a, b, c = (w.state_dict()["blocks.0.qkv.weight"] for w in weights)
    assert torch.allclose(b - a, (c - a) / 2, atol=1e-6) and not torch.equal(a, c)


def test_several_adapters_do_not_ask_for_an_order(first, tmp_path):
    model = fb.load(str(first))
    for k, label in enumerate(("crow", "siren")):
        random_differences(model, (label,), str(first), k).save_pretrained(tmp_path / label)
    one, other = (fb.load(str(first), adapters=[tmp_path / a, (tmp_path / b, 0.7)]) for a, b in (("crow", "siren"), ("crow", "siren")))
    assert one.labels == ["rain", "dog", "crow", "siren"]
    assert torch.equal(drawn(one, "siren"), drawn(other, "siren"))
    assert "crow" in one.licence and "CC0-1.0" in one.licence


def test_two_adapters_with_one_class(first, tmp_path):
    model = fb.load(str(first))
    for k in "ab":
        random_differences(model, ("crow",), str(first)).save_pretrained(tmp_path / k)
    with pytest.raises(CheckpointError, match="both bring the class 'crow'.*another name"):
        fb.load(str(first), adapters=[tmp_path / "a", tmp_path / "b"])


def test_an_adapter_of_another_base(first, tmp_path):
    model = fb.load(str(first))
    own = random_differences(model, base=str(first))
    own.save_pretrained(tmp_path / "own")
    other = small_base()
    with torch.no_grad():
        other.backbone.leave.bias.add_(1e-3)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'own'}: belongs to .* with weights {own.config.belongs}"):
        fb.load(str(tmp_path / "other"), adapters=[tmp_path / "own"])


@pytest.mark.parametrize("change,told", [
    (dict(rank=3), "other shape"), (dict(factors={"blocks.0.qkv.weight": [8, 8]}), "surplus|other shape"),
    (dict(factors={"blocks.9.qkv.weight": [48, 16]}), "missing|surplus"), (dict(factors={"a": "b"}), "settings make no model"),
    (dict(rank=10**9), "more than weights of this size"), (dict(rank=-1), "settings make no model|other shape")])
def test_wrong_rank_or_shape(first, tmp_path, change, told):
    from foleybook.core.settings import config_hash, to_plain

    random_differences(fb.load(str(first))).save_pretrained(tmp_path / "own")
    file = tmp_path / "own" / "config.json"
    about = json.loads(file.read_text())
    about["config"] |= change
    about["config_hash"] = config_hash([about["model"], about["config"]])
    file.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=told):
        fb.load(str(first), adapters=[tmp_path / "own"])


def test_shapes_that_the_model_does_not_have(first, tmp_path):
    wide = small_base()
    wide.backbone = FlowTransformer(replace(wide.backbone.config, width=32))
    own = random_differences(wide)
    own.config.belongs = ""
    own.save_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointError, match=r"changes blocks.0.expand.weight of shape \(128, 32\), the model has \(64, 16\)"):
        fb.load(str(first), adapters=[tmp_path / "own"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(99), b"\x80\x04cos\nsystem\n", bytes(7) + b"\x7f" + bytes(99)])
def test_hostile_files(first, tmp_path, content):
    random_differences(fb.load(str(first))).save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or cut"):
        fb.load(str(first), adapters=[tmp_path / "own"])


def test_numbers_that_are_none(first, tmp_path):
    own = random_differences(fb.load(str(first)))
    with torch.no_grad():
        next(iter(own.up.values())).fill_(math.nan)
    own.save_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointError, match="NaN"):
        fb.load(str(first), adapters=[tmp_path / "own"])


def test_a_base_on_the_hub_is_not_asked_for(first, tmp_path):
    own = random_differences(fb.load(str(first)), base="hf://somebody/something")
    own.save_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointError, match="is not here. Give that model"):
        fb.load(str(tmp_path / "own"))
    assert fb.load(str(first), adapters=[tmp_path / "own"]).labels[-1] == "crow"


@pytest.mark.parametrize("given,told", [("nowhere", "no such folder"), (("x", math.nan), "strength nan"), (("x", "much"), "strength 'much'")])
def test_what_is_no_adapter(first, given, told):
    with pytest.raises((CheckpointError, ValueError), match=told):
        fb.load(str(first), adapters=[given])


def test_a_model_is_no_adapter(first):
    with pytest.raises(CheckpointError, match="holds no differences"):
        fb.load(str(first), adapters=[first])


def test_a_student_is_a_small_file_too(first, tmp_path):
    "Other weights of the same shape: at full rank exact, and it brings its way to sample"
    model, other = fb.load(str(first)), copy.deepcopy(fb.load(str(first)).backbone)
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    errors = []
    for rank in (1, 4, 7):
        own = differences(model, other, rank, str(first), sampling=dict(steps=2, guidance=1.0, sampler="ddim"))
        on = put_on(model, (own, 1.0))
        errors.append(sum((a - b).square().sum().item() for a, b in zip(on.backbone.state_dict().values(), other.state_dict().values())))
    assert errors[0] > errors[1] > errors[2]
    assert on.defaults == dict(steps=2, guidance=1.0, sampler="ddim", temperature=1.0) and on.config.steps == 2
    own.save_pretrained(tmp_path / "fast")
    assert fb.load(str(tmp_path / "fast")).defaults["steps"] == 2


# ---- learning ----


def test_what_is_learned_is_a_small_file_beside_a_model_that_stays(first, adapted):
    out, model = adapted
    names = {f.name for f in out.iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "page.html", "samples", "history.csv", "recipe.json"} <= names
    assert model.labels == ["rain", "dog", "bird", "knock"]
    card = (out / "README.md").read_text()
    assert "6 clips: bird, knock" in card and "licence" in card and "nearest clip" in card
    own = open_differences(out)
    assert own.config.belongs == weights_digest(fb.load(str(first))) and own.config.base == str(first)
    page = (out / "page.html").read_text()
    assert page.count("before: ") >= 6 and page.count("nearest clip: ") >= 6 and "<script" not in page
    assert model.sample("knock", seconds=0.5, seed=1, progress=False).labels == ["knock"]


@pytest.mark.parametrize("method", METHODS)
def test_methods(base, sounds, tmp_path, method):
    model = adapt(str(base), sounds, tmp_path / "out", progress=False, method=method, **SMALL | dict(steps=2))
    alone, own = fb.load(str(base)), open_differences(tmp_path / "out")
    changed = {k for k, v in alone.backbone.state_dict().items() if v.shape == (w := model.backbone.adapted.state_dict()[k]).shape and not torch.equal(v, w)}
    assert bool(changed) == (method != "rows")
    assert all(k.startswith("blocks.") and k.endswith(".weight") for k in changed) or method not in ("lora", "dora")
    assert not any(v.ndim > 1 and k.endswith(".weight") for k, v in alone.backbone.state_dict().items() if k in changed) or method in ("lora", "dora", "full")
    numbers = {m: sum(p.numel() for p in fresh_differences(alone, ["a"], m, 2).parameters()) for m in METHODS}
    assert numbers["rows"] < numbers["diffit"] < numbers["full"] and numbers["rows"] < numbers["lora"] < numbers["dora"]
    assert len(own.config.rows) == (2 if alone.backbone.tokens is not None else 1)
    assert own.card["method"] == method and own.config.labels == ("bird", "knock")
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["settings"]["lr"] == METHODS[method]  # each at a rate of its own
    none = fb.load(str(base), adapters=[f"{tmp_path / 'out'}:0"])
    assert torch.equal(drawn(none), drawn(alone)) and none.labels == alone.labels
    assert torch.equal(drawn(fb.load(str(base), adapters=[tmp_path / "out"])), drawn(alone))  # its old kinds, at full strength


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merged_is_a_whole_model(first, sounds, tmp_path, method):
    model = adapt(str(first), sounds, tmp_path / "out", progress=False, merge=True, method=method, **SMALL | dict(steps=2))
    whole = fb.load(str(tmp_path / "out" / "model"))
    assert torch.equal(drawn(whole, "bird", guidance=1.0), drawn(model, "bird", guidance=1.0)) and whole.labels == model.labels
    assert "bird" in whole.licence


def test_a_killed_run_goes_on_exactly(first, sounds, tmp_path, monkeypatch):
    asked = SMALL | dict(steps=6, checkpoint_steps=1, nearest=0.0)
    whole = adapt(str(first), sounds, tmp_path / "whole", progress=False, **asked)

    from foleybook.train import adapters

    told, count = adapters.Numbered.before_batch, [0]
    def cut(self):
        count[0] += self.training
        if count[0] == 4:
            raise KeyboardInterrupt
        told(self)
    monkeypatch.setattr(adapters.Numbered, "before_batch", cut)
    with pytest.raises(KeyboardInterrupt):
        adapt(str(first), sounds, tmp_path / "cut", progress=False, **asked)
    monkeypatch.setattr(adapters.Numbered, "before_batch", told)
    again = adapt(str(first), sounds, tmp_path / "cut", progress=False, **asked)
    for k, v in whole.backbone.state_dict().items():
        assert torch.equal(v, again.backbone.state_dict()[k]), k
    files = [read_safetensors(tmp_path / run / "model.safetensors") for run in ("whole", "cut")]
    assert all(torch.equal(v, files[1][k]) for k, v in files[0].items())
    with pytest.raises(CheckpointError, match="other settings"):
        adapt(str(first), sounds, tmp_path / "cut", progress=False, **asked | dict(lr=1e-4))


def test_an_existing_class_is_improved_only_if_that_is_said(first, sounds, tmp_path):
    home = tmp_path / "rain"
    home.mkdir()
    for f in (sounds / "knock").iterdir():
        (home / f.name).write_bytes(f.read_bytes())
    with pytest.raises(SettingsError, match="knows rain already. Say --improve.*--name"):
        adapt(str(first), home, tmp_path / "a", progress=False, **SMALL)
    better = adapt(str(first), home, tmp_path / "b", progress=False, improve=["rain"], **SMALL | dict(steps=2))
    assert better.labels == ["rain", "dog"] and not torch.equal(drawn(better), drawn(fb.load(str(first))))
    other = adapt(str(first), home, tmp_path / "c", progress=False, name="drizzle", **SMALL | dict(steps=2))
    assert other.labels == ["rain", "dog", "drizzle"]
    with pytest.raises(SettingsError, match="'snow' is no class of both"):
        adapt(str(first), home, tmp_path / "d", progress=False, improve=["snow"], **SMALL)


def test_too_near_to_the_clips_ends_the_training(first, sounds, tmp_path):
    adapt(str(first), sounds, tmp_path / "out", progress=False, **SMALL | dict(steps=8, nearest=1e6))
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert about["card"]["steps"] == 2  # at the first listening


def test_rows_begin_at_the_kind_that_explains_the_clips(first):
    model = fb.load(str(first))
    clips = torch.randn(3, 128, 64) - 5
    found = nearest_kinds(model, clips)
    assert [e for e, _ in found] == sorted(e for e, _ in found) and {l for _, l in found} == {"rain", "dog"}
    torch.randn(7)  # what was drawn in between changes nothing
    assert found == nearest_kinds(model, clips)
    with torch.no_grad():  # the class that stands for none explains them as well as it does
        model.backbone.classes.weight[1] = model.backbone.classes.weight[0]
    assert len({e for e, _ in nearest_kinds(model, clips)}) == 1


def test_one_recording_of_a_kind_is_no_reason_to_warn(sounds):
    "Recordings beside a base are one a kind: the listeners are fitted to what there is, without a word"
    table = clips_to_learn(sounds, 0.5)
    files = list(table.df.path)
    alone = ClipTable(dict(path=files, label=[f"kind {k}" for k in range(len(files))]), table.root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for which in ("second", "first"):
            ears = Ears(table, alone, embedder="")
            ears.networks["first"] = ears.networks["second"]
            assert ears.listener(which) is not None


def test_the_last_of_many_clips_is_looked_at(tmp_path):
    "What clips are from each other is told by forty of them; how near a sound is, by all"
    model, folder = small_base(), tmp_path / "mine" / "tone"
    folder.mkdir(parents=True)
    for k in range(44):
        write_audio(folder / f"{k:02}.wav", procedural_sound("footstep", 0.5, seed=k), RATE)
    write_audio(folder / "44.wav", torch.randn(1, RATE // 2, generator=torch.Generator().manual_seed(0)) * .1, RATE)
    table = clips_to_learn(tmp_path / "mine", 0.5)
    cache = MelCache.build(table, model.mel, 1.0, tmp_path / "cache", progress=False, fit="pad")
    made = Sounds(read_audio(table.files()[-1], model.sample_rate)[0][None], model.sample_rate, labels=["tone"])
    near, apart = nearness(AdaptRecipe(labels=("tone",), device="cpu").use(model), cache, made)
    far = shifted_distance(log_mel(made.audio.mean(1), model.mel), torch.from_numpy(np.array(cache.mels)).float())[0]
    assert int(far.argmin()) == 44 and near[0] == far[44] < far[:40].min() - 2 and 0 < apart[0] < 20


def test_a_shifted_copy_is_near():
    x = torch.full((3, 128, 80), -11.0)
    x[:, :, 20:40] = torch.randn(3, 128, 20) - 3
    moved = x.roll(16, -1)
    far = shifted_distance(moved, x)
    assert (far.diagonal() < 1).all() and (far[~torch.eye(3, dtype=bool)] > 3 * far.diagonal().max()).all()
    assert torch.allclose(shifted_distance(moved + 1.5, x).diagonal(), far.diagonal(), atol=.5)  # louder is no other sound


# ---- clips ----


def wave(file, seconds=0.5, level=0.1, rate=RATE):
    file.parent.mkdir(parents=True, exist_ok=True)
    write_audio(file, torch.randn(1, round(seconds * rate)) * level, rate)


def test_no_clip_can_be_used(tmp_path):
    for k in range(3):
        (tmp_path / "crow").mkdir(exist_ok=True)
        (tmp_path / "crow" / f"{k}.wav").write_bytes(b"RIFF")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TableError, match="none of 3 clips can be used; first: .*no audio"):
            clips_to_learn(tmp_path)


def test_all_clips_are_silent(tmp_path):
    for k in range(3):
        wave(tmp_path / "crow" / f"{k}.wav", level=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TableError, match="none of 3 clips can be used.*silent"):
            clips_to_learn(tmp_path)


def test_one_clip(tmp_path):
    wave(tmp_path / "crow" / "0.wav")
    with pytest.raises(TableError, match="crow has 1 usable clip, and 3 are needed.*edit --strength"):
        clips_to_learn(tmp_path / "crow")


def test_one_long_recording(tmp_path):
    wave(tmp_path / "crow.wav", 9.0)
    table = clips_to_learn(tmp_path / "crow.wav", seconds=1.0)
    assert len(table) >= 7 and table.labels == ["crow"] and set(table.df.source) == {"crow.wav"}
    clicks = torch.zeros(1, 9 * RATE)
    for k in range(5):
        clicks[:, k * RATE + 9000:][:, :2000] = torch.randn(2000) * .1
    write_audio(tmp_path / "clicks.wav", clicks, RATE)
    assert len(clips_to_learn(tmp_path / "clicks.wav", 1.0, "onsets")) == 5


def test_lengths_are_told(sounds):
    told = lengths_told(clips_to_learn(sounds, 0.5), 0.5)
    assert "bird: 3 clips of 0.3 to 0.7 s" in told and "padded with their own floor" in told and "cropped" in told
    assert "repeated" in lengths_told(clips_to_learn(sounds, 0.5), 0.5, "repeat")


@pytest.mark.parametrize("fit", ["pad", "repeat"])
def test_short_clips_are_not_repeated_unless_asked(first, sounds, tmp_path, fit):
    recipe = AdaptRecipe(base=str(first), labels=("bird", "knock"), shorter=fit, cache_dir=str(tmp_path), device="cpu")
    dls = recipe.dataloaders(clips_to_learn(sounds, 0.5))
    heard = [(m.max(0) > -10.9).mean() for m in np.asarray(dls.cache.mels)]
    assert (min(heard) > .9) == (fit == "repeat") and (min(heard) < .3) == (fit == "pad")


@pytest.mark.parametrize("asked,told", [(dict(method="lokr"), "method='lokr' is not known"), (dict(rank=0), "rank=0"),
                                        (dict(shorter="loop"), "shorter='loop'"), (dict(typo=1), "no field 'typo'")])
def test_settings(first, sounds, tmp_path, asked, told):
    with pytest.raises(SettingsError, match=told):
        adapt(str(first), sounds, tmp_path / "out", progress=False, **asked)


@pytest.mark.parametrize("model", ["foley-cascade", "pops", "vocoder"])
def test_what_cannot_be_adapted(sounds, tmp_path, model):
    with pytest.raises(SettingsError, match="cannot be adapted"):
        adapt(model, sounds, tmp_path / "out", progress=False)


# ---- the command ----


def test_the_command(first, sounds, tmp_path, capsys):
    small = [w for k, v in SMALL.items() if k != "steps" for w in ("--set", f"{k}={v}")]
    words = ["adapt", str(first), "--data", str(sounds), "--out", str(tmp_path / "mine"), "--steps", "2", "--device", "cpu", *small]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "knock: 3 clips" in said and "each other" in said and "--adapter" in said and "MB" in said
    asked = ["sample", str(first), "--adapter", f"{tmp_path / 'mine'}:0.5", "--class", "knock", "-n", "1", "--out", str(tmp_path / "s")]
    assert main([*asked, "--quiet"]) == 0 and len(list((tmp_path / "s").glob("knock_*.wav"))) == 1
    clip = next((sounds / "bird").iterdir())
    assert main(["edit", str(first), str(clip), "--adapter", str(tmp_path / "mine"), "--class", "bird", "--strength", "0.5", "--out",
                 str(tmp_path / "e.wav"), "--quiet"]) == 0
    assert main(["adapt", str(first)]) == 1 and "needs --data" in capsys.readouterr().err
    assert main(["adapt", str(first), "--data", str(sounds), "--slice", "thin"]) == 1
    assert "--slice thin is not allowed" in capsys.readouterr().err


@pytest.fixture(scope="module")
def learned(first, tmp_path_factory):
    "A file of differences that brings crows"
    own = random_differences(fb.load(str(first)), ("crow",), str(first))
    own.config.sampling = dict(null="base")
    return own.save_pretrained(tmp_path_factory.mktemp("learned") / "crow")


def test_verbs_that_take_adapters(first, learned, sounds, tmp_path, capsys):
    clip, on = str(next((sounds / "bird").iterdir())), ["--adapter", str(learned), "--quiet"]
    assert main(["restyle", str(first), clip, "--class", "crow", "--steps", "2", "--out", str(tmp_path / "r.wav"), *on]) == 0
    assert (tmp_path / "r.wav").is_file()
    assert main(["morph", str(first), clip, clip, "-n", "2", "--class", "crow", "--steps", "2", "--out", str(tmp_path / "m"), *on]) == 0
    assert len(list((tmp_path / "m").glob("*.wav"))) == 2
    assert main(["restyle", str(first), clip, "--class", "crow", "--out", str(tmp_path / "n.wav")]) == 1  # without it
    assert "no class of" in capsys.readouterr().err


def test_a_studio_with_an_adapter(first, learned, monkeypatch):
    from foleybook.apps import serve

    seen = []
    def studio(model, *given):
        seen.append((model.labels, model.backend))
        raise KeyboardInterrupt  # as somebody who closes it at once
    monkeypatch.setattr(serve, "Studio", studio)
    monkeypatch.setattr("foleybook.core.on_device.shutil.which", lambda name: name)  # a compiler, whether there is one or not
    assert main(["serve", str(first), "--adapter", f"{learned}:0.5", "--quiet"]) == 0
    assert main(["serve", str(first), "--compile", "--quiet"]) == 0
    assert seen == [(["rain", "dog", "crow"], None), (["rain", "dog"], "inductor")]


def test_verbs_that_do_not(first, learned, tmp_path, capsys):
    for words in (["export", str(first), "--adapter", str(learned)], ["export", str(learned)]):
        assert main([*words, "--out", str(tmp_path / "x.onnx")]) == 1
        assert "adapt ... --merge`, and export OUT/model" in capsys.readouterr().err
    assert main(["export", "default", "--adapter", str(learned)]) == 1
    assert "default is a vocoder" in capsys.readouterr().err
    assert main(["gallery", str(tmp_path), "--adapter", str(learned)]) == 1
    assert "it is for --edits" in capsys.readouterr().err
