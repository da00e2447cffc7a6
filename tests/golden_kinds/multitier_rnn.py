import torch
from torch.nn import functional as F

from foleybook.audio_features import mu_law_decode
from foleybook.multitier_rnn import AudioTier, ParamTier, Tier, generate, generate_plain
from foleybook.published.mtcrnn import published_loss
from foleybook.core.clip_tables import resample_track

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


def _param_hidden(state, out, name):
    "States of a parameter tier: one tensor, a list with gaps, or pairs of phased cells"
    for k, h in enumerate(state):
        if f"{name}.{k}" in out:
            assert_close(h, out[f"{name}.{k}"], what=f"{name} {k}")
    if name in out:
        assert_close(state[0], out[name], what=name)
    elif f"{name}.0.0" in out:
        _compare_state(state[0], out, name)


@check("mtcrnn.step_param")
def param_steps(case):
    c, out, x = case.config, case.outputs, case.inputs["x"]
    tier, state, times = ParamTier.from_original(case.weights), None, case.inputs["times"]
    assert tier.config.net == c["net"] and len(tier.outputs) == c["gen_size"]
    for t in range(x.shape[1]):
        said, state = tier(x[:, t : t + 1], state, start=int(times[0, t]))
        if f"t{t}.mu" in out:
            assert_close(said.mu[:, 0], out[f"t{t}.mu"], what=f"mu {t}")
            _param_hidden(state, out, f"t{t}.hidden")
            if said.pi is None:
                assert_close(said.sigma[:, 0], out[f"t{t}.sigma_raw"], what=f"sigma {t}")
            else:
                assert_close(tier.spread(said.sigma[:, 0], c["beta"]), out[f"t{t}.sigma"], what=f"sigma {t}")
                assert_close(said.pi[:, 0].softmax(1), out[f"t{t}.pi"], what=f"pi {t}")
    eps = out["sample_eps"].reshape(len(x), -1)
    chance = out["sample_u"] if "sample_u" in out else None
    if chance is None:
        assert_close(tier.draw_row(said, eps, None, c["beta"]), out["sample"], what="sample")
    loss = published_loss(said, out["target"][:, None], tier.config, eps[None], c["beta"])
    assert_close(loss[0], out["loss"], what="loss")


@check("mtcrnn.rollout_param")
def param_rollout(case):
    c, out, primer = case.config, case.outputs, case.inputs["primer"]
    tier = ParamTier.from_original(case.weights)
    _, state = tier(primer[:, :-1]) if primer.shape[1] > 1 else (None, None)
    row, samples, chance = primer[:, -1:], [], case.inputs.get("uniforms")
    for t in range(c["length"]):
        said, state = tier(row, state, start=primer.shape[1] - 1 + t)
        drawn = tier.draw_row(said, case.inputs["eps"][t], None if chance is None else chance[t], c["temperature"])
        assert_close(said.mu[:, 0], out["mu"][:, t], what=f"mu {t}")
        sigma = said.sigma[:, 0] if said.pi is None else tier.spread(said.sigma[:, 0], c["temperature"])
        assert_close(sigma, out["sigma"][:, t], what=f"sigma {t}")
        samples.append(drawn)
        row = torch.cat([drawn, case.inputs["cond"][:, t]], -1)[:, None]
    assert_close(torch.stack(samples, 1), out["samples"], what="samples")
    _param_hidden(state, out, "final.hidden")


@check("mtcrnn.train_audio", "mtcrnn.train_param")
def train(case):
    "Some steps of Adam on the sum over the rows; a row holds the truth where its coin says so, else what was drawn"
    c, x, targets = case.config, case.inputs["inputs"], case.inputs["targets"]
    audio, rows = case.meta["kind"].endswith("audio"), x.shape[1]
    tier = Tier.from_original(case.weights).train()
    adam = torch.optim.Adam(tier.parameters(), c["lr"])
    for k, coin in enumerate(case.inputs["coin"].split(rows)):
        eps = case.inputs["eps"].split(rows)[k] if "eps" in case.inputs else None
        forced = torch.cat([torch.ones(1, dtype=torch.bool), (coin < c["tfr"])[:-1]])  # a coin decides on the next row
        said, _ = tier(x, forced=forced, noise=eps)
        if audio:
            losses = F.cross_entropy(said.transpose(1, 2), targets[..., 0], reduction="none").mean(0)
        else:
            losses = published_loss(said, targets, tier.config, eps)
        assert_close(losses.mean(), case.outputs["losses"][k], what=f"loss {k}")
        adam.zero_grad()
        losses.sum().backward()
        adam.step()
    after = Tier.from_original(case.part("out.sd1") or {k[4:]: v for k, v in case.outputs.items() if k.startswith("sd1.")})
    for (name, ours), theirs in zip(tier.named_parameters(), after.parameters()):
        assert_close(ours, theirs, what=name)
