"""Samples one by one: the compiled loop against the network's own `forward` for every sample, exact and with int8 weights, and
against a probe that only reads as many bytes; how many seconds of sound a second of one core makes; from a knob to the ear;
a training step against one row after the other."""
import statistics

import torch
from _measure import OWN_LENGTH, difference, interleaved, row, share
from torch.nn import functional as F

from foleybook.apps.live import LivePlayer
from foleybook.multitier_rnn import AudioTier, AudioTierConfig, generate, generate_plain


def _tier(width, layers, controls=1, rate=16000, precision="float32"):
    torch.manual_seed(0)
    tier = AudioTier(AudioTierConfig(hidden_size=width, n_layers=layers, cond_size=controls, sample_rate=rate)).eval()
    return tier.set_precision(precision)


def _asked(tier, samples):
    c = tier.config
    draws = torch.rand(samples, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.full((1, 1, 1 + c.cond_size), 0.5), torch.rand(1, samples, c.cond_size), draws


def _same(a, b):
    return "codes equal, all of them" if torch.equal(a, b) else f"codes differ: {int((a != b).sum())} of {a.numel()}"


def _logits(tier, codes, controls):
    "Logits after hearing given codes, (l, channels): the compiled loop, one sample at a time"
    codes, state, found = torch.cat([codes.new_full((1, 1), 127), codes], 1), None, []
    for t in range(controls.shape[1]):
        row = tier.rows(codes[:, t : t + 1], controls[:, max(0, t - 1), None])
        _, state = generate(tier, row, controls[:, t : t + 1], None, 0, state)
        found.append(tier.output(state[-1]))
    return torch.cat(found)


def _cost(exact, rounded, codes, controls, draws):
    "In words: how far the logits of 8-bit weights are from the exact ones, and how many draws that changes"
    with torch.no_grad(): a, b = (_logits(tier, codes, controls).double() for tier in (exact, rounded))
    a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    snr = 10 * (a.square().sum() / (a - b).square().sum()).log10()
    drawn = [(x.softmax(-1).cumsum(-1) <= draws[: len(x)]).sum(-1) for x in (a, b)]
    return f"logits on the same past: SNR {snr:.1f} dB, {(drawn[0] == drawn[1]).float().mean():.1%} of the draws equal"


def _big(width, layers, samples, rounds):
    "The published size, alone on one core"
    tier, small = _tier(width, layers, 16), _tier(width, layers, 16, precision="int8")
    first, controls, draws = _asked(tier, samples)
    weights = sum(p.numel() for n, p in tier.named_parameters() if "weight" in n)
    words, few = torch.ones(weights), torch.ones(weights // 4)  # as many bytes as the weights have
    (plain, exact, rounded, read, read_few), (codes, ours, *_) = interleaved(
        lambda: generate_plain(tier, first, controls, draws)[0], lambda: generate(tier, first, controls, draws)[0],
        lambda: generate(small, first, controls, draws)[0], lambda: [words.sum() for _ in range(samples)],
        lambda: [few.sum() for _ in range(samples)], rounds=rounds)
    name = f"{width} x {layers}, a sample"
    yield row(f"{name}, float32", 1e3 * exact / samples, "forward, sample by sample", 1e3 * plain / samples,
              exactness=_same(ours, codes), share=read / exact)
    yield row(f"{name}, int8 weights", 1e3 * rounded / samples, "forward, sample by sample", 1e3 * plain / samples,
              exactness=_cost(tier, small, codes, controls, draws), share=read_few / rounded)


def _together(width, layers, samples, rounds, many=8):
    "Several sounds at once on one thread: weights are read once for all"
    for precision in ("float32", "int8"):
        tier = _tier(width, layers, 16, precision=precision)
        first, controls, _ = _asked(tier, samples)
        draws = torch.rand(samples, many, dtype=torch.float64)
        together = lambda n: generate(tier, first.expand(n, -1, -1), controls.expand(n, -1, -1), draws[:, :n])[0]  # noqa: E731
        (all_, one), (a, b) = interleaved(lambda: together(many), lambda: together(1), rounds=rounds)
        yield row(f"{width} x {layers}, a sample of each of {many} sounds, {precision}", 1e3 * all_ / samples / many, "one sound alone",
                  1e3 * one / samples, exactness=_same(a[:1], b))


def _live(name, width, layers, rate, samples, rounds, precision="float32"):
    "Seconds of processor for a second of sound"
    tier = _tier(width, layers, rate=rate, precision=precision)
    first, controls, draws = _asked(tier, samples)
    (took,), _ = interleaved(lambda: generate(tier, first, controls, draws), rounds=rounds)
    return row(f"{name} ({width} x {layers}, {precision}), a second at {rate} Hz", took * rate / samples, OWN_LENGTH, 1.0, "s")


def _latency(width, layers, rate, turns, **kept):
    "From a knob to the first sample that knows of it, in real time, over the page's own requests but without a browser"
    player = LivePlayer(_tier(width, layers, rate=rate), seed=0, **kept)
    try:
        player.next()
        (block,), _ = interleaved(player.next, rounds=5)
        waits = 1e3 * player.latency(turns)
    finally:
        player.close()
    name = f"a knob until it sounds, {width} x {layers}, {1e3 * player.block:.0f} ms a block, {1e3 * player.ahead:.0f} ms ahead"
    return row(name, float(statistics.median(waits)), None, None,
               exactness=f"median of {len(waits)} turns, at most {max(waits):.0f} ms; a block is made in {1e3 * block:.1f} ms")


def _training_step(width, layers, batch, length, rounds):
    "Forward and backward of a batch, and the same row after row as published"
    tier = _tier(width, layers).train()
    x, codes = torch.rand(batch, length, 2), torch.randint(256, (batch, length))

    def step(rows, half=False):
        tier.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half): logits = rows()
        F.cross_entropy(logits.float().transpose(1, 2), codes).backward()
        return tier.gru.weight_hh_l0.grad.clone()

    def one_by_one():
        state, out = None, []
        for t in range(length):
            logits, state = tier(x[:, t : t + 1], state)
            out.append(logits)
        return torch.cat(out, 1)

    at_once = lambda: tier(x)[0]  # noqa: E731
    (ours, half, plain), (grad, rounded, true) = interleaved(
        lambda: step(at_once), lambda: step(at_once, True), lambda: step(one_by_one), rounds=rounds)
    flops = 6 * batch * length * sum(p.numel() for n, p in tier.named_parameters() if "weight" in n)
    name, moved = f"training step, {width} x {layers}, batch {batch} x {length}", (rounded - true).norm() / true.norm()
    yield row(name, ours, "one row after the other", plain, "s", difference(grad, true, "largest difference of a gradient"),
              share(ours, flops=flops))
    yield row(f"{name}, bf16", half, "one row after the other, float32", plain, "s", f"gradient {moved:.1%} away",
              share(half, flops=flops, dtype=torch.bfloat16))


def benchmarks(rounds=3, samples=400, big=(800, 3), quick=(256, 4), live=(96, 2), batch=(128, 256), turns=20):
    "Rows, see `_measure.row`; tests take smaller settings"
    return [*_big(*big, samples, rounds), *_together(*big, samples, rounds), _live("quick start", *quick, 16000, samples * 4, rounds),
            _live("quick start", *quick, 16000, samples * 4, rounds, "int8"),
            _live("live", *live, 16000, samples * 20, rounds), _latency(*live, 16000, turns),
            _latency(*live, 16000, turns, block=0.02, ahead=0.03), *_training_step(*quick, *batch, max(1, rounds - 2))]
