"""SaShiMi: kernels against the conjugate-concatenated sum, held kernels against rebuilt ones, a batch against one, steps against forwards."""
import os
import subprocess
import sys

import torch
from _measure import difference, flops_of, interleaved, row, share

from foleybook.kernels.cauchy import cauchy, half_angles
from foleybook.sashimi import (
    S4Config, Sashimi, SashimiConfig, SashimiNetConfig, SashimiWave, SashimiWaveConfig, StateSpace, Stepper,
    vandermonde)


def _plain_cauchy(v, w, length, rows=4):
    "The sum over both of each pair, as published code without extensions has it once it is complete; few channels at a time, to fit memory"
    c, s = half_angles(length, v.real.dtype)
    z, out = 2j * s / c.clamp_min(1e-6), []
    for i in range(0, len(w), rows):
        both_v, both_w = (torch.cat([x, x.conj()], -1) for x in (v[:, i:i + rows], w[i:i + rows]))
        out.append((both_v[..., None] / (z - both_w[..., None])).sum(-2))
    return torch.cat(out, 1)


@torch.no_grad()
def _kernels(channels, length, rounds):
    w = torch.complex(-torch.rand(channels, 32) * 0.05 - 1e-3, -torch.rand(channels, 32) * 3)
    v = torch.randn(6, channels, 32, dtype=torch.cfloat)
    c, _ = half_angles(length, torch.float32)
    (ours, plain), (a, b) = interleaved(lambda: cauchy(v, w, length), lambda: _plain_cauchy(v, w, length), rounds=rounds)
    yield row(f"Cauchy sums, {channels} channels, {length} samples", 1e3 * ours, "conjugates concatenated", 1e3 * plain,
              exactness=difference((a * c)[..., :-1].abs(), b[..., :-1].abs()))
    log_dA = w.to(torch.complex128)

    def plain_powers():
        return torch.cat([(v[:1, i:i + 4, :, None] * (w[i:i + 4, :, None] * torch.arange(length)).exp()).sum(2).real for i in range(0, channels, 4)], 1)

    (ours, plain), (a, b) = interleaved(lambda: vandermonde(v[:1], log_dA, length), plain_powers, rounds=rounds)
    yield row(f"S4D kernel, {channels} channels, {length} samples", 1e3 * ours, "a power for every sample", 1e3 * plain, exactness=difference(a, b))


PEAK = """
import sys, torch
from foleybook.sashimi import S4Config, StateSpace
torch.set_num_threads(1)
held = lambda name: next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(name)) / 1024
channels, length = map(int, sys.argv[1:])
space = StateSpace(S4Config(channels, 64, length=length, bidirectional=True))
with torch.no_grad():
    space.kernel(64, dtype=torch.float32)
    open('/proc/self/clear_refs', 'w').write('5')  # the highest mark begins anew
    before = held('VmRSS')
    space.kernel(length, dtype=torch.float32)
print(held('VmHWM') - before)
"""


def _memory(channels, length):
    "Memory of one kernel of S4, in a process of its own; the reference is the size of one table of the concatenated sum"
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PEAK, str(channels), str(length)], capture_output=True, text=True, env=env, check=True)
    table = 6 * channels * 64 * (length // 2 + 1) * 8 / 2**20
    return row(f"memory of an S4 kernel, {channels} channels, {length} samples", max(float(done.stdout), 0.1),
               "one table of the concatenated sum, computed", table, "MB")


@torch.no_grad()
def _steps(sizes, second, rounds):
    "One reverse step with held kernels, with kernels rebuilt, and of a batch"
    torch.manual_seed(0)
    model = SashimiWave(SashimiWaveConfig(SashimiNetConfig(**sizes), seconds=second / 16000)).eval()
    torch.nn.init.normal_(model.net.output.weight, std=0.1)
    x, t = torch.randn(4, 1, second), torch.full((4,), 100.0)
    held = model.predictor()

    def rebuilt(x, t):  # in float32, as the published code does
        model.net.held = model.net.hold(x.shape[-1], torch.float32)
        return model(x, t)

    held(x[:1], t[:1])  # its kernels are made at the first step
    (one, again, four), (a, b, _) = interleaved(lambda: held(x[:1], t[:1]), lambda: rebuilt(x[:1], t[:1]), lambda: held(x, t), rounds=rounds)
    width = f"d_model {model.net.config.d_model}"
    yield row(f"reverse step of {second} samples, {width}, kernels held", one, "kernels rebuilt", again, "s", difference(a, b),
              share(one, flops=flops_of(lambda: held(x[:1], t[:1]))))
    yield row(f"reverse step of {second} samples, {width}, 4 sounds, one of them", four / 4, "one sound alone", one, "s")


@torch.no_grad()
def _speaking(samples, prefix, rounds):
    "A sample by steps, and by a forward over all before it"
    c = SashimiConfig(d_model=32, n_layers=2, pool=(4, 4), unet=False, length=samples, norm_per_channel=True, ff_apart=True, stage_skip=True,
                      layer=S4Config(kind="diagonal", init="lin", d_state=32))
    trunk, x = Sashimi(c).eval(), torch.randn(1, c.d_model, samples)
    stepper = Stepper(trunk)
    (some, whole), _ = interleaved(lambda: [stepper(u) for u in x[..., :prefix].unbind(-1)], lambda: trunk(x), rounds=rounds)
    fresh = Stepper(trunk)
    same = difference(torch.stack([fresh(u) for u in x[..., :prefix].unbind(-1)], -1), trunk(x)[..., :prefix])
    return row(f"one sample after {samples}, step by step", 1e3 * some / prefix, "a forward over all of them", 1e3 * whole, exactness=same)


def benchmarks(rounds=3, second=16000, length=16000, channels=64, sizes={}, speaking=(16000, 256)):
    "Rows, see `_measure.row`; tests take smaller settings"
    torch.manual_seed(0)
    return [*_kernels(channels, length, rounds), _memory(2 * channels, length), *_steps(dict(d_model=64) | sizes, second, rounds),
            _speaking(*speaking, rounds)]
