"""Samples one by one: the compiled loop against the network's own `forward` for every sample, exact and with int8 weights;
how many seconds of sound a second of one core makes; a training step against one row after the other."""
import torch
from _measure import OWN_LENGTH, difference, interleaved, row, share
from torch.nn import functional as F

from foleybook.multitier_rnn import AudioTier, AudioTierConfig, generate, generate_plain


def _tier(width, layers, controls=1, rate=16000):
    torch.manual_seed(0)
    return AudioTier(AudioTierConfig(hidden_size=width, n_layers=layers, cond_size=controls, sample_rate=rate)).eval()


def _asked(tier, samples):
    c = tier.config
    draws = torch.rand(samples, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.full((1, 1, 1 + c.cond_size), 0.5), torch.rand(1, samples, c.cond_size), draws


def _same(a, b):
    return "codes equal, all of them" if torch.equal(a, b) else f"codes differ: {int((a != b).sum())} of {a.numel()}"


def _logits(tier, precision, codes, controls):
    "What the compiled loop ends with after hearing the same greedy codes: the state, as one vector"
    tier.precision = precision
    first = torch.full((1, 1, 1 + tier.config.cond_size), 0.5)
    return generate(tier, first, controls[:, :1], None, 0)[1]


def _big(width, layers, samples, rounds):
    "The published size, alone on one core"
    tier = _tier(width, layers, 16)
    first, controls, draws = _asked(tier, samples)
    weights = sum(p.numel() for n, p in tier.named_parameters() if "weight" in n)

    def loop(precision):
        tier.precision = precision
        return generate(tier, first, controls, draws)[0]

    (plain, exact, rounded), (codes, ours, _) = interleaved(
        lambda: generate_plain(tier, first, controls, draws)[0], lambda: loop("float32"), lambda: loop("int8"), rounds=rounds)
    name = f"{width} x {layers}, a sample"
    worst = difference(_logits(tier, "int8", codes, controls), _logits(tier, "float32", codes, controls))
    yield row(f"{name}, float32", 1e3 * exact / samples, "forward, sample by sample", 1e3 * plain / samples,
              exactness=_same(ours, codes), share=share(exact / samples, read=4 * weights))
    yield row(f"{name}, int8 weights", 1e3 * rounded / samples, "forward, sample by sample", 1e3 * plain / samples,
              exactness=f"state after one sample: {worst}", share=share(rounded / samples, read=weights))


def _live(name, width, layers, rate, samples, rounds, precision="float32"):
    "Seconds of processor for a second of sound"
    tier = _tier(width, layers, rate=rate)
    tier.precision = precision
    first, controls, draws = _asked(tier, samples)
    (took,), _ = interleaved(lambda: generate(tier, first, controls, draws), rounds=rounds)
    return row(f"{name} ({width} x {layers}, {precision}), a second at {rate} Hz", took * rate / samples, OWN_LENGTH, 1.0, "s")


def _training_step(width, layers, batch, length, rounds):
    "Forward and backward of a batch, and the same row after row as published"
    tier = _tier(width, layers).train()
    x, codes = torch.rand(batch, length, 2), torch.randint(256, (batch, length))

    def step(rows):
        tier.zero_grad()
        logits = rows()
        F.cross_entropy(logits.transpose(1, 2), codes).backward()
        return tier.gru.weight_hh_l0.grad.clone()

    def one_by_one():
        state, out = None, []
        for t in range(length):
            logits, state = tier(x[:, t : t + 1], state)
            out.append(logits)
        return torch.cat(out, 1)

    (ours, plain), grads = interleaved(lambda: step(lambda: tier(x)[0]), lambda: step(one_by_one), rounds=rounds)
    return row(f"training step, {width} x {layers}, batch {batch} x {length}", ours, "one row after the other", plain, "s",
               difference(*grads, "largest difference of a gradient"))


def benchmarks(rounds=3, samples=400, big=(800, 3), quick=(256, 4), live=(96, 2), batch=(128, 256)):
    "Rows, see `_measure.row`; tests take smaller settings"
    with torch.inference_mode():
        found = [*_big(*big, samples, rounds), _live("quick start", *quick, 16000, samples * 4, rounds),
                 _live("quick start", *quick, 16000, samples * 4, rounds, "int8"),
                 _live("live", *live, 16000, samples * 20, rounds)]
    return [*found, _training_step(*quick, *batch, max(1, rounds - 2))]
