"Vocoders on one core: ours against the plain formulation"
import subprocess
import sys
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from _measure import OWN_LENGTH, difference, flops_of, interleaved, row, share
from torch import nn

from foleybook import vocoders as V
from foleybook.published import bigvgan as B
from foleybook.core import rendering as R
from foleybook.core.rendering import fold_weight_norm
from foleybook.published.melgan import MelGAN, MelGANConfig, Mirror

SECONDS = 4.0
PLAIN = "plain layers with weight norm on"


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
    changes = [(R.Conv1d, nn.Conv1d.forward), (R.ConvTranspose1d, nn.ConvTranspose1d.forward),
               (B.AntiAliased, plain_activation), (Mirror, plain_mirror)]
    kept = [cls.forward for cls, _ in changes]
    for cls, f in changes:
        cls.forward = f
    try:
        yield
    finally:
        for (cls, _), f in zip(changes, kept):
            cls.forward = f


def ten_minutes(seconds=600):
    "CPU seconds and peak memory (MB) of a fresh process that renders ten minutes"
    frames = round(seconds * 44100 / 512)
    code = ("import time, torch\ntorch.set_num_threads(1)\nfrom foleybook.core.rendering import find_vocoder\n"
            f"v = find_vocoder('default')\nm = torch.full((1, 128, {frames}), -5.)\ns = time.process_time()\n"
            "y = v.vocode(m)\nprint(time.process_time() - s)\n"
            "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    took, kilobytes = (float(v) for v in out.split()[-2:])
    job = f"{seconds / 60:g} minutes by the default vocoder, a fresh process"
    yield row(job, took, OWN_LENGTH, seconds, "s")
    yield row(f"{job}, peak memory", kilobytes / 1024, None, None, "MB")


def bf16(name, model, mel, plain, rounds):
    "What half the bits gain, and what they cost in decibels; and whether the probe finds that out by itself"
    (fast, reference), (near, _) = interleaved(lambda: model.vocode(mel, precision="bf16"), plain, rounds=rounds)
    exact = model.vocode(mel)
    decibels = 10 * (exact.square().sum() / (exact - near).square().sum()).log10().item()
    chosen = "" if model.takes_bf16("auto") else "not "
    return row(f"{name}, bf16, {chosen}chosen by 'auto'", fast, PLAIN, reference, "s", f"signal to error {decibels:.0f} dB",
               share(fast, flops=flops_of(lambda: model(mel)), dtype=torch.bfloat16))


def pieces(name, model, mel, rounds):
    "A clip in one piece, and in pieces of 256 frames"
    (whole, cut), results = interleaved(lambda: model.vocode(mel), lambda: model.vocode(mel, chunk=256), rounds=rounds)
    assert (results[0] - results[1]).norm() <= 1e-3 * results[0].norm(), name
    return row(f"{name}, a clip in one piece", whole, "pieces of 256 frames", cut, "s", difference(*results),
               share(whole, flops=flops_of(lambda: model(mel))))


KINDS = {"HiFi-GAN V1": lambda: V.HiFiGAN(V.HiFiGANConfig.v1()), "HiFi-GAN V2": lambda: V.HiFiGAN(V.HiFiGANConfig.v2()),
         "HiFi-GAN V3": lambda: V.HiFiGAN(V.HiFiGANConfig.v3()), "MelGAN": lambda: MelGAN(MelGANConfig()),
         "BigVGAN base": lambda: B.BigVGAN(B.BigVGANConfig())}


class Vocos(nn.Module):
    "Vocos at its published size, as its paper writes it: eight ConvNeXt blocks, magnitudes and phases, torch's inverse transform"

    def __init__(self, bands, n_fft, hop, width=512, hidden=1536, depth=8):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.first, self.norm = nn.Conv1d(bands, width, 7, padding=3), nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(nn.ModuleDict(dict(
            across=nn.Conv1d(width, width, 7, padding=3, groups=width), norm=nn.LayerNorm(width, eps=1e-6),
            up=nn.Linear(width, hidden), down=nn.Linear(hidden, width))) for _ in range(depth))
        self.scales = nn.Parameter(torch.full((depth, width), 1 / depth))
        self.last, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, n_fft + 2)
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, mel):
        x = self.norm(self.first(mel).mT).mT
        for m, scale in zip(self.blocks, self.scales):
            y = m["norm"](m["across"](x).mT)
            x = x + (scale * m["down"](F.gelu(m["up"](y)))).mT
        size, phase = self.head(self.last(x.mT)).mT.chunk(2, 1)
        spectrum = size.exp().clamp(max=100) * torch.complex(phase.cos(), phase.sin())
        return torch.istft(spectrum, self.n_fft, self.hop, self.n_fft, self.window, center=True)[:, None]


def beside_vocos(seconds, rounds):
    "The vocoder that comes with the book, whatever its weights say, and Vocos with random ones"
    ours = R.find_vocoder("default")
    sizes = {"44.1 kHz, 2048/512": (44100, 128, 2048, 512), "24 kHz, 1024/256, as published": (24000, 100, 1024, 256)}
    vocos = [(Vocos(*size).eval(), torch.randn(1, size[0], round(seconds * rate / size[2]) + 1) - 5)
             for rate, *size in sizes.values()]
    wide = torch.randn(1, 128, round(seconds * 44100 / 512)) - 5
    ways = [lambda: ours.vocode(wide), *(lambda net=net, mel=mel: net(mel) for net, mel in vocos)]
    (took, *others), made = interleaved(*ways, rounds=rounds)
    assert all(abs(y.shape[-1] / rate - seconds) < 0.05 for y, rate in zip(made, (44100, 44100, 24000)))
    job = f"the book's vocoder ({ours.config.rounds} rounds), {seconds:g} s"
    for name, other in zip(sizes, others):
        yield row(job, took, f"Vocos at {name}, random weights", other, "s")
    yield row(job, took, OWN_LENGTH, seconds, "s")


def pair(make):
    "The model with weight norm on, and the same model folded"
    normed, folded = make().eval(), make().eval()
    folded.load_state_dict(normed.state_dict())
    return normed, fold_weight_norm(folded)


def kind(name, mel, rounds):
    "Rows of one kind of vocoder"
    normed, folded = pair(KINDS[name])

    def plainly():
        with plain():
            return normed(mel)

    default = R.find_vocoder("default")  # as it ships: its weights say how many rounds of Griffin-Lim
    wide = torch.randn(1, 128, mel.shape[-1]) - 5  # of the default's own front end: as many frames a second
    ways = [lambda: folded(mel), plainly, *([lambda: default(wide)] if name == "HiFi-GAN V1" else [])]
    (fast, reference, *istft), results = interleaved(*ways, rounds=rounds)
    assert torch.allclose(*results[:2], atol=1e-4), name
    yield row(name, fast, PLAIN, reference, "s", difference(*results[:2]), share(fast, flops=flops_of(ways[0])))
    yield row(f"{name}, beside its own length", fast, OWN_LENGTH, mel.shape[-1] * 256 / 22050, "s")
    if name in ("HiFi-GAN V2", "HiFi-GAN V3"):
        yield bf16(name, folded, mel, plainly, rounds)
    if istft:
        yield row("default (ISTFT head)", *istft, "our HiFi-GAN V1", fast, "s", share=share(*istft, flops=flops_of(ways[2])))
        yield row("default (ISTFT head), beside its own length", *istft, OWN_LENGTH, mel.shape[-1] * 256 / 22050, "s")
        yield pieces("default (ISTFT head)", default, wide, rounds + 2)
    if name == "HiFi-GAN V2":
        yield pieces(name, folded, mel, rounds + 2)


def benchmarks(seconds=SECONDS, kinds=tuple(KINDS), rounds=3, long=600):
    "Rows, see `_measure.row`; clips of `seconds`, and a sound of `long` seconds"
    torch.manual_seed(0)
    mel = torch.randn(1, 80, round(seconds * 22050 / 256)) - 5
    with torch.inference_mode():
        rows = [r for name in kinds for r in kind(name, mel, rounds)]
        rows += beside_vocos(seconds, rounds + 2)
    return [*rows, *ten_minutes(long)]
