import torch
from torch.nn import functional as F

from foleybook.audio_features import mu_law_decode
from foleybook.multitier_rnn import AudioTier, generate, generate_plain
from foleybook.sound_data import resample_track

from . import assert_close, check


def _compare_state(state, out, name):
    if torch.is_tensor(state):
        assert_close(state, out[name], what=name)
    else:
        for i, (h, c) in enumerate(state):
            assert_close(h, out[f"{name}.{i}.0"], what=f"{name} {i} h")
            assert_close(c, out[f"{name}.{i}.1"], what=f"{name} {i} c")


@check("mtcrnn.step_audio", "mtcrnn.onehot_sizes")
def steps(case):
    tier, x, out, state = AudioTier.from_original(case.weights), case.inputs["x"], case.outputs, None
    times = case.inputs["times"]
    for t in range(x.shape[1]):
        logits, state = tier(x[:, t : t + 1], state, start=int(times[0, t]))
        if f"t{t}.logits" in out:
            assert_close(logits[:, 0], out[f"t{t}.logits"], what=f"logits {t}")
            _compare_state(state, out, f"t{t}.hidden")
    assert_close(F.cross_entropy(logits[:, 0], out["target"]), out["loss"], what="loss")


@check("mtcrnn.rollout_audio")
def rollout(case):
    c, out, primer = case.config, case.outputs, case.inputs["primer"]
    tier = AudioTier.from_original(case.weights)
    _, controls = resample_track(case.inputs["external"], c["external_sr"], c["sample_rate"])
    assert_close(controls, out["external_resampled"], what="controls")
    controls = torch.as_tensor(controls).float()[:, : c["length"]].expand(len(primer), -1, -1)
    # the published loop has control row i in force when sample i + 1 is drawn, so row 0 is fed back with sample 0
    _, state = tier(primer[:, :-1]) if primer.shape[1] > 1 else (None, None)
    if state is not None:
        _compare_state(state, out, "primed.hidden")
    temperature = 0 if c["mode"] == "argmax" else c["temperature"]
    args = (tier, primer[:, -1:], controls, case.inputs.get("uniforms"), temperature, state, primer.shape[1] - 1)
    for draw in (generate_plain, generate):
        codes, last = draw(*args)
        assert torch.equal(codes, out["indices"]), f"{draw.__name__}: {(codes != out['indices']).sum()} codes differ"
        _compare_state(last, out, "final.hidden")
    assert_close(mu_law_decode(codes, c["mulaw_channels"], convention="mtcrnn"), out["samples"], what="samples")
