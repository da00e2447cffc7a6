"""The audio tier: asked by controls, streamed, never moved, read from published files without running code."""
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from chromium import CHROMIUM, NEEDS, Browser

from foleybook import multitier_rnn
from foleybook.core.sounds import SamplingError
from foleybook.apps.cli import load_generator
from foleybook.core.data_sets import open_dataset
from foleybook.core.files import CheckpointError
from foleybook.core.generator import Conditions, Pretrained
from foleybook.core.randomness import mix_seed
from foleybook.apps.live import LivePlayer
from foleybook.published.mtcrnn import PublishedTier, PublishedTierConfig, published_loss
from foleybook.core.noise_bands import BANDS, noise_in_bands, noise_levels
from foleybook.core.textures import BandTier, BandTierConfig, NoiseTier, heard_in_levels
from foleybook.core.tiers import ParamOut
from foleybook.core.control_tracks import (
    Gesture, Tracks, extract_tracks, follow_row, glide, onset_samples, steps, vibrato, wander)
from foleybook.multitier_rnn import (
    AudioTier, AudioTierConfig, ParamTier, ParamTierConfig, Tier, TierStack, TierStackConfig, generate,
    generate_plain, gru_over_time, param_loss)
from foleybook.train import multitier_rnn as tier_recipes
from foleybook.train.multitier_rnn import AudioTierRecipe, TierStackRecipe
from foleybook.core.settings import SettingsError
from foleybook.core.clip_tables import write_params
from foleybook.core.files import TableError
from foleybook.core.feature_cache import WaveCache
from foleybook.sound_data import make_procedural, procedural_sound

KINDS = {"gru": {}, "wide": dict(wide_input=True), "phased": dict(phased=True), "one-hot": dict(input_size=256)}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def tier(request):
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, n_layers=2, cond_size=2, sample_rate=4000, controls=("rate", "pitch"))
    return AudioTier(AudioTierConfig(**sizes, **request.param)).eval()


def test_stream_is_the_whole(tier):
    asked = dict(controls=dict(rate=[0.0, 1.0], pitch=0.3), n=2, seconds=0.05, seed=3)
    whole = tier.sample(**asked).audio
    for block in (0.007, 0.05, 1.0):
        assert torch.equal(torch.cat([s.audio for s in tier.stream(block=block, **asked)], -1), whole)
    assert whole.shape == (2, 1, 200)


def test_greedy_is_the_limit_of_cold(tier):
    row = torch.zeros(1, 1, tier.input.in_features)
    controls, u = torch.rand(1, 60, 2), torch.rand(60, 1, dtype=torch.float64)
    cold, _ = generate(tier, row, controls, u, 1e-6)
    for draw in (generate, generate_plain):
        assert torch.equal(draw(tier, row, controls, None, 0)[0], cold)


def test_generating_does_not_move_the_model(tier, monkeypatch):
    def moved(*_, **__):
        raise AssertionError("the model was moved")

    monkeypatch.setattr(torch.nn.Module, "_apply", moved)
    before = {k: v.data_ptr() for k, v in tier.named_parameters()}
    tier.sample(seconds=0.01, seed=0)
    assert before == {k: v.data_ptr() for k, v in tier.named_parameters()}


def test_controls_reach_their_column_in_their_time():
    tier = AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, cond_size=2, sample_rate=100, controls=("a", "b")))
    cond = tier.conditions(controls=dict(a=0.5, b=[[0.0, 1.0], [1.0, 0.0]]))
    tracks = tier.control_tracks(cond, 101)
    assert tracks.shape == (2, 101, 2) and (tracks[..., 0] == 0.5).all()
    assert np.allclose(tracks[0, :, 1], np.linspace(0, 1, 101)) and np.allclose(tracks[1, :, 1], np.linspace(1, 0, 101))
    cond.control_rate = 1.0  # points a second apart: the second holds from there on
    with pytest.warns(UserWarning, match="'a' is 1 s long"):
        assert np.allclose(tier.control_tracks(cond, 200)[0, :, 1], np.minimum(np.arange(200) / 100, 1))


def test_what_it_cannot_be_asked_by_is_an_error(tier):
    deaf = AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, cond_size=0))
    for model in (tier, deaf):
        with pytest.raises(ValueError, match="rain"):
            model.sample(cond="rain", seconds=0.01)
    with pytest.raises(ValueError, match="controls"):
        deaf.sample(controls=dict(rate=1.0), seconds=0.01)
    with pytest.raises(ValueError, match="speed.*rate"):
        tier.sample(controls=dict(speed=1.0), seconds=0.01)
    with pytest.raises(ValueError, match="no control 'pitch'"):
        tier.sample(controls=dict(rate=1.0), seconds=0.01)
    assert deaf.sample(seconds=0.01, seed=0).audio.shape == (1, 1, 160)
    with pytest.raises(ValueError, match="rows of 3 values.*1 for the sample and 0 controls"):
        deaf(torch.zeros(1, 1, 3))


def test_an_item_is_the_same_in_any_batch(tier):
    together = tier.sample(n=3, seconds=0.02, seed=5).audio
    assert torch.equal(tier.sample(seconds=0.02, seed=7).audio[0], together[2])


def test_saved_and_loaded(tier, tmp_path):
    tier.save_pretrained(tmp_path / "tier")
    again = Pretrained.from_pretrained(tmp_path / "tier")
    assert again.control_names == ("rate", "pitch")
    assert torch.equal(again.sample(seconds=0.02, seed=1).audio, tier.sample(seconds=0.02, seed=1).audio)


class Trap:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_published_files_run_no_code(tmp_path, capsys):
    tier = AudioTier(AudioTierConfig(hidden_size=8, n_layers=1))
    names = dict(input="i2d", output="h2o")
    weights = {names.get(k.split(".")[0], k.split(".")[0]) + k[len(k.split(".")[0]):]: v
               for k, v in tier.state_dict().items()}
    torch.save(weights, tmp_path / "model.pkl")
    read = AudioTier.from_original(tmp_path / "model.pkl")
    assert torch.equal(read.sample(seconds=0.01, seed=0).audio, tier.sample(seconds=0.01, seed=0).audio)
    torch.save(weights | {"args": Trap()}, tmp_path / "trap.pkl")
    with pytest.raises(CheckpointError, match="trap.pkl.*pickled code"):
        AudioTier.from_original(tmp_path / "trap.pkl")
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "model.pkl").read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="cut.pkl"):
        AudioTier.from_original(tmp_path / "cut.pkl")
    with pytest.raises(CheckpointError, match="absent.pkl"):
        AudioTier.from_original(tmp_path / "absent.pkl")
    assert "this must not run" not in capsys.readouterr().out


# ---- the loops ----


@pytest.mark.parametrize("options", [{}, dict(wide_input=True), dict(input_size=32), dict(cond_size=0)])
def test_compiled_and_plain_draw_the_same(options):
    torch.manual_seed(1)
    tier = AudioTier(AudioTierConfig(**dict(hidden_size=20, n_layers=2, cond_size=2, channels=32) | options)).eval()
    controls, u = torch.rand(2, 150, tier.config.cond_size), torch.rand(150, 2, dtype=torch.float64)
    row = tier.rows(torch.zeros(2, 1, dtype=torch.long), controls[:, :1])
    (a, h), (b, g) = (draw(tier, row, controls, u, 0.8) for draw in (generate, generate_plain))
    assert torch.equal(a, b) and torch.allclose(h, g, atol=1e-5)


@pytest.mark.parametrize("options", [{}, dict(wide_input=True), dict(hidden_size=67, channels=256)])
def test_int8_is_the_network_with_rounded_weights(options):
    torch.manual_seed(1)
    tier = AudioTier(AudioTierConfig(**dict(hidden_size=20, n_layers=2, cond_size=2, channels=32) | options)).eval()
    controls, u = torch.rand(2, 150, 2), torch.rand(150, 2, dtype=torch.float64)
    row = tier.rows(torch.zeros(2, 1, dtype=torch.long), controls[:, :1])
    codes, h = generate(tier.set_precision("int8"), row, controls, u, 0.8)
    with torch.no_grad():
        for name, w in tier.named_parameters():
            if w.ndim == 2 and not name.startswith("input"):
                step = w.abs().amax(1, keepdim=True) / 127
                w.copy_((w / step).round() * step)
    plain, state = generate_plain(tier, row, controls, u, 0.8)
    assert torch.equal(codes, plain) and torch.allclose(h, state, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_sounds_drawn_together_are_those_drawn_alone(precision, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(1)
    tier = AudioTier(AudioTierConfig(hidden_size=20, n_layers=2, cond_size=2, channels=32)).eval().set_precision(precision)
    controls, u = torch.rand(5, 80, 2), torch.rand(80, 5, dtype=torch.float64)
    row = tier.rows(torch.zeros(5, 1, dtype=torch.long), controls[:, :1])
    codes, h = generate(tier, row, controls, u)
    alone = [generate(tier, row[i:i + 1], controls[i:i + 1], u[:, i:i + 1]) for i in range(5)]
    assert torch.equal(codes, torch.cat([c for c, _ in alone])) and torch.equal(h, torch.cat([s for _, s in alone], 1))


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("kind", [np.float32, np.int8])
def test_rows_multiplied_together_are_each_row_alone(rows, kind):
    from foleybook.kernels.arithmetic import add_product
    rng = np.random.default_rng(rows)
    x, w = rng.standard_normal((rows, 37)).astype(np.float32), (40 * rng.standard_normal((37, 51))).astype(kind)
    start = rng.standard_normal((rows, 51)).astype(np.float32)
    together, alone = start.copy(), start.copy()
    add_product(x, w, together)
    for b in range(rows): add_product(x[b:b + 1], w, alone[b:b + 1])
    assert np.array_equal(together, alone) and np.allclose(together, start + x @ w.astype(np.float32), rtol=1e-4, atol=1e-2)


def test_a_second_process_compiles_nothing(tmp_path):
    code = "import torch; from foleybook.multitier_rnn import *; t = AudioTier(AudioTierConfig(hidden_size=8, n_layers=1)).eval()\n" \
           "for p in ('float32', 'int8'): t.set_precision(p).sample(seconds=.01, seed=0)\n" \
           "from foleybook.kernels.gated_cells import gru_codes; print(sum(gru_codes.stats.cache_misses.values()), sum(gru_codes.stats.cache_hits.values()))"
    run = lambda: subprocess.run([sys.executable, "-c", code], env=os.environ | dict(NUMBA_CACHE_DIR=str(tmp_path)), capture_output=True, text=True, check=True)
    assert [run().stdout.split() for _ in range(2)] == [["2", "0"], ["0", "2"]]


def test_int8_is_near_and_new_weights_are_seen():
    torch.manual_seed(1)
    tier = AudioTier(AudioTierConfig(hidden_size=64, n_layers=2)).eval()
    row, controls, u = torch.full((1, 1, 2), 0.5), torch.rand(1, 40, 1), torch.rand(40, 1, dtype=torch.float64)
    exact = generate(tier, row, controls, u)[1]
    near = generate(tier.set_precision("int8"), row, controls[:, :1], u)[1]
    tier.set_precision("float32")
    assert 0 < (near - generate(tier, row, controls[:, :1], u)[1]).abs().max() < 0.02
    with torch.no_grad(): tier.gru.weight_hh_l0.zero_()
    assert not torch.equal(generate(tier, row, controls, u)[1], exact)


def test_the_loop_over_time_is_torchs():
    torch.manual_seed(0)
    gru, x, h = torch.nn.GRU(7, 7, 2, batch_first=True), torch.randn(3, 11, 7, requires_grad=True), torch.randn(2, 3, 7, requires_grad=True)
    grads = []
    for run in (gru, lambda *a: gru_over_time(gru, *a)):
        out, after = run(x, h)
        grads.append([out, after, *torch.autograd.grad((out * torch.arange(7)).sum() + after.square().sum(), [x, h, *gru.parameters()])])
    assert all(torch.allclose(a, b, atol=2e-5, rtol=1e-4) for a, b in zip(*grads))


def test_the_loop_over_time_takes_one_thread(monkeypatch):
    "Rows are small: threads that wait for each other made a step many times slower on a busy machine"
    from threadpoolctl import threadpool_info, threadpool_limits
    from foleybook.kernels import gated_cells
    seen = []

    def watched(loop):
        return lambda *a: (seen.append({i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}), loop(*a))

    for name in ("gru_forward", "gru_backward"): monkeypatch.setattr(gated_cells, name, watched(getattr(gated_cells, name)))
    with threadpool_limits(2, "blas"):
        x = torch.randn(3, 11, 7, requires_grad=True)
        gru_over_time(torch.nn.GRU(7, 7, batch_first=True), x)[0].sum().backward()
        assert seen == [{1}, {1}]


# ---- controls ----


def test_a_control_may_be_a_function_of_time(tier):
    ramp = dict(rate=Gesture(lambda t: t / 0.05), pitch=0.3)
    cond = tier.conditions(controls=ramp)
    assert np.allclose(tier.control_tracks(cond, 100, 100, 200)[0, :, 0], np.arange(100, 200) / 4000 / 0.05)
    whole = tier.sample(controls=ramp, seconds=0.05, seed=3).audio
    blocks = tier.stream(controls=ramp, seconds=0.05, seed=3, block=0.011)
    assert torch.equal(torch.cat([b.audio for b in blocks], -1), whole)


def test_a_knob_turned_while_it_plays_is_heard_in_the_next_block(tier):
    knob, made = [0.0], []
    for k, block in enumerate(tier.stream(controls=dict(rate=lambda t: knob[0], pitch=0.5), seconds=0.06, seed=1, block=0.02)):
        made.append(block.audio)
        knob[0] = float(k == 0)
    still = tier.sample(controls=dict(rate=0.0, pitch=0.5), seconds=0.06, seed=1).audio
    assert torch.equal(made[0], still[..., :made[0].shape[-1]]) and not torch.equal(torch.cat(made, -1), still)


@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_values_beyond_the_range(tier, value):
    cond = tier.conditions(controls=dict(rate=value, pitch=0.5))
    with pytest.warns(UserWarning, match="'rate' reaches.*clipped"):
        assert tier.control_tracks(cond, 5)[..., 0].unique().item() in (0, 1)
    tier.config.outside = "refuse"
    with pytest.raises(ValueError, match="'rate' reaches"):
        tier.control_tracks(cond, 5)


def test_what_is_known_is_kept_and_heard(tier):
    known = torch.rand(1, 100) * 0.2
    made = tier.sample(init=known, seconds=0.05, seed=1).audio
    assert made.shape == (1, 1, 200) and torch.equal(made[0, :, :100], known)
    states = []
    for sound in (known, 0 * known):
        carried = tier.begin([0])
        with torch.no_grad(): tier.advance(carried, torch.full((1, 100, 2), 0.5), known=sound)
        state = carried["state"]
        states.append(state if torch.is_tensor(state) else state[-1][0])
    assert not torch.allclose(*states)
    hole = tier.sample(init=made[0], mask=(0.01, 0.02), seed=2).audio
    assert torch.equal(hole[..., :40], made[..., :40]) and torch.equal(hole[..., 80:], made[..., 80:])


def test_gestures():
    t = np.array([0.0, 1.0, 2.5, 9.0])
    assert np.allclose(glide(0, 1, seconds=2)(t), [0, 0.5, 1, 1]) and np.allclose(steps(3, 4, 5)(t), [3, 4, 5, 5])
    assert np.allclose((glide(0, 1, seconds=2) * 2 + 1)(t), [1, 2, 3, 3]) and abs(vibrato(5, 0.1)(t)).max() <= 0.1
    assert np.allclose(glide(0, 1, seconds=2).then(0.25, at=2)(t), [0, 0.5, 0.25, 0.25])
    assert np.array_equal(wander(1)(t), wander(1)(t)) and 0 <= wander(2)(np.arange(100.0)).min() and wander(2)(np.arange(100.0)).max() <= 1
    assert np.allclose(follow_row([2, 6, 4], seconds=2)(np.array([0.0, 1.0, 2.0])), [0, 1, 0.5])


# ---- tracks ----


@pytest.mark.parametrize("rate", [4, 9, 20, 32])
def test_pops_are_counted_within_a_few_percent(rate):
    found = [len(onset_samples(procedural_sound("pops", seconds=4, sample_rate=8000, seed=s, rate=rate)[0], 8000)) for s in range(4)]
    assert abs(sum(found) / (16 * rate) - 1) <= 0.04


def test_no_attack_where_nothing_is_struck():
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(8000) / 8000)
    assert len(onset_samples(tone, 8000)) <= 1 and len(onset_samples(torch.zeros(8000), 8000)) == 0


@pytest.fixture(scope="module")
def pops(tmp_path_factory):
    return make_procedural(tmp_path_factory.mktemp("pops"), ["pops"], n=6, seconds=1.0, sample_rate=8000, n_jobs=1)


def cache_of(table, folder):
    return WaveCache.build(table, 8000, 1.0, folder, n_jobs=1, trim=False, progress=False)


def test_tracks_come_from_files_and_from_sound(pops, tmp_path):
    cache = cache_of(pops, tmp_path)
    tracks = Tracks(cache, ("rate", "rms", "onset"), 250.0)
    cond = tracks.read(cache.index, np.array([1, 4]), np.array([0.25, 0.5]), 0.125, cache.labels)
    assert set(cond.controls) == {"rate", "rms", "onset"} and cond.controls["rate"].shape == (2, 1000)
    rates = np.log2(pops.df.rate.to_numpy()[[1, 4]] / 4) / 3
    assert np.allclose(cond.controls["rate"].mean(1), rates, atol=1e-3)
    assert all(0 <= v.min() and v.max() <= 1 for v in cond.controls.values()) and isinstance(tracks.memory, np.memmap)
    again = Tracks(cache, ("rate", "rms", "onset"), 250.0)
    assert np.array_equal(again.memory, tracks.memory) and again.ranges == tracks.ranges


def test_a_pulse_lasts_one_row_wherever_it_begins(pops, tmp_path):
    cache = cache_of(pops, tmp_path)
    on = Tracks(cache, ("onset",), 250.0).read(cache.index, np.arange(6), 0.0, 1.0).controls["onset"]
    for row, x in zip(on, cache.array[:]):
        starts = (torch.where(row[1:] > row[:-1])[0] + 1).numpy()
        found = onset_samples(torch.from_numpy(x / 32767), 8000).numpy()
        assert len(starts) == len(found) and abs(starts - found).max() <= 5
        assert abs(row.sum() / 32 - len(found)) < 1.01


def test_bad_parameter_files(pops, tmp_path):
    cache = cache_of(pops, tmp_path / "cache")
    with pytest.raises(ValueError, match="no track 'rat'"):
        Tracks(cache, ("rat",))
    write_params(tmp_path / "a.params", dict(rate=([0.0, 2.0, 1.0], [0.0, 1.0, 0.5])))
    index = cache.index
    index.df["params"] = str((tmp_path / "a.params").resolve())
    with pytest.raises(TableError, match="a.params.*do not rise"):
        Tracks(cache, ("rate", "rms"))


def told(table, tmp_path, times, values):
    "A cache of the clips, each with these points as its parameter"
    cache = cache_of(table, tmp_path / "cache")
    write_params(tmp_path / "told.params", dict(force=(times, values)))
    cache.index.df["params"] = str((tmp_path / "told.params").resolve())
    return cache


def test_parameters_beyond_their_range(pops, tmp_path):
    cache = told(pops, tmp_path, [0.0, 1.1], [0.5, 1.5])
    with pytest.warns(UserWarning, match=r"wav: parameter 'force' goes from 0.5 to 1.\d+.* 6 of 6 clips: clipped"):
        tracks = Tracks(cache, ("force",))
    assert tracks.read(cache.index, [0], 0.9, 0.05).controls["force"].eq(1).all()
    for outside, value in (("refuse", 1.5), ("clip", float("nan"))):
        cache = told(pops, tmp_path / outside, [0.0, 1.1], [0.5, value])
        with pytest.raises(ValueError, match="wav: parameter 'force'.*Correct the files"):
            Tracks(cache, ("force",), outside=outside)
    recipe = AudioTierRecipe.preset("steerable").override(SMALL | dict(controls=("rate",), cache_dir=str(tmp_path / "c")))
    recipe.model.outside = "refuse"
    asked = []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(tier_recipes, "Tracks", lambda *a: asked.append(a) or Tracks(*a))
        recipe.dataloaders(pops)
    assert asked[0][-1] == "refuse"


def test_a_track_that_ends_before_its_sound(pops, tmp_path):
    cache = told(pops, tmp_path, [0.0, 0.5], [0.0, 1.0])
    with pytest.warns(UserWarning, match="wav: its parameter 'force' ends at 0.5 s, the sound at 1 s"):
        force = Tracks(cache, ("force",)).memory[0, :, 0]
    assert np.allclose(force[:50], np.arange(50) / 50, atol=1e-5) and (force[51:] == 1).all()


def test_a_track_is_looped_as_its_sound_is(pops, tmp_path):
    write_params(tmp_path / "told.params", dict(force=([0.0, 1.0], [0.0, 1.0])))
    cache = WaveCache.build(pops, 8000, 2.5, tmp_path / "cache", n_jobs=1, trim=False, progress=False)
    cache.index.df["params"] = str((tmp_path / "told.params").resolve())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        force = Tracks(cache, ("force",)).memory[0, :, 0]
    assert np.allclose(force[100:250], np.arange(100, 250) / 100 % 1, atol=1e-5)


def test_tracks_in_their_units():
    t = torch.arange(16000) / 16000
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * t)
    rms, centroid, pitch = extract_tracks(tone, 16000, ["rms", "centroid", "pitch"], 50.0)[10:-10].mean(0)
    assert abs(rms + 9.03) < 0.1 and abs(2**centroid - 440) < 15 and abs(2**pitch - 440) < 5


def test_controls_in_a_sound_are_what_training_saw(pops, tmp_path):
    cache = cache_of(pops, tmp_path)
    tracks = Tracks(cache, ("rms", "centroid"), 50.0)
    tier = AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, sample_rate=8000, controls=("rms", "centroid"), ranges=tracks.ranges))
    found = tier.controls_in(torch.from_numpy(np.asarray(cache.array[2], np.float32) / 32767))
    low, high = np.array(tracks.ranges).T
    assert np.allclose(found, (tracks.memory[2][: len(found)] - low) / (high - low), atol=1e-4)
    with pytest.raises(ValueError, match="not measured in sounds"):
        AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, controls=("rate",))).controls_in(torch.zeros(100))


# ---- tiers of tracks, and stacks ----


@pytest.mark.parametrize("net", range(6))
def test_tracks_go_on_where_they_stood(net):
    torch.manual_seed(0)
    tier = PublishedTier(PublishedTierConfig(outputs=("a", "b"), controls=("c",), net=net, hidden_size=8, n_layers=1)).eval()
    controls = torch.rand(2, 12, 1)
    whole, parts = tier.begin([1, 2]), tier.begin([1, 2])
    with torch.no_grad():
        made = tier.advance(whole, controls)
        split = torch.cat([tier.advance(parts, c) for c in controls.split(5, 1)], 1)
    assert torch.equal(made, split) and made.shape == (2, 12, 2)


@pytest.mark.parametrize("net", range(6))
def test_tracks_that_are_known_are_followed(net):
    torch.manual_seed(0)
    tier = PublishedTier(PublishedTierConfig(outputs=("a", "b"), controls=("c",), net=net, hidden_size=8, n_layers=1)).eval()
    asked = dict(controls=dict(c=[0.0, 1.0]), seconds=0.2, seed=1)
    whole = tier.tracks(**asked).controls
    values = torch.stack([whole["a"], whole["b"]], -1)
    seen = tier.tracks(known=values[:, :9], **asked).controls
    assert all(v.shape == (1, 25) and torch.equal(v[:, :9], whole[k][:, :9]) for k, v in seen.items())
    other = tier.tracks(known=torch.rand(1, 9, 2), **asked).controls  # noise
    assert not torch.equal(other["a"][:, 9:], seen["a"][:, 9:])
    with pytest.raises(ValueError, match="25 rows are known"):
        tier.tracks(known=values, **asked)
    with pytest.raises(ValueError, match=r"known of shape \(1, 9\).*\(1, rows, 2\), for a, b"):
        tier.tracks(known=values[0, :9][None, :, 0], **asked)
    split, controls = [tier.begin([1]), tier.begin([1])], torch.rand(1, 9, 1)
    with torch.no_grad():
        tier.advance(split[0], controls, known=values[:, :9])
        for k in range(3): tier.advance(split[1], controls[:, 3 * k : 3 * k + 3], known=values[:, 3 * k : 3 * k + 3])
        assert torch.allclose(*(tier.advance(s, controls[:, :2]) for s in split), atol=1e-6)


def test_a_likelihood_is_no_mixture_of_one():
    "With equal parts the mixture's loss is that of one Gaussian"
    mu, sigma, x = torch.randn(2, 3, 1), torch.randn(2, 3, 1), torch.randn(2, 3, 1)
    three = [v[..., None, :].expand(-1, -1, 3, -1) for v in (mu, sigma)]
    from foleybook.multitier_rnn import ParamOut
    mixed = param_loss(ParamOut(*three, torch.zeros(2, 3, 3, 1)), x)
    assert torch.allclose(mixed, param_loss(ParamOut(mu, sigma), x), atol=1e-5)
    far = param_loss(ParamOut(*three, torch.zeros(2, 3, 3, 1)), x + 1e4)
    assert torch.isfinite(far).all()


def test_nets_that_do_not_exist():
    for bad in (dict(net=6), dict(net=1, phased=True)):
        with pytest.raises(SettingsError, match="give a net from 0 to 5"):
            PublishedTierConfig(**bad)
    assert not {"net", "drawn_loss", "temperature_as_beta"} & {f.name for f in fields(ParamTierConfig)}


@pytest.mark.parametrize("mixtures,net", [(0, 0), (3, 5)])
def test_the_taught_tier_is_the_published_one_of_its_net(mixtures, net):
    shared = dict(outputs=tuple("abcdefghijk"), controls=("z",), hidden_size=8, n_layers=1)
    ours = ParamTier(ParamTierConfig(mixtures=mixtures, **shared)).eval()
    theirs = PublishedTier(PublishedTierConfig(net=net, temperature_as_beta=False, **shared)).eval()
    theirs.load_state_dict(ours.state_dict())
    tracks = [t.advance(t.begin([1]), torch.rand(1, 5, 1, generator=torch.manual_seed(0)), 1.3).detach() for t in (ours, theirs)]
    assert torch.equal(*tracks)
    out, x = ours(torch.rand(2, 5, 12))[0], torch.rand(2, 5, 11)
    assert torch.equal(published_loss(out, x, replace(theirs.config, drawn_loss=False)), param_loss(out, x))


def test_one_recurrence_for_each_of_many_tracks():
    tier = PublishedTier(PublishedTierConfig(outputs=tuple(f"mfcc{k}" for k in range(13)), net=4, hidden_size=4, n_layers=1))
    assert tier(torch.rand(1, 3, 13))[0].mu.shape == (1, 3, 13)


@pytest.fixture
def stack():
    torch.manual_seed(0)
    top = AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, channels=2, sample_rate=100, generates="onset", controls=("rate",)))
    middle = ParamTier(ParamTierConfig(outputs=("rms",), controls=("onset",), hidden_size=8, n_layers=1, row_rate=50.0))
    low = AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, sample_rate=2000, controls=("onset", "rms", "tilt")))
    return TierStack(TierStackConfig(2000, 0.2), tier3=top, tier2=middle, tier1=low).eval()


def test_a_stack_streams_what_it_samples(stack, tmp_path):
    assert stack.control_names == ("rate", "tilt") and [t.outputs[0] for t in stack.tiers] == ["onset", "rms", "audio"]
    asked = dict(controls=dict(rate=[0.0, 1.0], tilt=0.2), n=2, seed=4, seconds=0.3)
    whole = stack.sample(**asked).audio
    for block in (0.017, 0.1):
        assert torch.equal(torch.cat([s.audio for s in stack.stream(block=block, **asked)], -1), whole)
    stack.save_pretrained(tmp_path / "stack")
    again = Pretrained.from_pretrained(tmp_path / "stack")
    assert isinstance(again, TierStack) and torch.equal(again.sample(**asked).audio, whole)
    assert torch.equal(stack.sample(controls=dict(rate=[0.0, 1.0], tilt=0.2), seed=5, seconds=0.3).audio[0], whole[1])


def test_a_stack_goes_on_from_a_sound(stack):
    known = procedural_sound("pops", seconds=0.2, sample_rate=2000, seed=1, rate=20) + 1e-3
    asked = dict(controls=dict(rate=0.5, tilt=0.2), n=2, seconds=0.4)
    made = stack.sample(init=known, seed=3, **asked).audio
    assert made.shape == (2, 1, 800) and torch.equal(made[:, :, :400], known.expand(2, 1, -1))
    blocks = stack.stream(init=known, seed=3, block=0.03, **asked)
    assert torch.equal(torch.cat([b.audio for b in blocks], -1), made)
    assert torch.equal(stack.sample(init=known, seed=4, **asked | dict(n=1)).audio[0], made[1])
    silent = stack.sample(init=0 * known, seed=3, **asked).audio
    assert not torch.equal(silent[..., 400:], made[..., 400:])  # what was heard matters
    heard = multitier_rnn._known(stack, known[None], torch.arange(800) >= 400)
    onset, rows = next(v for t, v in heard.items() if t.outputs == ("onset",))
    assert len(onset_samples(known[0], 2000)) == (onset > 0).sum() and rows[:20].logical_not().all() and rows[41:].all()
    hole = stack.sample(init=made, mask=(0.1, 0.2), seed=5, n=2, controls=dict(rate=0.5, tilt=0.2)).audio
    assert torch.equal(hole[..., :200], made[..., :200]) and torch.equal(hole[..., 400:], made[..., 400:])


def test_a_stack_of_rounded_tiers(stack):
    assert stack.set_precision("int8") is stack and stack.tier1.precision == stack.tier3.precision == "int8"
    with pytest.raises(ValueError, match="precision='bf16'"):
        stack.set_precision("bf16")


def test_a_stack_that_does_not_fit(stack):
    with pytest.raises(ValueError, match="at 2000 Hz, not audio at 16000"):
        TierStack(TierStackConfig(16000), tier1=stack.tier1)
    with pytest.raises(ValueError, match="makes rms"):
        TierStack(TierStackConfig(2000), tier1=stack.tier2)


def test_tracks_of_a_tier_drive_another(stack):
    rms = stack.tier2.tracks(controls=dict(onset=1.0), seconds=0.2, seed=1)
    assert rms.controls["rms"].shape == (1, 10) and rms.control_rate == 50
    cond = Conditions(1, controls=dict(rms=rms.controls["rms"].clamp(0, 1), onset=torch.zeros(1, 10), tilt=torch.zeros(1, 10)),
                      control_rate=50.0)
    assert stack.tier1.sample(cond=cond, seconds=0.2, seed=0).audio.shape == (1, 1, 400)


# ---- recipes ----

SMALL = dict(steps=4, epoch_steps=2, batch_size=2, length=32, clip_seconds=1.0, device="cpu")


@pytest.mark.parametrize("controls", [("rms", "centroid"), ("rate",), ()])
def test_any_folder_becomes_steerable(pops, tmp_path, controls):
    recipe = AudioTierRecipe.preset("steerable").override(SMALL | {"controls": controls, "model.hidden_size": 8, "cache_dir": str(tmp_path)})
    tier = recipe.train(open_dataset(pops.root), tmp_path / "run", progress=False)
    assert tier.control_names == controls and len(tier.config.ranges) == len(controls)
    if "rms" in controls: assert -80 <= tier.config.ranges[0][0] < tier.config.ranges[0][1] < 0  # dB
    assert tier.sample(seconds=0.05, seed=0).audio.shape == (1, 1, 800)


def test_classes_and_a_class_alone(tmp_path):
    table = make_procedural(tmp_path / "clips", ["rain", "footstep"], n=3, seconds=0.6, n_jobs=1)
    recipe = AudioTierRecipe.preset("class-sounds").override(SMALL | {"model.hidden_size": 8, "cache_dir": str(tmp_path)})
    tier = recipe.train(table, tmp_path / "run", progress=False)
    assert tier.labels == ["footstep", "rain"] and tier.sample("rain", seconds=0.05, seed=0).labels == ["rain"]
    assert not torch.equal(*(tier.sample(c, seconds=0.05, seed=0).audio for c in tier.labels))
    with pytest.raises(SettingsError, match="only=.fire.*no clips of that class"):
        recipe.override(only="fire", classes=False).dataloaders(table)
    with pytest.raises(SettingsError, match="model.controls"):
        recipe.override({"model.controls": ("rms",)})


def test_rows_that_hold_what_was_drawn(pops, tmp_path):
    recipe = AudioTierRecipe.preset("pops-onsets").override(SMALL | dict(teacher_forcing=0.5, teacher_forcing_end=0.0, cache_dir=str(tmp_path)))
    tier = recipe.train(pops, tmp_path / "run", progress=False)
    assert set(tier.tracks(controls=dict(rate=0.5), seconds=1.0).controls["onset"].unique().tolist()) <= {0.0, 1.0}


def test_going_on_from_a_model(pops, tmp_path):
    recipe = AudioTierRecipe.preset("pops-onsets").override(SMALL | dict(cache_dir=str(tmp_path)))
    first = recipe.train(pops, tmp_path / "a", progress=False)
    learn = recipe.override(start_from=str(tmp_path / "a")).learner(pops)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), learn.model.state_dict().values()))


def test_a_stack_is_trained_tier_by_tier(pops, tmp_path):
    changes = {f"{t}.{k}": v for t in ("upper", "lower") for k, v in (SMALL | {"model.hidden_size": 8, "cache_dir": str(tmp_path)}).items()
               if k != "device"}
    stack = TierStackRecipe.preset("quick-pops").override(changes, device="cpu").train(pops, tmp_path / "run", progress=False)
    assert stack.control_names == ("rate",) and stack.licence == "generated"
    assert stack.sample(controls=dict(rate=glide(0, 1, seconds=0.1)), seconds=0.1, seed=0).audio.shape == (1, 1, 800)


def test_the_shipped_pops_follow_their_knob():
    from importlib.resources import files
    model = Pretrained.from_pretrained(files("foleybook") / "weights" / "pops")
    errors = []
    for k, knob in enumerate((0.0, 0.31, 0.55, 0.83, 1.0)):
        x = model.sample(controls=dict(rate=knob), n=2, seconds=5.0, seed=10 * k, progress=False).audio[:, 0, 8000:]
        counted = sum(len(onset_samples(row, model.sample_rate, 3e-3, 3.0)) for row in x) / 8
        errors.append(abs(counted / (4 * 8**knob) - 1))
    assert np.median(errors) <= 0.15, errors


# ---- textures ----

TEXTURES = ["rain", "fire", "wind"]


def test_levels_in_are_levels_out():
    levels = np.linspace(0.8, 0.4, BANDS, dtype=np.float32)[None].repeat(32000, 0)
    x, _ = noise_in_bands(np.random.default_rng(0).random(levels.shape), levels, 16000)
    power = lambda v: 10 * np.log10((10 ** ((v - 1) * 10.0)).mean(0))  # noqa: E731
    assert abs(power(noise_levels(x, 16000)[20:-20].astype(float)) - power(levels[:1].astype(float))).mean() < 1.5  # dB
    assert abs(20 * np.log10(x.std()) - 10 * np.log10((10 ** ((levels[0].astype(float) - 1) * 10)).sum())) < 0.5


def texture(tempo=0.0, **changes):
    torch.manual_seed(0)
    upper = BandTier(BandTierConfig(controls=("rms", "centroid"), ranges=((-40.0, -15.0), (10.0, 12.0)), hidden_size=8, **changes))
    return TierStack(TierStackConfig(16000, 1.0, tempo), tier1=NoiseTier(), tier2=upper).eval()


def test_a_texture_in_blocks_is_the_whole_and_goes_on(tmp_path):
    stack = texture()
    asked = dict(controls=dict(rms=glide(0, 1, seconds=0.3), centroid=0.5), n=2, seconds=0.3, seed=3, progress=False)
    whole = stack.sample(**asked).audio
    for block in (0.007, 0.05): assert torch.allclose(torch.cat([s.audio for s in stack.stream(block=block, **asked)], -1), whole, atol=1e-5)
    assert not torch.equal(whole[0], whole[1]) and whole.abs().max() < 1
    stack.save_pretrained(tmp_path / "t", bits=8)
    assert Pretrained.from_pretrained(tmp_path / "t").sample(**asked).audio.shape == (2, 1, 4800)
    longer = stack.sample(init=whole[0], seconds=0.5, seed=1, progress=False).audio
    assert torch.equal(longer[0, :, :4800], whole[0]) and longer[0, :, 4800:].abs().max() > 0


def test_temperature_reaches_the_tier_that_draws():
    stack = texture()
    asked = dict(controls=dict(rms=0.5, centroid=0.5), seconds=0.3, seed=0, progress=False)
    assert not torch.equal(*(stack.sample(temperature=t, **asked).audio for t in (1.0, 0.1)))
    spreads = [stack.tier2.spread(torch.zeros(3), t) for t in (1.0, 0.1)]
    assert torch.allclose(0.1 * spreads[0], spreads[1])


def test_one_choice_for_a_whole_row():
    "A row of a joint mixture comes from one Gaussian in all tracks, and its likelihood is that of the row"
    tier = ParamTier(ParamTierConfig(outputs=("a", "b", "c"), hidden_size=8, n_layers=1, mixtures=2, joint=True)).eval()
    mu = torch.tensor([0.2, 0.8]).view(1, 1, 2, 1).expand(500, 1, 2, 3)
    out = ParamOut(mu, torch.full_like(mu, -4.0), torch.zeros(500, 1, 2, 1))
    rows = tier.draw_row(out, torch.randn(500, 3), torch.rand(3, 500))
    high = rows > 0.5
    assert (high.all(1) | ~high.any(1)).all() and 0.4 < high[:, 0].float().mean() < 0.6
    spread = torch.nn.functional.softplus(torch.tensor(-4.0))
    each = torch.distributions.Normal(mu[0, 0], spread).log_prob(rows[0]).sum(-1)
    wanted = -(each.logsumexp(0) - np.log(2)) / 3
    one = ParamOut(*(v[:1] for v in out))
    assert torch.allclose(param_loss(one, rows[:1, None]).sum(), wanted, atol=1e-4)


def test_knobs_are_turned_in_training_and_not_beside_it():
    upper = texture().tier2
    levels = torch.from_numpy(np.linspace(0.7, 0.4, BANDS, dtype=np.float32))[:, None, None].expand(-1, 4, 400)
    cond = Conditions(4, controls=dict(zip(upper.outputs, levels)))
    still = [upper.training_rows(None, cond) for _ in range(2)]
    assert torch.equal(still[0][0], still[1][0]) and torch.equal(still[0][1], levels.permute(1, 2, 0)[:, 1:])
    upper.train()
    rows, wanted = upper.training_rows(None, cond)
    told = rows[..., BANDS:] * torch.tensor([25.0, 2.0]) + torch.tensor([-40.0, 10.0])  # in dB and octaves
    inside = (rows[..., BANDS] > 0) & (rows[..., BANDS] < 1) & (wanted.amin(-1) > 0)
    off = (told[..., 0] - heard_in_levels(wanted, 16000)[..., 0])[inside].abs()
    assert wanted.std(0).mean() > 0.02 and off.median() < 1.5, off.median()  # dB


def test_what_a_tier_of_bands_can_be_told():
    for controls in (("rms", "pitch"), ("rms",), ()):
        with pytest.raises(SettingsError, match="is told rms and centroid"):
            tier_recipes.TextureRecipe.preset("texture").override({"upper.controls": controls})


@pytest.mark.parametrize("name", TEXTURES)
def test_shipped_textures_follow_their_knobs(name):
    from importlib.resources import files

    from foleybook.judge.texture_board import knobs_followed
    folder = files("foleybook") / "weights" / name
    model = Pretrained.from_pretrained(folder)
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 1e6 and model.sample_rate == 16000
    follows = knobs_followed(model, seconds=10.0, seed=1)
    assert min(follows["rms"], follows["centroid"]) >= 0.9, follows
    minute = model.sample(controls={k: 0.5 for k in model.control_names}, seconds=20.0, seed=2, progress=False).audio[0, 0]
    level = minute.view(20, -1).square().mean(1).sqrt()
    assert level.min() > 0.3 * level.max() and 1e-3 < level.min() and minute.abs().max() < 1


# ---- the clock of the tiers above ----


def test_a_clock_in_the_middle_changes_nothing():
    plain, paced = texture(), texture(tempo=2.5)
    assert paced.control_names == ("rms", "centroid", "rate") and plain.control_names == ("rms", "centroid")
    asked = dict(n=2, seconds=0.3, seed=3, progress=False)
    for knobs in (dict(rms=0.3, centroid=0.6), dict(rms=glide(0, 1, seconds=0.2), centroid=[0.2, 0.9, 0.4])):
        whole = plain.sample(controls=knobs, **asked).audio
        assert torch.equal(paced.sample(controls=knobs, **asked).audio, whole)
        assert torch.equal(paced.sample(controls=knobs | dict(rate=0.5), **asked).audio, whole)


@pytest.mark.parametrize("knob", [0.0, 1.0])
def test_a_clock_stretches_what_the_tier_above_says(knob, monkeypatch):
    "Levels in the sound are those of the tier above at another pace, and its knobs are heard at their own time"
    stack, told = texture(tempo=2.0), []
    advance = NoiseTier.advance
    monkeypatch.setattr(NoiseTier, "advance", lambda self, carried, controls, *a: (told.append(controls), advance(self, carried, controls, *a))[1])
    level = glide(0.0, 1.0, seconds=0.5)
    with torch.no_grad(): stack.sample(controls=dict(rms=0.5, centroid=0.5, rate=knob), seconds=0.5, seed=2, progress=False)
    own = mix_seed(2, "tier", 0)
    rows = torch.stack([*stack.tier2.tracks(controls=dict(rms=0.5, centroid=0.5), seconds=1.2, seed=own).controls.values()], -1)[0]
    heard, factor = torch.cat(told, 1)[0], 2.0 ** (2 * knob - 1)
    at = torch.arange(len(heard)).double() / 16000 * 250 * factor
    k, part = at.long(), (at - at.long()).float()[:, None]
    assert torch.allclose(heard, torch.lerp(rows[k], rows[k + 1], part).clamp(0, 1), atol=1e-4)
    seen = []
    columns = type(stack.tier2).control_tracks
    monkeypatch.setattr(BandTier, "control_tracks", lambda self, *a: (seen.append(columns(self, *a)), seen[-1])[1])
    stack.sample(controls=dict(rms=level, centroid=0.5, rate=knob), seconds=0.5, seed=2, progress=False)
    asked = torch.cat(seen, 1)[0, :, 0]
    wanted = (torch.arange(len(asked)) / 250 / factor / 0.5).clamp(0, 1)
    assert torch.allclose(asked, wanted, atol=1e-3)


def test_a_clock_that_is_turned_goes_on_from_block_to_block():
    stack = texture(tempo=3.0)
    asked = dict(controls=dict(rms=0.5, centroid=0.5, rate=glide(0, 1, 0.2, seconds=0.3)), n=2, seconds=0.3, seed=3, progress=False)
    whole = stack.sample(**asked).audio
    for block in (0.007, 0.05): assert torch.allclose(torch.cat([s.audio for s in stack.stream(block=block, **asked)], -1), whole, atol=1e-5)
    asked |= dict(n=1, controls=asked["controls"] | dict(rate=1.0))
    known = texture(tempo=3.0).sample(**asked | dict(controls=asked["controls"] | dict(rate=0.5))).audio[0]
    longer = [stack.sample(**asked | dict(init=known, seconds=0.5, controls=asked["controls"] | dict(rate=r))).audio for r in (0.5, 1.0)]
    assert all(torch.equal(x[0, :, :4800], known) for x in longer) and not torch.equal(*longer)


def test_a_clock_is_refused_where_it_makes_no_sense():
    for tempo in (1.0, -2.0, 100.0):
        with pytest.raises(SettingsError, match=f"tempo={tempo:g} is not allowed. Give a factor"): TierStackConfig(16000, tempo=tempo)
    upper = ParamTier(ParamTierConfig(outputs=NoiseTier().control_names, controls=("rate",), hidden_size=4, n_layers=1, row_rate=250.0))
    with pytest.raises(SettingsError, match="makes a knob 'rate', which a tier has already"):
        TierStack(TierStackConfig(16000, tempo=2.0), tier1=NoiseTier(), tier2=upper)
    with pytest.warns(UserWarning, match="'rate' reaches 2"):
        texture(tempo=2.0).sample(controls=dict(rms=0.5, centroid=0.5, rate=2.0), seconds=0.05, seed=0, progress=False)


@pytest.mark.parametrize("name", ["rain", "fire"])
def test_more_strokes_come_at_a_higher_rate(name):
    model, turns, found = load_generator(name), (0.0, 0.25, 0.5, 0.75, 1.0), []
    for rate in turns:
        x = model.sample(controls=dict(rms=0.5, centroid=0.5, rate=rate), seconds=8.0, seed=1, progress=False).audio[0, 0]
        found.append(len(onset_samples(x / x.abs().max(), 16000, rise=2.5)) / 8)
    assert np.corrcoef(turns, found)[0, 1] > 0.85 and found[-1] > 1.8 * found[0], found


@pytest.mark.skipif(not CHROMIUM, reason=NEEDS)
def test_rain_in_a_browser_is_as_loud_as_its_knob_says(tmp_path):
    "A real page: play, the level turned down and up, what the page was given measured in the page"
    model = load_generator("rain")
    player = LivePlayer(model, seed=1)
    low, high = model.tier2.config.ranges[0]  # dB
    with Browser(tmp_path / "user") as page:
        page.open(player.url, f"document.querySelectorAll('#knobs input').length == {len(model.control_names)}")
        page.value("window.levels = [], window.plain = add, add = s => { levels.push(10 * Math.log10(s.reduce((a, v) => a + v * v, 0) / s.length)); return plain(s); }, 1")
        page.click("#play")
        page.wait("window.heard >= 8000")
        heard = {}
        for across in (0.1, 0.9):
            page.click("#rms", across=across)
            end = time.monotonic() + 60
            while abs(player.known["rms"] - across) > 0.05 and time.monotonic() < end: time.sleep(0.05)
            page.value("levels.length = 0")
            page.wait("levels.length >= 40", seconds=120)  # 1.6 s
            heard[player.values["rms"]] = page.value("levels.slice(10, 40).reduce((a, v) => a + v, 0) / 30")
        page.click("#rate", across=0.9)
        end = time.monotonic() + 60
        while abs(player.known["rate"] - 0.9) > 0.05 and time.monotonic() < end: time.sleep(0.05)
        told = page.value("document.getElementById('knobs').textContent")
        assert " dB" in told and re.search(r"rate (1\.9|2\.\d)\d times", told) and player.known["rate"] > 0.8, told
    player.close()
    for knob, level in heard.items(): assert abs(level - (low + (high - low) * knob)) < 4, heard


# ---- published runs ----


def test_a_published_run_is_read(tmp_path):
    config = PublishedTierConfig(outputs=("rms", "pitch"), controls=("fill",), net=3, hidden_size=6, n_layers=1)
    tier = PublishedTier(config)
    theirs = lambda k: (k.replace("input.", "i2d.") if k.startswith("input") else  # noqa: E731
                        k.replace("each.", "out_pro.").replace(".gru.", ".rec.").replace(".mu.", ".h2n.").replace(".sigma.", ".h2v."))
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "log").mkdir()
    for step in (5, 20):
        torch.save({theirs(k): v + step for k, v in tier.state_dict().items()}, tmp_path / "run" / "model" / f"model_{step}.pkl")
    args = "Namespace(generate=['rms', 'pitch'], prop=['fill'], net=3, sample_rate=125, seed=None)"
    (tmp_path / "run" / "log" / "args.txt").write_text(args)
    read = Tier.from_original(tmp_path / "run")
    assert read.config.outputs == ("rms", "pitch") and read.control_names == ("fill",) and read.config.net == 3 and read.rate == 125
    assert torch.equal(read.input.bias, tier.input.bias + 20)
    assert torch.equal(Tier.from_original(tmp_path / "run", step=5).input.bias, tier.input.bias + 5)
    with pytest.raises(CheckpointError, match="model_7; found model_5.pkl, model_20.pkl"):
        Tier.from_original(tmp_path / "run", step=7)
    for named, found in (("[]", ("control_0",)), ("None", ("control_0",)), ("['fill', 'tilt']", ("control_0",))):
        (tmp_path / "run" / "log" / "args.txt").write_text(f"Namespace(generate=['rms', 'pitch'], prop={named})")
        assert Tier.from_original(tmp_path / "run").control_names == found
    (tmp_path / "run" / "log" / "args.txt").write_text("Namespace(a=__import__('os'))")
    with pytest.raises(CheckpointError, match="args.txt"):
        Tier.from_original(tmp_path / "run")


# ---- live ----


@pytest.fixture
def player(tier):
    one = LivePlayer(tier, block=0.02, seed=1)
    yield one
    one.close()


def ask(player, path):
    with urllib.request.urlopen(player.url + path, b"" if path else None, timeout=30) as answer: return answer.read()


def answer(player, path="", post=False, **headers):
    "Code and text of a raw request; `path` from the root where it begins with a slash"
    port = player.server.server_port
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    line.putrequest("POST" if post else "GET", path if path.startswith("/") else f"/{player.token}/{path}", skip_host=True)
    for name, value in (dict(Host=f"127.0.0.1:{port}") | headers).items():
        if value is not None: line.putheader(name.replace("_", "-"), value.replace("PORT", str(port)))
    line.endheaders()
    told = line.getresponse()
    return told.status, told.read().decode("latin1"), told.headers


def test_the_page_plays_and_its_knobs_turn(player):
    assert b"rate" in ask(player, "") and b"AudioContext" in ask(player, "")
    first = np.frombuffer(ask(player, "next"), "<f4")
    assert len(first) == 80 - 20 and np.abs(first).max() <= 1
    ask(player, "set?name=rate&value=0.9")
    assert player.values["rate"] == 0.9
    for wrong in ("set?name=speed&value=0.5", "set?name=rate&value=7", "set?name=rate"):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(player, wrong)


def test_a_block_says_what_it_was_made_with(player):
    def told():
        with urllib.request.urlopen(player.url + "next", b"", timeout=30) as answer: return json.loads(answer.headers["X-Knobs"])

    assert told() == dict(rate=0.5, pitch=0.5)
    ask(player, "set?name=rate&value=0.9")
    assert told() == dict(rate=0.9, pitch=0.5)


def test_only_the_page_itself_is_answered(player):
    for host in ("evil.example", "127.0.0.1", "localhost", "127.0.0.1:PORT.evil.example", "[::1]:PORT", "evil.example:PORT", None):
        assert answer(player, Host=host)[0] == 403
        assert answer(player, "set?name=rate&value=0.9", True, Host=host)[0] == 403
    for origin in ("http://evil.example", "null", "https://127.0.0.1:PORT", "http://127.0.0.1:1", "http://127.0.0.1:PORT.evil.example"):
        for path in ("next", "set?name=rate&value=0.9"):
            assert answer(player, path, True, Origin=origin)[0] == 403
    for site in ("cross-site", "same-site"):
        for path in ("next", "set?name=rate&value=0.9"):
            assert answer(player, path, True, Sec_Fetch_Site=site)[0] == 403
            assert answer(player, path, True, Sec_Fetch_Site=site, Sec_Fetch_Dest="document")[0] == 403
        assert answer(player, Sec_Fetch_Site=site)[0] == 403
        assert answer(player, Sec_Fetch_Site=site, Sec_Fetch_Dest="document")[0] == 200  # a link that somebody followed
    for path in ("/", "/next", "/set?name=rate&value=0.9", "/x/next", f"/{player.token}x/next", f"/{player.token}"):
        for post in (False, True):
            assert answer(player, path, post)[0] in (403, 404), path
    for path in ("next", "set?name=rate&value=0.9"): assert answer(player, path)[0] == 405  # what changes something is a POST
    assert answer(player, Sec_Fetch_Site="same-origin", Sec_Fetch_Dest="iframe")[0] == 403
    assert player.values == dict(rate=0.5, pitch=0.5)
    assert "iframe" not in player._repr_html_()
    for host in ("127.0.0.1:PORT", "localhost:PORT"):
        code, page, headers = answer(player, Host=host, Sec_Fetch_Site="none", Sec_Fetch_Dest="document")
        assert code == 200 and "AudioContext" in page and headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"] and headers["Referrer-Policy"] == "no-referrer"
        assert answer(player, "set?name=rate&value=0.9", True, Host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")[0] == 200


def test_a_second_listener_is_refused_in_words(player, monkeypatch):
    assert answer(player, "next?listener=one", True)[0] == 200
    code, told, _ = answer(player, "next?listener=two", True)
    assert code == 409 and "another page listens already" in told
    assert answer(player, "next?listener=one", True)[0] == 200
    player.heard_at -= 3  # s
    assert answer(player, "next?listener=two", True)[0] == 200


def test_idle_connections_go_and_there_are_not_many(player):
    import socket
    assert player.server.RequestHandlerClass.timeout <= 10
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", player.server.server_port)) for _ in range(100)]
    assert ask(player, "") and ask(player, "next")  # served beside them
    deadline = time.monotonic() + 20
    while threading.active_count() > before + 34 and time.monotonic() < deadline: time.sleep(0.05)
    assert threading.active_count() <= before + 34 and len(player.server.held) <= 34
    for one in silent: one.close()


def test_a_stream_that_ends_is_told(player):
    def fails():
        raise SamplingError("all 1 sounds are silent")
        yield

    player.blocks = fails()
    for _ in range(2):
        code, told, _ = answer(player, "next", True)
        assert code == 500 and "the sound has ended" in told
    assert answer(player)[0] == 200


def test_what_cannot_play_on_is_refused_at_once(tier):
    for model in (load_generator("foley"), ParamTier(ParamTierConfig(hidden_size=8)).eval()):
        with pytest.raises(ValueError, match="cannot play on without an end. `pops` can"):
            LivePlayer(model)
    first = LivePlayer(tier, block=0.02)
    with pytest.raises(ValueError, match=f"port {first.server.server_port} cannot be opened .*in use.*Choose another one"):
        LivePlayer(tier, block=0.02, port=first.server.server_port)
    first.close()
    with pytest.raises(ValueError, match="port 99999"):
        LivePlayer(tier, port=99999)


def test_play_ends_with_ctrl_c(tier, tmp_path):
    "The address is told after the first block; Ctrl-C is a way out like any other"
    import subprocess
    import sys
    tier.save_pretrained(tmp_path / "tier")
    words = [sys.executable, "-m", "foleybook", "play", str(tmp_path / "tier"), "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert "first block" in run.stdout.readline()
        assert "Ctrl-C ends it" in run.stdout.readline()
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0 and out == "the player has ended\n" and not err


def test_from_a_knob_to_the_ear(tier):
    player = LivePlayer(tier, block=0.02, ahead=0.06, seed=1)
    player.next()
    waits = player.latency(4)
    player.close()
    assert 1 <= len(waits) <= 4 and np.median(waits) >= 0.02  # s; a busy machine may be late
    deaf = LivePlayer(AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, cond_size=0)).eval())
    with pytest.raises(ValueError, match="no knob"):
        deaf.latency()
    deaf.close()


STAND_IN = """
const texts = [], text = {set textContent(s) { texts.push(s); }}, play = {}, made = [];
globalThis.document = {
  getElementById: id => id === 'told' ? text : id === 'play' ? play : {append: label => made.push(label.input)},
  createElement: kind => kind === 'input' ? {} : {append(input) { this.input = input; }}};
globalThis.window = {};
globalThis.AudioContext = class {
  start = performance.now();
  get currentTime() { return (performance.now() - this.start) / 1000; }
  createBuffer(channels, n, rate) { return {duration: n / rate, getChannelData: () => ({set() {}})}; }
  createBufferSource() { return {connect() {}, start() {}}; }
  async close() {}
};
const ask = fetch;
globalThis.fetch = (path, how) => ask('URL' + path, how);
PAGE
play.onclick({target: play});
setTimeout(() => { made[0].value = '0.9'; made[0].oninput(); }, 400);
const end = () => { console.log(JSON.stringify([texts, window.heard])); process.exit(0); };
setInterval(() => { if (texts.length) end(); }, 50);
setTimeout(end, 40000);
"""
NODE = shutil.which("node")


@pytest.mark.skipif(not NODE, reason="no node here")
def test_the_script_of_the_page_measures_its_latency(player, tmp_path):
    "Without a browser: the page's own script, beside stand-ins for its elements and its sound card"
    import subprocess
    script = ask(player, "").decode().split("<script>")[1].split("</script>")[0]
    (tmp_path / "page.mjs").write_text(STAND_IN.replace("URL", player.url).replace("PAGE", script))
    done = subprocess.run([NODE, str(tmp_path / "page.mjs")], capture_output=True, text=True, timeout=60)
    texts, heard = json.loads(done.stdout)
    assert len(texts) == 1 and texts[0].endswith(" ms from a knob to the ear"), (texts, done.stderr)
    assert int(texts[0].split()[0]) >= 20 and heard >= 140  # two blocks, the first of them 5 ms shorter


@pytest.mark.skipif(not CHROMIUM, reason=NEEDS)
def test_a_browser_plays_on(tmp_path):
    "A real page: Play is pressed, a slider moved, the sound goes on and follows, Stop ends it"
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, n_layers=2, sample_rate=8000, controls=("rms", "centroid"), ranges=((-40.0, -10.0), (8.0, 12.0)))
    player = LivePlayer(AudioTier(AudioTierConfig(**sizes)).eval(), block=0.02, seed=1)
    player.next()  # compiled before the page asks
    with Browser(tmp_path / "user") as page:
        page.open(player.url, "document.querySelectorAll('#knobs input').length == 2")
        labels = page.value("document.getElementById('knobs').textContent")
        assert "rms -25.00 dB" in labels and "centroid 1024 Hz" in labels
        page.click("#play")
        page.wait("window.heard >= 4000")  # half a second: Chromium took the press for a user's
        page.click("#rms", across=0.9)
        assert page.wait("document.getElementById('told').textContent").endswith(" ms from a knob to the ear")
        assert player.values["rms"] > 0.8 and player.known == player.values and player.values["centroid"] == 0.5
        assert page.value("context.state") == "running" and page.value("at - context.currentTime") < 2
        page.screenshot(tmp_path / "page.png")
        page.click("#play")
        page.wait("context === null")
        heard = page.value("window.heard")
        assert page.value("new Promise(f => setTimeout(() => f(window.heard), 300))") == heard
        assert page.value("document.getElementById('play').textContent") == "Play"
    player.close()
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_the_verb_writes(tier, tmp_path):
    import soundfile as sf
    from foleybook.apps.cli import main
    tier.save_pretrained(tmp_path / "tier")
    words = ["play", str(tmp_path / "tier"), "--out", str(tmp_path / "a.wav"), "--seconds", "0.1", "--controls", "rate=0,1", "pitch=0.5"]
    assert main(words) == 0 and sf.info(tmp_path / "a.wav").frames == 400
    assert main([*words, "--precision", "int8"]) == 0
    assert main([*words, "--precision", "int4"]) == 1
    assert main([*words[:2], "--out", str(tmp_path / "b.wav"), "--controls", "speed=1"]) == 1
    for seconds in ("nan", "1e9", "0", "inf"): assert main([*words[:2], "--out", str(tmp_path / "b.wav"), "--seconds", seconds]) == 1
    for block in (0, 1e9, float("nan")):
        with pytest.raises(ValueError, match="give a length above 0 and up to 10 s"): LivePlayer(tier, block=block)
