"""The audio tier: asked by controls, streamed, never moved, read from published files without running code."""
import numpy as np
import pytest
import torch

from foleybook.files import CheckpointError
from foleybook.generator import Pretrained
from foleybook.multitier_rnn import AudioTier, AudioTierConfig, generate, generate_plain

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
