"""The clock and the samplers of diffusion, WaveNet, and what DiffWave does with lengths, masks, loops, guidance and bad input"""
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foleybook.audio_features import MelConfig, log_mel
from foleybook.diffwave import (
    SAMPLERS, DiffWave, DiffWaveConfig, DiffusionProcess, PatchBlock, PatchDiffusion, PatchDiffusionConfig, PatchNet,
    PatchNetConfig, WaveNet, WaveNetConfig, align_steps, guided, diffuse,
    diffusion_loss, gained, without_weight_norm, join_prediction, keeping, looping, sample_ddim, sample_ddpm,
    sample_dpm, sample_euler, sample_heun, split_prediction, time_grid)
from foleybook.kernels.gated_layers import HeldWaveNet
from foleybook.train.diffwave import DiffWaveRecipe, told_classes
from foleybook.published.diffwave import average_weights
from foleybook.core.files import CheckpointError
from foleybook.core.generator import Generator
from foleybook.core.randomness import ItemNoise
from foleybook.train.recipes import find_recipe
from foleybook.core.settings import SettingsError
from foleybook.core.feature_cache import WaveCache
from foleybook.sound_data import make_procedural
from foleybook.train.checkpoints import read_checkpoint
from foleybook.training import TrainingError

PROCESSES = [DiffusionProcess(), DiffusionProcess("linear", T=1000, prediction="x0"), DiffusionProcess("scaled_linear", T=50, beta_T=0.05),
             DiffusionProcess("squaredcos", T=300, prediction="v"), DiffusionProcess("flow", T=1000, prediction="flow")]
each_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.schedule)
NAMES = [n for n in SAMPLERS if n != "fast"]
SMALL = WaveNetConfig(channels=8, skip_channels=8, n_layers=4, cycle=2, step_width=16, hidden=16, step_out=16)


def model(labels=("low", "high"), std=0.1, **config):
    torch.manual_seed(0)
    m = DiffWave(DiffWaveConfig(replace(SMALL, **config.pop("net", {})), labels=labels, seconds=0.05, **config))
    nn.init.normal_(m.net.output.weight, std=std)
    return m.eval()


def perfect(process, m=0.0, c=0.5):
    "What the best network would answer for data N(m, c²)"

    def predict(x, t):
        alpha, sigma = (v.to(x).view(-1, *[1] * (x.ndim - 1)) for v in process.levels(t))
        x0 = m + alpha * c**2 / (alpha**2 * c**2 + sigma**2) * (x - alpha * m)
        return join_prediction(x0, (x - alpha * x0) / sigma, alpha, sigma, process.prediction)

    return predict


@each_process
def test_levels_fall_and_turn_back(process):
    t = torch.linspace(-1, process.T - 1, 777, dtype=torch.float64)
    alpha, sigma = process.levels(t)
    assert alpha[0] == 1 and sigma[0] == 0 and (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    assert torch.allclose(process.time_of(alpha), t, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(PROCESSES), st.floats(0.02, 0.98), st.integers(0, 10_000))
def test_answers_of_every_kind_are_the_same_knowledge(process, part, seed):
    g = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 4, dtype=torch.float64, generator=g)
    alpha, sigma = (v.item() for v in process.levels(part * process.T - 1))
    x = alpha * x0 + sigma * eps
    for kind in ("eps", "x0", "v", "flow"):
        found = split_prediction(join_prediction(x0, eps, alpha, sigma, kind), x, alpha, sigma, kind)
        assert torch.allclose(found.x0, x0, atol=1e-6) and torch.allclose(found.eps, eps, atol=1e-6)


@each_process
@pytest.mark.parametrize("spacing", ["even", "leading", "trailing", "log_snr", "karras"])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_time_grids(process, spacing, steps):
    grid = time_grid(process, steps, spacing)
    assert len(grid) == steps + 1 and (grid.diff() < 0).all() and grid[-1] == -1 and grid[0] <= process.T - 1
    half = time_grid(process, steps, spacing, start=process.T / 2)
    assert half[0] <= process.T / 2 + 1e-6 and half[-1] == -1


@pytest.mark.parametrize("process", [p for p in PROCESSES if p.levels(p.T - 1).alpha < 0.1], ids=lambda p: p.schedule)
@pytest.mark.parametrize("name", NAMES)
def test_samplers_keep_the_spread_of_the_data(process, name):
    x = diffuse(process, perfect(process), (4000, 1), ItemNoise(range(4000)), name, 200)
    assert abs(x.std().item() - 0.5) < 0.03 and abs(x.mean().item()) < 0.03


@pytest.mark.parametrize("rank", [(1, 40), (2, 6, 8), (3, 2, 4, 4)])
@pytest.mark.parametrize("name", [*NAMES, "fast"])
def test_items_do_not_depend_on_their_batch(name, rank):
    process = DiffusionProcess()
    make = lambda seeds: diffuse(process, perfect(process), (len(seeds), *rank), ItemNoise(seeds), name, None if name == "fast" else 6)
    assert torch.allclose(make([3, 4, 5])[1:2], make([4]), atol=1e-5)


def test_identities_of_samplers():
    process = PROCESSES[3]
    d, x = process.denoiser(perfect(process)), torch.randn(4, 1, 20, dtype=torch.float64)
    grid, seeds = time_grid(process, 9), range(4)
    assert torch.allclose(sample_ddim(d, x, grid, ItemNoise(seeds), 1.0), sample_ddpm(d, x, grid, ItemNoise(seeds)), atol=1e-6)
    assert torch.allclose(sample_euler(d, x, grid), sample_ddim(d, x, grid), atol=1e-6)
    exact = sample_ddim(d, x, time_grid(process, 5000))
    errors = [(f(d, x, time_grid(process, 30, "karras")) - exact).abs().max() for f in (sample_ddim, sample_dpm, sample_heun)]
    assert errors[1] < errors[0] / 3 and errors[2] < errors[0] / 3


@pytest.mark.parametrize("name", [*NAMES, "fast"])
def test_kept_parts_are_kept_and_loops_have_no_place(name):
    process = DiffusionProcess()
    known, mask = torch.randn(2, 1, 60), torch.arange(60) % 20 > 9
    steps = None if name == "fast" else 8
    x = diffuse(process, perfect(process), (2, 1, 60), ItemNoise([0, 1]), name, steps, init=known, mask=mask)
    assert torch.allclose(x[..., ~mask], known[..., ~mask], atol=1e-5) and not torch.allclose(x[..., mask], known[..., mask], atol=0.1)
    place = torch.linspace(-1, 1, 60)  # a network that knows where it is: in a ring it must not
    loop = diffuse(process, lambda x, t: 0 * x + place, (1, 1, 60), ItemNoise([0]), name, steps, loop=True)
    plain = diffuse(process, lambda x, t: 0 * x + place, (1, 1, 60), ItemNoise([0]), name, steps)
    assert not torch.allclose(loop, plain, atol=1e-3)


def test_a_ring_comes_back_to_its_place():
    process = DiffusionProcess("squaredcos", T=100, prediction="v")
    d, x = process.denoiser(perfect(process)), torch.randn(1, 1, 48)
    grid = time_grid(process, 5)
    assert torch.allclose(sample_ddim(looping(d), x, grid), sample_ddim(d, x, grid), atol=1e-6)
    assert torch.allclose(sample_ddim(looping(d, 16), x, grid), sample_ddim(d, x, grid), atol=1e-6)
    assert torch.equal(sample_ddim(keeping(d, x, torch.zeros(48, dtype=torch.bool)), x, grid), x)


@pytest.mark.parametrize("net", [{}, dict(patch=8), dict(patch=8, gain=True), dict(weight_norm=True), dict(residual_includes_t=True)])
def test_wavenet_items_and_weight_norm(net):
    torch.manual_seed(1)
    wave = WaveNet(replace(SMALL, n_classes=3, **net)).eval()
    nn.init.normal_(wave.output.weight)
    x, t, classes = torch.randn(3, 1, 64), torch.tensor([0.0, 5.5, 99.0]), torch.eye(3)
    with torch.no_grad():
        y = wave(x, t, classes)
        for k in range(3):
            assert torch.allclose(wave(x[k:k + 1], t[k:k + 1], classes[k:k + 1]), y[k:k + 1], atol=1e-5)
        assert torch.allclose(without_weight_norm(wave)(x, t, classes), y, atol=1e-5)


def test_a_gain_can_hand_noise_through():
    "In silence the right v is alpha times the noise: a gain of alpha says so at every time from sigma = 0.1 on"
    process = DiffusionProcess("squaredcos", T=100, prediction="v")
    t = torch.tensor([20.0, 50.0, 99.0])
    alpha, sigma = process.levels(t)
    item = process.training_item(torch.zeros(3, 1, 40), t)
    gain = alpha.float()[:, None, None].expand(3, 1, 40)
    assert torch.allclose(gained(torch.cat([gain, torch.zeros_like(gain)], 1), item.x, sigma), item.target, atol=1e-5)
    assert gained(item.x, item.x, sigma) is item.x
    made = model(net=dict(gain=True, patch=4)).sample(["low", "high"], seed=0, progress=False)
    assert made.audio.shape == (2, 1, 800)


def patched(labels=("low", "high"), **config):
    torch.manual_seed(0)
    m = PatchDiffusion(PatchDiffusionConfig(PatchNetConfig(16, 8, 2, 2), labels=labels, seconds=0.05, **config))
    for layer in (m.net.told, m.net.last, m.net.leave):
        nn.init.normal_(layer.weight, std=0.1)
    return m.eval()


def test_a_fresh_block_changes_nothing_and_a_fresh_network_says_nothing():
    x = torch.randn(2, 6, 8)
    assert torch.equal(PatchBlock(8, 2)(x, torch.zeros(2, 1, 6, 8)), x)
    net = PatchNet(PatchNetConfig(16, 8, 2, 2, n_classes=3))
    assert not net(torch.randn(2, 1, 64), torch.tensor([3.0, 99.0]), torch.eye(3)[:2]).any()


def test_columns_know_their_place_time_and_class():
    m = patched()
    x, t = torch.randn(1, 1, 64), torch.tensor([300.0])
    with torch.no_grad():
        y = m.net(x, t, torch.tensor([[1.0, 0.0]]))
        assert not torch.allclose(m.net(x.roll(16, -1), t, torch.tensor([[1.0, 0.0]])), y.roll(16, -1), atol=1e-4)
        assert not torch.allclose(m.net(x, t + 200, torch.tensor([[1.0, 0.0]])), y, atol=1e-5)
        assert not torch.allclose(m.net(x, t, torch.tensor([[0.0, 1.0]])), y, atol=1e-5)
        assert torch.equal(m.net(x, t), m.net(x, t, torch.zeros(1, 2)))  # no class asked for


def test_patches_sample_mend_vary_and_are_saved(tmp_path):
    m = patched()
    both = m.sample(["low", "high"], seed=4, steps=4, progress=False)
    assert both.audio.shape == (2, 1, 800)
    assert torch.allclose(m.sample("high", seed=5, steps=4, progress=False).audio[0], both.audio[1], atol=1e-5)
    first = m.sample("low", seed=0, steps=4, progress=False)
    hole = m.sample("high", seed=1, steps=4, init=first, mask=(0.01, 0.03), progress=False).audio[0, 0]
    assert torch.allclose(hole[:160], first.audio[0, 0, :160], atol=1e-6) and not torch.allclose(hole[160:480], first.audio[0, 0, 160:480])
    again = Generator.from_pretrained(m.save_pretrained(tmp_path / "m"))
    assert type(again) is PatchDiffusion
    assert torch.equal(again.sample(["low", "high"], seed=4, steps=4, progress=False).audio, both.audio)
    assert m.sample("low", seconds=0.0507, seed=0, steps=2, progress=False).audio.shape[-1] == round(0.0507 * 16000)


def test_patches_refuse_what_they_cannot():
    with pytest.raises(ValueError, match="cannot honour"):
        patched().sample("low", seed=0, loop=True, progress=False)
    with pytest.raises(SettingsError, match="follows no log-mel"):
        patched((), mel=MelConfig())


def test_oneshot_preset_draws_every_kind_as_often():
    recipe = find_recipe("oneshot-diffwave")
    assert recipe.balance == 1 and not recipe.trim and recipe.model.sample_rate == 16000 and recipe.seconds == recipe.model.seconds


def test_the_two_networks_of_one_shots_compete_on_equal_terms():
    "As many weights within a twentieth, the same clips drawn alike; fewer steps, for each costs more"
    patches, wavenet = (find_recipe(n) for n in ("oneshot-diffwave", "oneshot-wavenet"))
    with torch.device("meta"):
        nets = PatchNet(replace(patches.model.net, n_classes=6)), WaveNet(replace(wavenet.model.net, n_classes=6))
    sizes = [sum(p.numel() for p in n.parameters()) for n in nets]
    assert abs(sizes[1] / sizes[0] - 1) < 0.05 and wavenet.steps < patches.steps
    own = ("name", "model", "steps")
    assert {k: v for k, v in vars(patches).items() if k not in own} == {k: v for k, v in vars(wavenet).items() if k not in own}
    assert [getattr(r.model, k) for r in (patches, wavenet) for k in ("sample_rate", "seconds", "guidance")] == [16000, 0.6, 3.0] * 2


def test_it_sees_as_far_as_it_says():
    torch.manual_seed(0)
    wave = WaveNet(replace(SMALL, n_layers=3, cycle=3))
    nn.init.normal_(wave.output.weight)
    x = torch.randn(1, 1, 101, requires_grad=True)
    wave(x, torch.zeros(1))[0, 0, 50].backward()
    seen = x.grad[0, 0].nonzero()[:, 0]
    assert (seen.min(), seen.max()) == (50 - 7, 50 + 7)  # 1 + 2 + 4


def test_seconds_masks_strength_and_continuation():
    m = model()
    both = m.sample(["low", "high"], seed=4, guidance=2.0, progress=False)
    assert both.audio.shape == (2, 1, 800) and torch.allclose(m.sample("high", seed=5, guidance=2.0).audio[0], both.audio[1], atol=1e-5)
    first = m.sample("low", seed=0, progress=False)
    hole = m.sample("high", seed=1, init=first, mask=(0.01, 0.03), progress=False).audio[0, 0]
    same = (hole - first.audio[0, 0]).abs() < 1e-6
    assert same[:160].all() and same[480:].all() and not same[160:480].all()
    longer = m.sample("low", seed=1, init=first, seconds=0.08, progress=False).audio[0, 0]
    assert torch.allclose(longer[:800], first.audio[0, 0], atol=1e-6) and len(longer) == 1280
    kept = m.sample("low", seed=2, init=first, strength=0.0, progress=False).audio
    assert torch.allclose(kept, first.audio, atol=1e-6)
    near, far = ((m.sample("low", seed=2, init=first, strength=s, progress=False).audio - kept).square().mean() for s in (0.1, 1.0))
    assert near < far
    odd = model(net=dict(patch=32)).sample("low", seconds=0.0507, seed=0, progress=False)
    assert odd.audio.shape[-1] == round(0.0507 * 16000)


def test_guidance_0_asks_for_nothing_also_outside_the_interval():
    m = model()
    torch.nn.init.normal_(m.net.output.weight)
    low, high = (m.sample(c, seed=4, guidance=0, progress=False).audio for c in ("low", "high"))
    assert torch.equal(low, high) and not torch.equal(low, m.sample("low", seed=4, progress=False).audio)
    x, t = torch.randn(1, 1, 8), torch.tensor([99.0])
    for scale, answer in ((0, -x), (1, x), (3, x)):
        assert torch.equal(guided(lambda x, t: x, lambda x, t: -x, scale, (0.1, 0.9), 100)(x, t), answer)


def test_steps_are_told_and_samplers_bring_their_own():
    m, seen = model(steps=5), []
    m.sample("low", seed=0, on_step=lambda k, n, x: seen.append((k, n, x.shape)), progress=False)
    assert seen == [(k, 5, (1, 1, 800)) for k in range(1, 6)]
    asked = [m.sample("low", seed=0, sampler=s, progress=False).meta["arguments"]["steps"] for s in ("ddim", "heun", "euler")]
    assert asked == [SAMPLERS[s][2] for s in ("ddim", "heun", "euler")]


@pytest.mark.parametrize("ask,told", [
    (dict(sampler="ddmi"), "or ddim"), (dict(sampler="fast", steps=9), "has 6 steps"), (dict(temperature=0.5), "cannot honour"),
    (dict(strength=0.5), "needs init"), (dict(seconds=-1.0), "above 0"), (dict(loop=True, seconds=0.0501), "no multiple")])
def test_bad_requests(ask, told):
    with pytest.raises(ValueError, match=told):
        model(net=dict(patch=32), process=DiffusionProcess()).sample("low", seed=0, progress=False, **ask)


def test_bad_settings():
    for wrong in (dict(schedule="cosine"), dict(T=0), dict(beta_0=0.5, beta_T=0.1), dict(schedule="flow"), dict(prediction="noise")):
        with pytest.raises(SettingsError):
            DiffusionProcess(**wrong)
    with pytest.raises(ValueError, match="outside the training range"):
        align_steps(DiffusionProcess(T=50, beta_T=0.05), [1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.7])
    with pytest.raises(ValueError, match="must fall"):
        DiffusionProcess().denoiser(None).path([1, 2, -1])
    with pytest.raises(SettingsError, match="the hop is 256"):
        DiffWave(DiffWaveConfig(WaveNetConfig(upsample=(4, 4)), mel=MelConfig(hop_length=256)))
    with pytest.raises(ValueError, match="no multiple of patch"):
        WaveNet(replace(SMALL, patch=16))(torch.zeros(1, 1, 40), torch.zeros(1))


MEL = MelConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=24, n_mels=10, f_max=None)


def test_following_a_mel(tmp_path):
    m = model((), net=dict(n_mels=10, upsample=(3, 4), patch=2), mel=MEL, sample_rate=8000)
    x = 0.1 * torch.randn(2, 24 * 30)
    mel = log_mel(x, MEL)
    y = m.vocode(mel, steps=3, seed=5)
    assert y.shape == (2, 1, mel.shape[-1] * 24) and m.asks == {"features"}
    assert torch.allclose(m.vocode(mel[1], steps=3, seed=6)[0], y[1], atol=1e-5)
    with pytest.raises(ValueError, match="follows a log-mel"):
        m.sample(seed=0, progress=False)
    with pytest.raises(ValueError, match="covers 240 samples"):
        m.sample(features=mel[0, :, :10].T, seconds=0.05, seed=0, progress=False)
    with pytest.raises(ValueError, match="10 bands"):
        m.sample(features=torch.zeros(10, 7), seed=0, progress=False)
    with pytest.raises(ValueError, match="covers 16 positions"):
        m.net(torch.zeros(1, 1, 240), torch.zeros(1), None, mel[:1, :, :1])
    again = Generator.from_pretrained(m.save_pretrained(tmp_path / "m"))
    assert torch.equal(again.vocode(mel, steps=3, seed=5), y)


def test_half_precision_is_near():
    m = model(())
    full = m.sample(n=2, seed=0, progress=False).audio
    assert m.choose_precision("bf16") and not torch.equal(half := m.sample(n=2, seed=0, progress=False).audio, full)
    assert (half - full).norm() / full.norm() < 0.05
    assert m.choose_precision("float32") is False and m.choose_precision("auto") in (True, False)


@pytest.mark.parametrize("size", [dict(n_layers=6, cycle=3), dict(patch=4, gain=True), dict(n_classes=3, skip_channels=24), dict(weight_norm=True),
                                  dict(residual_includes_t=True), dict(n_mels=10, upsample=(4, 4))])
def test_a_wavenet_held_in_bf16_answers_nearly_the_same(size):
    torch.manual_seed(0)
    net = WaveNet(replace(SMALL, **size)).eval()
    torch.nn.init.normal_(net.output.weight, std=0.3)
    x, t = torch.randn(2, 1, 320), torch.tensor([3.0, 700.5])
    classes = torch.tensor([[0.0, 1, 0], [0.5, 0.5, 0]]) if "n_classes" in size else None
    mel = torch.randn(2, 10, 20) if "n_mels" in size else None
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        held, exact = HeldWaveNet(net), net(x, t, classes, mel)
        near = held(x, t, classes, mel)
        alone = held(x[1:], t[1:], classes if classes is None else classes[1:], mel if mel is None else mel[1:])
        kept = held(x, t, classes, mel if mel is None else held.mel_terms(mel, 320))
    assert near.dtype == torch.float32 and near.shape == exact.shape and torch.equal(kept, near)
    assert 1e-5 < (near - exact).norm() / exact.norm() < 0.02 and torch.allclose(alone, near[1:], atol=2e-3)
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items()) and not list(held.parameters())
    if mel is not None:
        with pytest.raises(ValueError, match="follows a log-mel"):
            held(x, t)
    if "patch" in size:
        with pytest.raises(ValueError, match="no multiple of patch=4"):
            held(x[..., :318], t)


def test_a_wavenet_is_held_only_while_it_is_asked_for_sounds():
    m = model(())
    m.set_precision("bf16")
    assert m.asked is m.net
    with torch.no_grad():
        assert type(m.asked) is HeldWaveNet and m.asked is m.asked
        before = m.asked
        m.net.layers[0].out.bias.add_(1)
        assert m.asked is not before
        assert m.set_precision("float32").asked is m.net
    with pytest.raises(ValueError, match="'int8'.*'float32', 'bf16' or 'auto'"):
        m.set_precision("int8")


def test_published_files_that_do_not_fit(tmp_path):
    with pytest.raises(CheckpointError, match="not a WaveNet of DiffWave"):
        DiffWave.from_original({"model_state_dict": {"d_layers.0.norm1.m": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="no such file"):
        DiffWave.from_original(tmp_path / "1000000.pkl")
    pointer = tmp_path / "pointer.pkl"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(CheckpointError):
        DiffWave.from_original(pointer)
    with pytest.raises(CheckpointError, match="different weights"):
        average_weights([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])
    assert average_weights([{"a": torch.zeros(2)}, {"a": torch.ones(2)}])["a"].tolist() == [0.5, 0.5]


def test_classes_are_withheld_at_their_share():
    torch.manual_seed(0)
    shares = told_classes(torch.zeros(2000).long(), 3, 0.25)
    assert shares.shape == (2000, 3) and abs((shares.sum(1) == 0).float().mean() - 0.25) < 0.04
    assert told_classes(torch.zeros(4).long(), 0) is None
    assert diffusion_loss(torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([1.0, 3.0])) == 2.0


def test_presets_say_what_they_are():
    sc09, small = find_recipe("sc09"), find_recipe("sc09-small")
    assert (sc09.model.net.channels, small.model.net.channels) == (256, 128)
    assert sc09.model.process == DiffusionProcess() and sc09.level == 1
    assert (sc09.lr, sc09.optimizer, sc09.ema, sc09.schedule) == (2e-4, "adam", 0, "constant")
    lj = find_recipe("ljspeech").model
    assert math.prod(lj.net.upsample) == lj.mel.hop_length == 256 and lj.process.T == 50
    foley = find_recipe("foley-vocoder-diffwave").model
    assert foley.mel == MelConfig.preset("fullband") and math.prod(foley.net.upsample) * foley.net.patch == 512
    with pytest.raises(SettingsError, match="class_dropout"):
        find_recipe("ljspeech").override(class_dropout=0.3)


class Breaking(DiffWaveRecipe):
    "Its loss is no number any more after six batches"

    def loss_func(self):
        seen = []

        def loss(answer, target, weight):
            seen.append(1)
            return diffusion_loss(answer, target, weight) * (math.nan if len(seen) > 6 else 1.0)

        return loss


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    cache = WaveCache.build(make_procedural(tmp_path / "clips", ["rain", "footstep"], n=4, seconds=0.2, sample_rate=8000, n_jobs=1), 8000, 0.2,
                            tmp_path / "cache", n_jobs=1, progress=False)
    recipe = Breaking(model=DiffWaveConfig(SMALL, sample_rate=8000), seconds=0.2, steps=200, epoch_steps=5, batch_size=2, ema=0.0)
    with pytest.raises(TrainingError, match="not finite 50 times in a row"):
        recipe.train(cache, tmp_path / "run", progress=False)
    kept = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert kept and not (tmp_path / "run" / "model.safetensors").exists()
    for folder in kept:
        weights, _, _ = read_checkpoint(folder)
        assert all(v.isfinite().all() for v in weights.values())


@each_process
@pytest.mark.parametrize("name", NAMES)
def test_any_strength_gives_falling_times(process, name):
    init = torch.randn(1, 1, 12)
    for strength in (1e-4, 0.02, 0.3, 0.999):
        x = diffuse(process, perfect(process), (1, 1, 12), ItemNoise([0]), name, 5, init=init, strength=strength)
        assert x.isfinite().all() and (strength > 0.1 or (x - init).abs().max() < 1.5)
