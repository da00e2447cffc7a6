"""Vocoders on one core: ours against the plain formulation, in CPU seconds of the same run."""
import subprocess
import sys
import time
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from foleybook import vocoders as V

SECONDS = 4.0


def cpu_seconds(*functions, rounds=3):
    "Best CPU time of each function, measured in turns"
    best = [float("inf")] * len(functions)
    for f in functions:
        f()
    for _ in range(rounds):
        for i, f in enumerate(functions):
            start = time.process_time()
            f()
            best[i] = min(best[i], time.process_time() - start)
    return best


def plain_activation(self, x):
    c, x = x.shape[1], F.pad(x, (5, 5), "replicate")
    up, down = (f.expand(c, -1, -1) for f in (self.upsample.filter, self.downsample.lowpass.filter))
    x = 2 * F.conv_transpose1d(x, up, stride=2, groups=c)[..., 15:-15]
    alpha, beta = self.act.alpha[None, :, None], getattr(self.act, "beta", self.act.alpha)[None, :, None]
    if self.act.logscale:
        alpha, beta = alpha.exp(), beta.exp()
    x = x + 1 / (beta + 1e-9) * torch.sin(x * alpha).pow(2)
    return F.conv1d(F.pad(x, (5, 6), "replicate"), down, stride=2, groups=c)


def plain_mirror(self, x):
    return F.pad(x, (self.pad, self.pad), "reflect")


@contextmanager
def plain():
    "Every layer as the papers write it: 1-D convolutions on (b, c, t), no special memory layout"
    changes = [(V.Conv1d, nn.Conv1d.forward), (V.ConvTranspose1d, nn.ConvTranspose1d.forward),
               (V.AntiAliased, plain_activation), (V.Mirror, plain_mirror)]
    kept = [cls.forward for cls, _ in changes]
    for cls, f in changes:
        cls.forward = f
    try:
        yield
    finally:
        for (cls, _), f in zip(changes, kept):
            cls.forward = f


def row(what, ours, reference, versus):
    return {"what": what, "seconds": ours, "times real time": SECONDS / ours, versus: reference / ours}


def ten_minutes():
    "CPU seconds and peak memory (MB) of a fresh process that renders ten minutes"
    code = ("import time, torch\ntorch.set_num_threads(1)\nfrom foleybook.vocoders import *\n"
            "v = ISTFTVocoder(ISTFTConfig()).eval()\nm = torch.full((1, 80, 51680), -5.)\ns = time.process_time()\n"
            "y = v.vocode(m)\nprint(time.process_time() - s)\n"
            "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    seconds, kilobytes = (float(v) for v in out.split()[-2:])
    return seconds, kilobytes / 1024


def benchmarks():
    "Rows of numbers"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        with torch.inference_mode():
            yield from rows()
    finally:
        torch.set_num_threads(threads)
    seconds, megabytes = ten_minutes()
    yield {"what": "ten minutes by the default vocoder", "seconds": seconds, "times real time": 600 / seconds,
           "peak MB of the process": megabytes}


def bf16(name, model, mel, plain):
    "What half the bits gain, and what they cost in decibels; and whether the probe finds that out by itself"
    exact, near = model.vocode(mel), model.vocode(mel, precision="bf16")
    decibels = 10 * (exact.square().sum() / (exact - near).square().sum()).log10().item()
    fast, reference = cpu_seconds(lambda: model.vocode(mel, precision="bf16"), plain)
    yield row(f"{name}, bf16", fast, reference, "times plain with weight norm on") | {
        "signal to error, dB": decibels, "chosen by 'auto'": model.takes_bf16("auto")}


def pieces(name, model, mel):
    "A clip in one piece, and in pieces of 256 frames"
    assert torch.allclose(model.vocode(mel), model.vocode(mel, chunk=256), atol=1e-4), name
    whole, cut = cpu_seconds(lambda: model.vocode(mel), lambda: model.vocode(mel, chunk=256), rounds=5)
    yield row(f"{name}, a clip in one piece", whole, cut, "times pieces of 256 frames")


def rows():
    mel = torch.randn(1, 80, round(SECONDS * 22050 / 256)) - 5

    def plainly(model, mel=mel):
        def run():
            with plain():
                return model(mel)

        return run

    def pair(make):
        "The model with weight norm on, and the same model folded"
        normed, folded = make().eval(), make().eval()
        folded.load_state_dict(normed.state_dict())
        return normed, V.fold_weight_norm(folded)

    default = V.ISTFTVocoder(V.ISTFTConfig()).eval()
    kinds = {"HiFi-GAN V1": lambda: V.HiFiGAN(V.HiFiGANConfig.v1()),
             "HiFi-GAN V2": lambda: V.HiFiGAN(V.HiFiGANConfig.v2()),
             "HiFi-GAN V3": lambda: V.HiFiGAN(V.HiFiGANConfig.v3()), "MelGAN": lambda: V.MelGAN(V.MelGANConfig()),
             "BigVGAN base": lambda: V.BigVGAN(V.BigVGANConfig())}
    for name, make in kinds.items():
        normed, folded = pair(make)
        assert torch.allclose(folded(mel[..., :20]), plainly(normed, mel[..., :20])(), atol=1e-5), name
        fast, reference, istft = cpu_seconds(lambda: folded(mel), plainly(normed), lambda: default(mel))
        yield row(name, fast, reference, "times plain with weight norm on")
        if name in ("HiFi-GAN V2", "HiFi-GAN V3"):
            yield from bf16(name, folded, mel, plainly(normed))
        if name == "HiFi-GAN V1":
            yield row("default (ISTFT head)", istft, fast, "times our HiFi-GAN V1")
            yield from pieces("default (ISTFT head)", default, mel)
        if name == "HiFi-GAN V2":
            yield from pieces(name, folded, mel)


if __name__ == "__main__":
    for r in benchmarks():
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()}, flush=True)
