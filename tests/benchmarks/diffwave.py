"""DiffWave: few steps against all, the ways to compute one step, a batch against sounds one by one, mels kept against mels made anew.

The 200-step loop is not run as a whole: its time is 200 of the steps measured in the same run.
"""
import shutil
from dataclasses import replace

import torch
from _measure import difference, flops_of, interleaved, row, share

from foleybook.diffwave import DiffWave, DiffWaveConfig, DiffusionProcess, WaveNet, WaveNetConfig, without_weight_norm
from foleybook.core.randomness import ItemNoise
from foleybook.kernels.gated_layers import HeldWaveNet

SECOND = 16000
WIDE = dict(channels=128, skip_channels=256), dict(channels=256, skip_channels=256, n_layers=36, cycle=12)  # as published


class PlainLayer(torch.nn.Module):
    "A layer as it is published: weight norm, and three convolutions of its own for gate, residual and skip path"

    def __init__(self, layer, c):
        super().__init__()
        r, d, w, b = c.channels, layer.dilated, layer.out.weight.data, layer.out.bias.data
        self.dilated = self.conv(d.weight.data, d.bias.data, padding=d.padding, dilation=d.dilation)
        self.res, self.skip = self.conv(w[:r], b[:r]), self.conv(w[r:], b[r:])

    def conv(self, weight, bias, **options):
        "A convolution under weight norm"
        m = torch.nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2], **options)
        m.load_state_dict(dict(weight=weight, bias=bias))
        return torch.nn.utils.parametrizations.weight_norm(m)

    def forward(self, h, told, mel=None):
        "One layer"
        a, b = self.dilated(h + told[..., None]).chunk(2, 1)
        o = a.tanh() * b.sigmoid()
        return (h + self.res(o)) * 0.5**0.5, self.skip(o)


def _nets(c):
    "The network, and the same as published"
    torch.manual_seed(0)
    net = WaveNet(c).eval()
    torch.nn.init.normal_(net.output.weight, std=0.1)
    plain = WaveNet(c)
    plain.load_state_dict(net.state_dict())
    plain.layers = torch.nn.ModuleList(PlainLayer(layer, c) for layer in without_weight_norm(net).layers)
    return net, plain.eval()


def _steps(c, second, rounds, compiled):
    "One reverse step of one second in every way there is"
    net, plain = _nets(c)
    x, t = torch.randn(1, 1, second), torch.tensor([100.0])

    def half():
        with torch.autocast("cpu", torch.bfloat16):
            return net(x, t).float()

    held = HeldWaveNet(net)
    ways = {"float32, folded": lambda: net(x, t), "bf16, folded": half, "bf16, held": lambda: held(x, t)}
    if compiled:
        fused = torch.compile(net)
        ways["compiled"] = lambda: fused(x, t)
    times, made = interleaved(lambda: plain(x, t), *ways.values(), rounds=rounds)
    work = flops_of(lambda: net(x, t))
    rows = []
    for name, took, y in zip(ways, times[1:], made[1:]):
        kind = torch.bfloat16 if "bf16" in name else torch.float32
        rows.append(row(f"step of 1 s, {c.channels} channels, {c.n_layers} layers, {name}", took, "the plain module", times[0], "s",
                        difference(y, made[0]), share(took, flops=work, dtype=kind)))
        if kind == torch.bfloat16:
            rows[-1]["exactness"] = f"SNR {10 * torch.log10(made[0].var() / (y - made[0]).var()):.0f} dB"
    yield from rows
    best = min(zip(times[1:], ways))
    yield row(f"step of 1 s, {c.channels} channels, the fastest here: {best[1]}", best[0], "the plain module", times[0], "s")


def _training(c, second, rounds):
    "A training step, there and back, as published and ours in both precisions"
    with torch.enable_grad():
        net, plain = _nets(c)
        x, t = torch.randn(1, 1, second), torch.tensor([100.0])

        def step(net, half):
            def run():
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    y = net(x, t).float()
                (y - x).square().mean().backward()
                grad = torch.cat([net.input.weight.grad.flatten(), net.time1.weight.grad.flatten()])
                net.zero_grad()
                return grad
            return run

        times, grads = interleaved(step(plain, False), step(net, False), step(net, True), rounds=rounds)
    for name, took, grad in zip(("float32", "bf16"), times[1:], grads[1:]):
        away = (grad - grads[0]).norm() / grads[0].norm()
        yield row(f"training step on 1 s, {c.channels} channels, {c.n_layers} layers, {name}", took, "the plain module", times[0], "s",
                  f"gradient {away:.1e} of its length away")


def _loops(c, second, rounds):
    "A second of sound as the book makes it, and by the published loop in the same network"
    model = DiffWave(DiffWaveConfig(c, seconds=second / 16000))
    process, predict = DiffusionProcess(), model.predictor()
    x, t = torch.randn(1, 1, second), torch.tensor([100.0])
    (few, step), _ = interleaved(lambda: model.sample(seed=0, progress=False), lambda: predict(x, t), rounds=rounds)
    yield row(f"1 s of sound, {model.config.sampler}, {model.config.steps} steps", few, f"{process.T} steps of the published loop, "
              "extrapolated from one", process.T * step, "s")


def _batch(c, second, rounds):
    "Four sounds at once, a sound"
    model = DiffWave(DiffWaveConfig(c, seconds=second / 16000))
    x, t = ItemNoise(range(4)).randn(1, second), torch.full((4,), 100.0)
    predict = model.predictor()
    (four, one, whole), (y, first, at_once) = interleaved(lambda: predict(x, t), lambda: predict(x[:1], t[:1]), lambda: model.net(x, t),
                                                          rounds=rounds)
    yield row("step of four sounds, a sound", four / 4, "one sound alone", one, "s", difference(y[:1], first))
    yield row("step of four sounds, one after the other, a sound", four / 4, "all four in one tensor", whole / 4, "s", difference(y, at_once))


def _mels(c, second, rounds):
    "A step of a vocoder whose log-mel was stretched before, and one that stretches it again"
    frames = second // 512
    net, x, t = WaveNet(replace(c, n_mels=80, upsample=(16, 16))).eval(), torch.randn(1, 1, 256 * frames), torch.tensor([20.0])
    mel = torch.randn(1, 80, frames + 1)
    terms = net.mel_terms(mel, 256 * frames)
    (kept, anew), (y, z) = interleaved(lambda: net(x, t, None, terms), lambda: net(x, t, None, mel), rounds=rounds)
    yield row(f"step of a vocoder, {256 * frames} samples, mel terms kept", kept, "stretched in every step", anew, "s", difference(y, z))


@torch.no_grad()
def benchmarks(rounds=5, compiled=True, second=SECOND, sizes={}, wide=WIDE):
    "Rows, see `_measure.row`; tests take smaller settings, and compile nothing"
    c = WaveNetConfig(**sizes)
    rows = [*_steps(c, second, rounds, compiled and shutil.which("c++") is not None), *_training(c, second, rounds)]
    for more in wide:
        rows += _steps(WaveNetConfig(**sizes | more), second, min(rounds, 3), False)
    for part in (_loops, _batch, _mels): rows += part(c, second, rounds)
    return rows
