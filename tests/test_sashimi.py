"""S4 in its forms, SaShiMi with and without the future, what its generators do with lengths, streams, masks and bad input"""
import copy
import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foleybook.audio_features import MelConfig, mu_law_encode
from foleybook.core.files import CheckpointError
from foleybook.core.generator import Generator
from foleybook.train.recipes import find_recipe
from foleybook.kernels.cauchy import cauchy
from foleybook.kernels.long_convolution import laid_out, long_convolution
from foleybook.published.s4 import (
    PublishedNetConfig, PublishedS4, PublishedS4Config, PublishedSashimiNet, PublishedSashimiRecipe, PublishedSashimiWave, PublishedStateSpace,
    PublishedWaveConfig, memory, start)
from foleybook.sashimi import (
    S4, S4Config, Sashimi, SashimiAR, SashimiARConfig, SashimiConfig, SashimiNet, SashimiNetConfig, SashimiWave,
    SashimiWaveConfig, StateSpace, Stepper, advance, discretize, dplr_kernel, hippo, swings, vandermonde)
from foleybook.core.settings import SettingsError, from_plain, to_plain

S4D = dict(kind="diagonal", init="lin", rule="zoh", d_state=8)
TINY = dict(d_model=8, n_layers=1, pool=(2, 2), length=64)
NET = dict(TINY, step_width=8, hidden=8, step_out=8, layer=S4Config(**S4D, bidirectional=True))
SPEAKING = dict(TINY, unet=False, norm_per_channel=True, ff_apart=True, stage_skip=True, layer=S4Config(**S4D))


def wave(**net):
    torch.manual_seed(0)
    m = SashimiWave(SashimiWaveConfig(SashimiNetConfig(**NET | net), labels=("low", "high"), seconds=0.05))
    nn.init.normal_(m.net.output.weight, std=0.1)
    return m.eval()


def speaker():
    torch.manual_seed(0)
    return SashimiAR(SashimiARConfig(SashimiConfig(**SPEAKING), codes=16, sample_rate=400, seconds=0.1, labels=("a", "b"))).eval()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 999))
def test_vandermonde_is_the_sum_of_swings(n, length, seed):
    g = torch.Generator().manual_seed(seed)
    v, w = torch.randn(2, 3, n, dtype=torch.cdouble, generator=g), torch.randn(3, n, dtype=torch.cdouble, generator=g)
    w = torch.complex(-w.real.abs(), w.imag)
    plain = (v[..., None] * (w[..., None] * torch.arange(length)).exp()).sum(2).real
    assert torch.allclose(vandermonde(v, w, length), plain, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 90), st.integers(40, 4000), st.integers(0, 999))
def test_cauchy_is_the_sum_over_pairs(n, length, room, seed):
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(2, 3, n, dtype=torch.cdouble, generator=g)
    w = torch.complex(-torch.rand(3, n, generator=g).double() - 0.01, torch.randn(3, n, generator=g).double())
    angle = torch.arange(length // 2 + 1, dtype=torch.float64)[:-1] * math.pi / length
    z = 2j * angle.tan()
    both_v, both_w = torch.cat([v, v.conj()], -1), torch.cat([w, w.conj()], -1)
    plain = (both_v[..., None] / (z - both_w[..., None])).sum(-2)
    found = cauchy(v, w, length, room)
    assert found.isfinite().all() and torch.allclose(found[..., :-1] * angle.cos(), plain, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name,rank", [("legs", 1), ("legt", 2), ("fourier", 1)])
def test_a_memory_without_its_low_rank_part_only_swings(name, rank):
    A, _, P = memory(name, 12)
    normal = A + P.T @ P
    assert torch.allclose(normal @ normal.T, normal.T @ normal, atol=1e-8)
    found = start(name, 6, rank)
    assert (found.A.real < 0).all() and (found.A.imag <= 1e-6).all() and found.P.shape == (rank, 6)
    if name == "legs":
        assert all(torch.equal(a, b) for a, b in zip([*memory(name, 12), *found], [*hippo(12), *swings(name, 6)]))


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_steps_never_grow(rule):
    A = torch.complex(-torch.rand(50) * 10, torch.randn(50) * 1000)
    assert (discretize(A, torch.tensor([0.1]), rule)[0].abs() <= 1 + 1e-5).all()


FORMS = [dict(kind="dplr"), dict(kind="dplr", init="legt", rank=2), dict(kind="dplr", init="legs+fourier", n_systems=2),
         dict(kind="dplr", init="legt", rank=3), dict(S4D), dict(kind="diagonal", init="inv", rule="bilinear", dt_tied=False, dt_form="softplus"),
         dict(kind="diagonal", init="s4d-legs", rule="zoh", real_form="softplus"), dict(kind="diagonal", init="real", rule="zoh", outputs=2)]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(map(str, f.values())))
@torch.no_grad()
def test_convolution_and_steps_agree(form):
    layer = PublishedS4(PublishedS4Config(**dict(d_model=4, d_state=8, length=30) | form))
    if set(form) <= {f.name for f in fields(S4Config)} and form.get("init", "legs") in ("legs", "lin", "inv"):  # the chapter's own
        plain = S4(S4Config(**dict(d_model=4, d_state=8, length=30) | form))
        plain.load_state_dict(layer.state_dict())
        layer, published = plain, layer
        assert torch.equal(layer(torch.ones(1, 4, 30)), published(torch.ones(1, 4, 30)))
    u = torch.randn(2, 4, 30)
    whole = layer(u)
    for mode in ["dense", "diagonal", "linear"] if layer.config.kind == "dplr" else ["pairs"]:
        system, x, out = layer.space.recurrence(mode), None, []
        for u_k in u.unbind(-1):
            y, x = advance(system, u_k.double(), x)
            out.append(layer.mix((y + layer.D * u_k[:, None]).flatten(1).float()[..., None]))
        assert torch.allclose(torch.cat(out, -1), whole, atol=2e-4), mode


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(2, 40), st.floats(0.001, 0.2), st.integers(0, 99))
def test_an_s4_kernel_by_powers_by_inverses_and_by_four_sums(n, length, dt, seed):
    "The three steps of the chapter, for any size"
    parts, both = swings("legs", n), lambda x: torch.cat([x, x.conj()], -1)
    lam, B, P = map(both, (parts.A, parts.B, parts.P[0]))
    C = both(torch.randn(n, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed)))
    A, eye = lam.diag() - P[:, None] * P.conj(), torch.eye(2 * n, dtype=lam.dtype)
    dA, dB = torch.linalg.solve(eye - dt / 2 * A, eye + dt / 2 * A), torch.linalg.solve(eye - dt / 2 * A, dt * B)
    powers = torch.stack([(C @ torch.linalg.matrix_power(dA, j) @ dB).real for j in range(length)])
    C_L, omega = C @ (eye - torch.linalg.matrix_power(dA, length)), torch.exp(-2j * math.pi * torch.arange(length).double() / length)
    inverses = torch.fft.ifft(torch.stack([C_L @ torch.linalg.solve(eye - w * dA, dB) for w in omega])).real
    one = lambda x: x[:n][None, None]
    sums = dplr_kernel(torch.full((1, 1), dt).double(), parts.A[None], one(B), one(C_L), one(P), one(P.conj()), length)[0, 0, 0]
    scale = powers.abs().max()
    assert (inverses - powers).abs().max() < 1e-6 * scale and (sums - powers).abs().max() < 1e-6 * scale


def test_the_chapter_offers_what_stands_on_its_shelf():
    from foleybook import sashimi
    from foleybook.core import state_spaces

    for name in ("StateSpace", "S4Config", "Stepper", "advance", "discretize", "dplr_kernel", "hippo", "swings", "vandermonde"):
        assert getattr(sashimi, name) is getattr(state_spaces, name)


@pytest.mark.parametrize("kind", ["dplr", "diagonal"])
def test_gradients_reach_all_that_is_learned(kind):
    layer = S4(S4Config(4, 8, kind, length=16, bidirectional=True))
    layer(torch.randn(2, 4, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize("two_systems", [False, True])
@pytest.mark.parametrize("seed,width,length", [(2, 16, 512), (3, 16, 512), (7, 8, 256)])
def test_float32_is_near_float64(two_systems, seed, width, length):
    torch.manual_seed(seed)
    layer = PublishedS4Config(bidirectional=True, two_systems=two_systems, backward_lag=0 if two_systems else 1)
    net = PublishedSashimiNet(PublishedNetConfig(width, 1, (4, 4), length=length, layer=layer, hidden=32, step_out=32)).eval()
    x, t = torch.randn(2, 1, length), torch.tensor([3.0, 150.0])
    with torch.no_grad():
        net.output.weight.normal_(0, 0.3)
        for b in net.trunk.blocks():
            b.layer.space.settle(length // b.shrink)
            if two_systems:
                b.layer.space.Q.add_(torch.randn_like(b.layer.space.Q), alpha=0.1)
    found = []
    for dtype in (torch.float64, torch.float32):
        model = copy.deepcopy(net).to(dtype)
        y = model(x.to(dtype), t)
        y.square().mean().backward()
        assert y.dtype == dtype
        dt = [p.grad for n, p in model.named_parameters() if n.endswith("space.C" if two_systems else "space.dt")]
        found.append([y.detach(), *dt])
    for exact, near in zip(*found):
        assert (near - exact).norm() <= 2e-5 * exact.norm()


def test_blocks_of_the_kernel_have_the_gradients_of_the_whole():
    layer = StateSpace(S4Config(3, 16, length=1500)).double()
    one = torch.autograd.grad(layer.kernel(1500, dtype=torch.float64).square().sum(), layer.A_imag)[0]
    with pytest.MonkeyPatch.context() as m:
        m.setattr("foleybook.core.state_spaces.cauchy.__defaults__", (1200,))
        many = torch.autograd.grad(layer.kernel(1500, dtype=torch.float64).square().sum(), layer.A_imag)[0]
    assert torch.allclose(one, many, rtol=1e-9)


@torch.no_grad()
def test_a_settled_kernel_serves_shorter_and_longer_ones():
    space = StateSpace(S4Config(3, 8, length=0)).double()
    free = space.kernel(100, dtype=torch.float64)
    space.settle(30)
    assert int(space.settled) == 30
    for n in (10, 30, 100):
        assert torch.allclose(space.kernel(n, dtype=torch.float64), free[..., :n], atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 1), st.integers(1, 3000))
@torch.no_grad()
def test_long_convolution_is_a_convolution(length, samples, lag, block):
    past, future, u = torch.randn(1, 2, length), torch.randn(1, 2, length), torch.randn(3, 2, samples)
    wide = nn.functional.pad(u, (length, length + 1))
    at = lambda t, k: wide[..., length + t - k]
    plain = torch.stack([sum(past[0, :, j] * at(t, j) + future[0, :, j] * at(t, -j - lag) for j in range(length)) for t in range(samples)], -1)
    assert torch.allclose(long_convolution(u, laid_out(past, future, samples, lag), block)[:, 0], plain, atol=1e-3)


@pytest.mark.parametrize("net", [{}, dict(patch=2), dict(unet=False), dict(layer=S4Config(d_state=8, bidirectional=True))])
def test_an_item_is_the_same_alone_and_with_others(net):
    m = wave(**net)
    four = m.sample(["low", "high", "low", {"low": 1, "high": 3}], seed=10, guidance=1.5, progress=False)
    assert torch.allclose(m.sample("high", seed=11, guidance=1.5, progress=False).audio, four.audio[1:2], atol=1e-5)
    assert four.audio.shape == (4, 1, 800) and m.net.held is None


def test_held_kernels_do_not_outlive_the_weights_they_were_made_of():
    m = wave()
    x, t = torch.randn(1, 1, 64), torch.tensor([100.0])
    with torch.no_grad():
        before = m.predictor(m.conditions("low"))(x, t)
        for p in m.net.trunk.parameters():
            p.mul_(1.5)
        after = m.predictor(m.conditions("low"))(x, t)
        assert not torch.allclose(before, after, atol=1e-4) and torch.allclose(m(x, t, torch.eye(2)[:1]), after, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_lengths_masks_and_loops(steps):
    m = wave()
    for seconds in (0.011, 0.05, 0.093):
        assert m.sample("low", seed=1, seconds=seconds, steps=steps, progress=False).audio.shape[-1] == round(seconds * 16000)
    first = m.sample("low", seed=1, progress=False)
    hole = m.sample("high", seed=2, init=first, mask=(0.02, 0.03), progress=False).audio
    assert torch.allclose(hole[..., :320] / hole.abs().max(), first.audio[..., :320] / hole.abs().max(), atol=1e-3)
    assert m.sample("low", seed=1, loop=True, progress=False).audio.shape[-1] == 800


def test_mel_is_followed_at_every_rate():
    more = dict(n_mels=5, upsample=(4, 2))
    published = PublishedSashimiNet(PublishedNetConfig(**NET | more | dict(layer=PublishedS4Config(**S4D, bidirectional=True))))
    for net in (SashimiNet(SashimiNetConfig(**NET | more)).eval(), published.eval()):
        cut = net is published
        nn.init.normal_(net.output.weight)
        mel = torch.randn(1, 5, 8, requires_grad=True)
        terms = net.follow(mel, 64)
        middle = terms[1]  # the lowest rate
        seen = torch.autograd.grad(middle.sum(), mel)[0].abs().sum((0, 1)) > 0
        assert seen.all() != cut and seen[0]
        assert torch.allclose(net(torch.zeros(1, 1, 64), torch.zeros(1), None, terms), net(torch.zeros(1, 1, 64), torch.zeros(1), None, mel))
    with pytest.raises(ValueError, match="covers 64 positions, but the sound has 80"):
        net(torch.zeros(1, 1, 80), torch.zeros(1), None, torch.randn(1, 5, 8))
    with pytest.raises(ValueError, match="follows a log-mel"):
        net(torch.zeros(1, 1, 64), torch.zeros(1))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="66 samples are no multiple of 4"):
        wave().net(torch.zeros(1, 1, 66), torch.zeros(1))
    with pytest.raises(SettingsError, match="Did you mean diagonal"):
        S4Config(kind="diagonl")
    with pytest.raises(SettingsError, match="odd"):
        S4Config(d_state=7)
    with pytest.raises(ValueError, match="no memory 'leggs'"):
        StateSpace(S4Config(init="leggs"))
    with pytest.raises(SettingsError, match="rule='dss'"):
        S4Config(rule="dss")
    with pytest.raises(ValueError, match="legt needs rank=2"):
        PublishedStateSpace(PublishedS4Config(init="legt"))
    with pytest.raises(ValueError, match="no memory 'leggs'. Use legs, legt"):
        PublishedStateSpace(PublishedS4Config(init="leggs"))
    with pytest.raises(SettingsError, match="do not divide"):
        PublishedStateSpace(PublishedS4Config(4, n_systems=3))
    with pytest.raises(SettingsError, match="knows the future"):
        SashimiAR(SashimiARConfig(SashimiConfig(**TINY)))
    with pytest.raises(ValueError, match="cannot step"):
        Stepper(Sashimi(SashimiConfig(**TINY)))
    with pytest.raises(SettingsError, match="upsample"):
        SashimiNetConfig(n_mels=3)


def test_files_that_are_no_sashimi_are_refused():
    for cls in (SashimiWave, S4, StateSpace, Sashimi):
        with pytest.raises(CheckpointError):
            cls.from_original({"a": torch.zeros(1)})


@pytest.mark.parametrize("unet", [True, False])
@torch.no_grad()
def test_speaking_step_by_step(unet):
    trunk = Sashimi(SashimiConfig(**SPEAKING | dict(unet=unet, stage_skip=not unet, n_layers=2))).eval()
    x, stepper = torch.randn(3, 8, 32), Stepper(trunk, 3)
    assert torch.allclose(torch.stack([stepper(u) for u in x.unbind(-1)], -1), trunk(x), atol=1e-4)
    size = lambda: sum(t.numel() for t in stepper.state.values()) + sum(sum(p.numel() for p in v) for v in stepper.due.values())
    before = size()
    for u in x.unbind(-1):
        stepper(u)
    assert size() == before  # memory does not grow


def test_a_speaker_streams_what_it_samples_and_listens_first():
    m = speaker()
    whole = m.sample(["a", "b"], seed=3, temperature=0.7, progress=False).audio
    blocks = [b.audio for b in m.stream(["a", "b"], seed=3, temperature=0.7, block=0.03)]
    assert torch.equal(torch.cat(blocks, -1), whole) and torch.equal(m.sample("b", seed=4, temperature=0.7, progress=False).audio[0], whole[1])
    longer = m.sample("a", seed=9, init=whole[:1], seconds=0.2, progress=False).audio
    assert torch.allclose(longer[..., :40], whole[:1], atol=1e-5)
    given = mu_law_encode(whole[:, 0], 16)
    with torch.no_grad():
        logits = m(given, torch.eye(2))
        later = given.clone()
        later[:, 20] = 15 - later[:, 20]
        assert torch.allclose(m(later, torch.eye(2))[..., :21], logits[..., :21], atol=1e-4)
        assert not torch.allclose(m(later, torch.eye(2))[..., 21:], logits[..., 21:], atol=1e-4)


def test_folders_are_models(tmp_path):
    for m in (wave(), speaker()):
        m.save_pretrained(tmp_path / type(m).__name__)
        again = Generator.from_pretrained(tmp_path / type(m).__name__)
        assert torch.equal(again.sample(0, seed=1, progress=False).audio, m.sample(0, seed=1, progress=False).audio)


def test_published_sizes():
    net = find_recipe("sashimi_small").model.net
    assert sum(p.numel() for p in PublishedSashimiNet(net).parameters()) == 7_734_267
    large = find_recipe("sashimi").model.net
    assert replace(large, d_model=64) == net and large.d_model == 128 and large.layer.kind == "dplr"


def test_mel_conditional_model_vocodes():
    mel = MelConfig.preset("diffwave_ljspeech").replace(n_mels=5, hop_length=8, n_fft=64, win_length=64, sample_rate=800, f_max=400.0)
    net = SashimiNetConfig(**NET | dict(n_mels=5, upsample=(4, 2)))
    m = SashimiWave(SashimiWaveConfig(net, sample_rate=800, seconds=0.08, mel=mel)).eval()
    nn.init.normal_(m.net.output.weight, std=0.1)
    assert m.vocode(torch.randn(2, 5, 8)).shape == (2, 1, 64)


def test_the_chapter_has_no_published_option():
    here = {f.name for c in (S4Config, SashimiNetConfig) for f in fields(c)}
    assert not here & {"rank", "n_systems", "outputs", "dt_form", "two_systems", "backward_lag", "gate", "weight_norm", "norm_eps", "cut_mel"}
    published = {f.name for f in fields(PublishedS4Config)}
    assert set(S4Config.moved) <= published


def test_folders_written_before_the_options_moved_open(tmp_path):
    "Fields that left the class are dropped where they said nothing, and named where they did"
    before = to_plain(SashimiNetConfig(**NET))
    before |= SashimiConfig.moved
    before["layer"] |= S4Config.moved
    assert from_plain(SashimiNetConfig, before) == SashimiNetConfig(**NET)
    with pytest.raises(SettingsError, match="two_systems=True belongs to a published network.*from_original"):
        from_plain(SashimiNetConfig, before | dict(layer=before["layer"] | dict(two_systems=True)))
    assert from_plain(PublishedNetConfig, dict(layer=dict(two_systems=True))).layer.two_systems


def test_a_published_network_is_kept_in_a_folder(tmp_path):
    torch.manual_seed(0)
    layer = PublishedS4Config(d_state=8, bidirectional=True, two_systems=True, gate=False, backward_lag=0, length=64)
    m = PublishedSashimiWave(PublishedWaveConfig(PublishedNetConfig(**NET | dict(layer=layer)), seconds=0.02)).eval()
    nn.init.normal_(m.net.output.weight, std=0.1)
    m.save_pretrained(tmp_path / "m")
    again = Generator.from_pretrained(tmp_path / "m")
    assert type(again) is PublishedSashimiWave and again.config == m.config
    assert torch.equal(again.sample(seed=1, progress=False).audio, m.sample(seed=1, progress=False).audio)
    assert find_recipe("sashimi").kind is PublishedSashimiWave and isinstance(find_recipe("sashimi"), PublishedSashimiRecipe)
