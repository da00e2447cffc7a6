"""The contract of sampling: what is asked is honoured or refused, what is kept stays, what is made is finished"""
import math
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile as sf
import torch

from foleybook.core.sounds import CEILING, Finish, SamplingError, Sounds
from foleybook.core.generator import channel_levels, Conditions, crossfaded, Generator, mask_samples
from foleybook.core.randomness import ItemNoise

RATE = 8000


@dataclass
class EchoConfig:
    labels: tuple[str, ...] = ("low", "high")
    sample_rate: int = RATE


class Echo(Generator):
    "Noise, or what `wave` says; hears nothing"
    asks = frozenset({"label", "shares", "controls", "features", "text"})
    honours = frozenset({"seconds", "temperature", "guidance", "sampler", "init", "mask", "strength", "loop", "on_step"})
    control_names, default_seconds, longest_seconds = ("level",), 0.5, 2.0
    level, wave, seen = 0.1, None, ()

    def __init__(self, config: EchoConfig = None):
        super().__init__()
        self.config = config or EchoConfig()
        self.labels, self.seen = list(self.config.labels), []

    def _sample(self, cond, n, seeds, seconds, **asked):
        self.seen.append(dict(asked, seconds=seconds, seeds=list(seeds)))
        t = round(seconds * self.sample_rate)
        noise = ItemNoise(seeds).randn(1, t) if self.wave is None else self.wave[:t].expand(n, 1, t)
        return self.level * asked.get("temperature", 1.0) * noise

    def _stream(self, cond, n, seeds, block, **asked): yield from self._sample(cond, n, seeds, **asked).split(block, -1)


@pytest.fixture
def echo(): return Echo()


def joined(blocks): return torch.cat([b.audio for b in blocks], -1)


def hum(seconds, level=0.5, rate=RATE):
    return level * torch.sin(2 * math.pi * 200 * torch.arange(round(seconds * rate)) / rate)


# ---- finite, below -1 dBFS, faded; blocks joined are the whole ----


@pytest.mark.parametrize("block", [0.0004, 0.004, 0.005, 0.0375, 0.1, 3.0])
@pytest.mark.parametrize("level", [0.1, 0.5, 3.0])
def test_blocks_joined_are_the_whole_also_where_a_peak_passes_one(echo, block, level):
    echo.level = level
    if block < 0.001: echo.default_seconds = 0.06
    whole = echo.sample("low", n=2, seed=3)
    assert torch.equal(joined(echo.stream("low", n=2, seed=3, block=block)), whole.audio)
    assert whole.audio.abs().max() <= CEILING + 1e-6


def test_the_limiter_leaves_alone_what_is_not_too_loud():
    x = hum(1.0)[None, None]
    finished = Finish(RATE)(x, last=True)
    assert torch.equal(finished[..., 40:-40], x[..., 40:-40]) and finished[..., [0, -1]].abs().max() < 1e-3
    x[..., 4000:4080] *= 4
    finished = Finish(RATE)(x, last=True)
    assert torch.equal(finished[..., 40:3900], x[..., 40:3900]) and torch.equal(finished[..., 4300:-40], x[..., 4300:-40])
    assert finished.abs().max() <= CEILING + 1e-6 and torch.equal(finished.sign(), x.sign())


def test_the_ends_are_faded_and_those_of_a_loop_are_not(echo):
    echo.wave = torch.ones(RATE)
    made = echo.sample("low", seconds=0.5).audio[0, 0]
    assert made[0] < 1e-3 > made[-1] and torch.equal(made[40:-40], torch.full((3920,), 0.1))
    assert torch.equal(echo.sample("low", seconds=0.5, loop=True).audio[0, 0], torch.full((4000,), 0.1))


def test_the_limiter_of_a_loop_sees_a_ring(echo):
    echo.level, echo.wave = 1.0, torch.full((4000,), 0.5)
    echo.wave[:20] = 2.0
    made = echo.sample("low", loop=True).audio[0, 0]
    assert made[-20:].max() < 0.4 and made.abs().max() <= CEILING + 1e-6
    turned = Echo()
    turned.level, turned.wave = 1.0, echo.wave.roll(2000)
    assert torch.allclose(turned.sample("low", loop=True).audio[0, 0].roll(-2000), made)


@pytest.mark.parametrize("bad, told", [(float("nan"), "NaN"), (float("inf"), "NaN or inf"), (0.0, "silent")])
def test_what_is_no_sound_is_refused(echo, bad, told):
    echo.wave = torch.full((4000,), bad)
    with pytest.raises(SamplingError, match=told): echo.sample("low")
    if bad:
        with pytest.raises(SamplingError, match=told): list(echo.stream("low"))


def test_a_stream_may_pause(echo):
    echo.wave = torch.cat([torch.ones(1000), torch.zeros(2000), torch.ones(1000)])
    assert torch.equal(joined(echo.stream("low", block=0.05)), echo.sample("low").audio)


def test_one_silent_sound_of_several_can_be_taken_out():
    x = torch.stack([hum(0.1)[None], torch.zeros(1, 800)])
    with pytest.warns(UserWarning, match="silent"): both = Sounds(x, RATE)
    assert torch.equal(both[1].audio, x[1:])


def test_a_stream_without_end():
    class Drone(Echo):
        endless, longest_seconds = True, None

        def _stream(self, cond, n, seeds, block, seconds, **asked):
            assert seconds > 1e5
            while True: yield torch.full((n, 1, block), 0.1)

    blocks = Drone().stream("low", block=0.1)
    assert sum(next(blocks).audio.shape[-1] for _ in range(20)) == 20 * 800 - 40
    with pytest.raises(ValueError, match="controls as points"): Drone().stream("low", controls=dict(level=[0, 1]))
    next(Drone().stream("low", controls=dict(level=0.3)))


# ---- what is kept ----


def stereo(seconds, rate=RATE, level=0.4):
    x = level * torch.randn(1, 2, round(seconds * rate), generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    x[:, 1] *= 0.25
    return x


@pytest.mark.parametrize("rate", [RATE, 22050, 48000])
@pytest.mark.parametrize("level", [0.1, 1.4])
def test_what_is_kept_of_a_recording_is_kept_sample_for_sample(echo, tmp_path, rate, level):
    x = stereo(1.0, rate, level)
    sf.write(tmp_path / "a.wav", x[0].T.numpy(), rate, subtype="FLOAT")
    for init in (tmp_path / "a.wav", Sounds(x, rate, part=True)):
        made = echo.sample("low", init=init, mask=(0.4, 0.6), seed=0)
        new = mask_samples((0.4, 0.6), rate, rate)
        assert made.sample_rate == rate and made.audio.shape == x.shape
        assert torch.equal(made.audio[..., ~new], x[..., ~new]) and not torch.equal(made.audio[..., new], x[..., new])
        longer = echo.sample("low", init=init, seconds=1.3, seed=0)
        assert longer.audio.shape[-1] == round(1.3 * rate) and torch.equal(longer.audio[..., :rate], x)
        assert longer.audio[0, 0, -1].abs() < 1e-2 and longer.audio[..., rate:].square().mean() > 1e-6


def test_new_sound_is_as_loud_in_each_channel_as_the_recording_is_there(echo):
    x = stereo(1.0, 16000)
    made = echo.sample("low", init=Sounds(x, 16000), mask=(0.3, 0.7), seed=0).audio[0, :, 5600:10400]
    assert abs(made[1].std() / made[0].std() - 0.25) < 0.02
    assert torch.corrcoef(made)[0, 1] > 0.98   # one sound in both
    x[:, 1] = 0
    made = echo.sample("low", init=Sounds(x, 16000), mask=(0.3, 0.7), seed=0).audio
    assert not made[:, 1].any() and made[:, 0].abs().max() > 0.1
    assert torch.equal(channel_levels(x[:, :1], None, 16000), torch.ones(1, 1, 16000))


def test_channels_that_cancel_out_are_no_reason_to_be_loud():
    x = torch.stack([hum(1.0), -hum(1.0)])[None]
    assert channel_levels(x, None, RATE).max() == 1
    x[0, 1, 4000:] = 0
    assert channel_levels(x, None, RATE).max() <= 4


def test_a_variation_has_the_channels_and_the_rate_of_the_recording(echo):
    made = echo.sample("low", init=Sounds(stereo(0.5, 48000), 48000), strength=0.5, seed=0)
    assert made.audio.shape == (1, 2, 24000) and made.sample_rate == 48000 and made.audio[..., [0, -1]].abs().max() < 0.01


def test_strength_0_keeps_the_recording(echo):
    x = stereo(0.5, 48000)
    assert torch.equal(echo.sample("low", init=Sounds(x, 48000), strength=0, seed=0).audio, x) and not echo.seen
    longer = echo.sample("low", init=Sounds(x, 48000), strength=0, seconds=0.7, seed=0).audio
    assert torch.equal(longer[..., :24000], x) and longer[..., 24500:].any()


def test_edges_of_new_sound_do_not_click(echo):
    x = torch.stack([hum(1.0, 0.5, 16000), hum(1.0, 0.2, 16000)])[None]
    echo.wave = torch.full((16000,), 1.0)
    made = echo.sample("low", init=Sounds(x, 16000), mask=(0.4, 0.6), seed=0).audio
    assert made.diff().abs().max() < 1.5 * x.diff().abs().max()


def test_a_resampled_loop_has_no_seam(echo):
    echo.wave = torch.sin(2 * math.pi * 200 * torch.arange(4000) / RATE)
    made = echo.sample("low", init=Sounds(stereo(0.5, 44100), 44100), strength=0.9, loop=True).audio[0]
    assert (made[:, 0] - made[:, -1]).abs().max() < 1.5 * made.diff().abs().max()


def test_only_the_neighbourhood_of_a_hole_goes_through_the_model(echo):
    x = 0.1 * torch.randn(1, 1, 180 * RATE)
    made = echo.sample("low", init=Sounds(x, RATE, part=True), mask=[(60.0, 61.0), (100.0, 100.5)], seed=5)
    new = mask_samples([(60.0, 61.0), (100.0, 100.5)], 180 * RATE, RATE)
    assert torch.equal(made.audio[..., ~new], x[..., ~new]) and (made.audio[..., new] != x[..., new]).float().mean() > 0.99
    assert [s["seconds"] for s in echo.seen] == [2.0, 1.5] and echo.seen[0]["seeds"] == [5] != echo.seen[1]["seeds"]
    assert torch.equal(echo.seen[0]["init"][0, 0, :4000], x[0, 0, round(59.5 * RATE):60 * RATE])
    assert torch.equal(joined(echo.stream("low", init=Sounds(x, RATE, part=True), mask=[(60.0, 61.0), (100.0, 100.5)], seed=5)), made.audio)
    longer = echo.sample("low", init=Sounds(x, RATE, part=True), seconds=181, seed=5)
    assert longer.audio.shape[-1] == 181 * RATE and torch.equal(longer.audio[..., :180 * RATE], x)
    with pytest.raises(ValueError, match="longer than this model can make, 2.000 s"):
        echo.sample("low", init=Sounds(x, RATE, part=True), mask=(60, 63))


def test_holes_that_are_near_are_filled_together_or_hear_each_other(echo):
    x = 0.1 * torch.randn(1, 1, 10 * RATE)
    echo.sample("low", init=x, mask=[(4.0, 4.2), (4.5, 4.7)], seed=1)
    assert len(echo.seen) == 1
    made = echo.sample("low", init=x, mask=[(4.0, 5.0), (5.3, 6.3)], seed=1)
    assert len(echo.seen) == 3
    assert torch.equal(echo.seen[2]["init"][..., :int(0.2 * RATE)], made.audio[..., int(4.8 * RATE):5 * RATE])
    assert torch.equal(joined(echo.stream("low", init=x, mask=[(4.0, 5.0), (5.3, 6.3)], seed=1)), made.audio)


def test_a_mask_and_a_longer_sound_are_honoured_together(echo):
    x = hum(0.5)[None]
    made = echo.sample("low", init=x, mask=(0.1, 0.2), seconds=0.8, seed=0).audio[0, 0]
    assert torch.equal(made[1600:4000], x[0, 1600:]) and made[4100:6000].square().mean() > 1e-4 and not torch.equal(made[800:1600], x[0, 800:1600])


def test_only_one_channel_at_the_models_rate_can_be_streamed(echo):
    with pytest.raises(ValueError, match="only one channel at 8000 Hz can be streamed. Use sample"):
        echo.stream("low", init=Sounds(stereo(0.5), RATE), seconds=0.8)


def test_crossfades_lie_within_the_mask():
    mask = mask_samples((0.4, 0.6), RATE, RATE)
    both = crossfaded(torch.ones(1, 1, RATE), torch.zeros(1, 1, RATE), mask, 81)[0, 0]
    assert not both[~mask].any() and both[4000] == 1 and both.diff().abs().max() < 0.02


# ---- conditions ----


@pytest.mark.parametrize("cond, told", [
    (dict(label=[2]), "cond.label=.2. is not allowed. Give 0 to 1"), (dict(label=[-2]), "cond.label"),
    (dict(shares=[[5.0, 5.0]]), "sum to 1"), (dict(shares=[[-1.0, 2.0]]), "shares from 0"), (dict(shares=[[1.0, 0, 0]]), "has 3 columns"),
    (dict(label=[0], shares=[[1.0, 0]]), "both label and shares"), (dict(controls=dict(volume=[[1.0]])), "no control 'volume'"),
    (dict(n=0), "holds no sounds"), (dict(label=[]), "holds no sounds|not allowed")])
def test_conditions_are_checked_like_labels(echo, cond, told):
    for ask in (echo.sample, echo.stream):
        with pytest.raises(ValueError, match=told): ask(Conditions(**cond))


def test_conditions_that_mean_something_pass(echo):
    for cond in (dict(label=[1, -1]), dict(shares=[[0.3, 0.7], [0.0, 0.0]]), dict(n=2)):
        assert len(echo.sample(Conditions(**cond), seed=0)) == 2


@pytest.mark.parametrize("given", [
    dict(label="rain"), dict(label=[0.5]), dict(label=[[0], [1, 2]]), dict(label=None, n=-1), dict(n="two"), dict(n=2.5), dict(shares="half"),
    dict(shares=[[1.0], [2.0, 3.0]]), dict(features={}), dict(features=[]), dict(text="a dog"), dict(text=[None]), dict(controls=3),
    dict(controls=["level"]), dict(controls={1: [[0.0]]}), dict(controls=dict(level="loud")), dict(controls=dict(level=None)),
    dict(controls=dict(level=[[math.nan]])), dict(controls=dict(level=[[]])), dict(label=[object()])])
def test_odd_conditions_are_refused_in_words(given):
    with pytest.raises(ValueError, match="not allowed|no number of sounds|Give"): Conditions(**given)


@pytest.mark.parametrize("given", [
    dict(features="film"), dict(features=[]), dict(features=[[1.0], [2.0, 3.0]]), dict(features={}), dict(features=np.zeros((1, 1, 1, 1))),
    dict(features=[None]), dict(text=3), dict(text=[]), dict(text=["a", 3]), dict(text={}), dict(text=[[None]]), dict(controls=3),
    dict(controls=["level"]), dict(controls=dict(level="loud")), dict(controls=dict(level=None)), dict(controls=dict(level=[])),
    dict(controls=dict(level={})), dict(controls=dict(level=[[1.0], [1.0, 2.0]])), dict(controls={1: 2.0}), dict(on_step=3), dict(sampler=3),
    dict(sampler=[]), dict(loop="yes"), dict(loop=[1]), dict(cond=3.5), dict(cond={}), dict(cond={"low": None}), dict(cond=[["low"]]),
    dict(cond=torch.tensor(0.5)), dict(cond=[torch.zeros(2)]), dict(cond=object()), dict(cond=True), dict(n=0), dict(n=None), dict(n="3"),
    dict(seed="x"), dict(seed=[1, 2]), dict(seed=1.5), dict(seed=[None]), dict(seed=-1), dict(seed={}), dict(seconds="1"), dict(seconds=[]),
    dict(init=3), dict(init=[0.0]), dict(init=torch.zeros(0)), dict(init=torch.tensor([1j])), dict(init=torch.zeros(1, 1, 1, 1)),
    dict(mask=(0, 1)), dict(init=torch.ones(4000), mask="all"), dict(init=torch.ones(4000), mask=[None]), dict(init=torch.ones(4000), mask={}),
    dict(init=torch.ones(4000), mask=torch.ones(3)), dict(guidance="more"), dict(temperature=math.nan), dict(temperature=[])])
def test_odd_arguments_are_refused_in_words(echo, given):
    with pytest.raises(ValueError, match="[a-z].*[a-z]") as caught: echo.sample(**given)
    assert "generator.py" in str(caught.traceback[-1].path) or "audio_features" in str(caught.traceback[-1].path)
    with pytest.raises(ValueError): list(echo.stream(**given))


def test_any_name_may_be_a_controls_name():
    asked = Conditions(controls={"onset_rate": [[0.1, 0.2]], "feature_rate": [[1.0]]}, control_rate=5.0)
    again = Conditions.of(asked.tensors())
    assert again.control_rate == 5 and again.feature_rate is None and set(again.controls) == {"onset_rate", "feature_rate"}


@pytest.mark.parametrize("index", [[True, False, True], torch.tensor([True, False, True]), np.array([True, False, True]), [0, 2],
                                   torch.tensor([0, 2]), slice(None, None, 2), np.array([0, -1])])
def test_sounds_by_numbers_or_by_a_mask(index):
    three = Sounds(torch.ones(3, 1, 8) * torch.tensor([0.1, 0.2, 0.3])[:, None, None], RATE, [4, 5, 6], list("abc"))
    assert three[index].labels == ["a", "c"] and three[index].seeds == [4, 6] and torch.equal(three[index].audio, three.audio[::2])
    assert three[torch.tensor(1)].labels == three[np.int64(1)].labels == ["b"] and [s.labels[0] for s in three] == list("abc")


# ---- arguments ----


def test_defaults_of_a_family_hold_for_every_argument(echo):
    echo.defaults = dict(temperature=0.5, loop=True)
    echo.sample("low", seed=0), echo.sample("low", seed=0, temperature=1.0, loop=False)
    assert [(s["temperature"], s["loop"]) for s in echo.seen] == [(0.5, True), (1.0, False)]
    assert echo.sample("low", seed=0).meta["arguments"] == dict(temperature=0.5, loop=True)


def test_a_torch_generator_advances(echo):
    one, two = (torch.Generator().manual_seed(3) for _ in "ab")
    a, b = echo.sample("low", n=2, generator=one), echo.sample("low", n=2, generator=one)
    assert not torch.equal(a.audio, b.audio) and torch.equal(a.audio, echo.sample("low", n=2, generator=two).audio)
    assert torch.equal(echo.sample("low", seed=b.seeds, n=2).audio, b.audio)
    pair = [torch.Generator().manual_seed(k) for k in (1, 2)]
    c, d = echo.sample("low", n=2, generator=pair), echo.sample("low", n=2, generator=pair)
    assert not set(c.seeds) & set(d.seeds) and len(set(c.seeds)) == 2


def test_seeds_are_one_number_or_one_for_each(echo):
    assert echo.sample("low", n=2, seed=np.array([4, 9])).seeds == echo.sample("low", n=2, seed=torch.tensor([4, 9])).seeds == [4, 9]
    assert echo.sample("low", n=2, seed=np.int64(4)).seeds == [4, 5]


def test_arguments_after_n_have_names(echo):
    with pytest.raises(TypeError, match="positional"): echo.sample("low", 1, 0.5)
    with pytest.raises(TypeError, match="positional"): echo.stream("low", 0.1, 1, 0.5)


def test_refusals_say_what_this_model_can_and_which_one_could():
    class Plain(Echo):
        asks, control_names = frozenset({"label", "shares"}), ()

    plain, none = Plain(), Plain(EchoConfig(labels=()))
    for given, told in ((dict(text="a dog"), "reads no sentences. It understands label, shares. A model that can is one trained on enc"),
                        (dict(text=torch.zeros(1, 2, 3)), "cannot be asked by text. It understands label, shares"),
                        (dict(features=torch.zeros(3, 2)), "cannot be asked by features.*trained on films"),
                        (dict(controls=dict(rate=1)), "cannot be asked by controls.*pops"), (dict(top_k=3), "cannot honour top_k=3. It honours")):
        with pytest.raises(ValueError, match=told): plain.sample(**given)
    for cond in ("rain", 0, {"rain": 1.0}, ["rain"]):
        with pytest.raises(ValueError, match="knows no classes. It understands nothing: leave it out"): none.sample(cond)
