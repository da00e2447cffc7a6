"""U-Nets a step, the steps of a sample, and a clip of the flow from class to sound.

The U-Net is compared with diffusers' own on the same weights where diffusers is installed, else with itself computed the plain
way: weights as they come, attention with all its weights in memory, the time read by every block at every step.
"""
import torch
import torch.nn.functional as F
from _measure import difference, flops_of, interleaved, row, share

from foleybook import spectrogram_diffusion as S
from foleybook.core import unet as U
from foleybook.audio_features import MelConfig
from foleybook.core.generator import Conditions, Pretrained, peak_memory_mb
from foleybook.core.half_precision import InBf16
from foleybook.published.audio_diffusion import prepared, unet_preset


def _plain_attention(self, x, context):
    split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
    q, k, v = split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return self.to_out[0]((weights @ v).transpose(1, 2).flatten(2))


def _reference(model):
    "(name, f(x, t)): diffusers on the same weights, or the plain way"
    try:
        from diffusers import UNet2DModel
    except ImportError:
        attend = U.Attention.attend

        def plain(x, t):
            U.Attention.attend = _plain_attention
            try:
                return model(x, t)
            finally:
                U.Attention.attend = attend
        return "the plain way (diffusers is not installed)", plain
    c = model.config
    other = UNet2DModel(sample_size=c.sample_size, in_channels=c.in_channels, out_channels=c.out_channels,
                        layers_per_block=c.layers_per_block, block_out_channels=c.block_out_channels,
                        down_block_types=c.down_block_types, up_block_types=c.up_block_types,
                        norm_num_groups=c.norm_num_groups, attention_head_dim=c.attention_head_dim).eval()
    other.load_state_dict(model.state_dict())
    return "diffusers", lambda x, t: other(x, t).sample


@torch.inference_mode()
def unet_step(size, config, rounds):
    "One reverse step of a published U-Net"
    model = S.UNet(config).eval()
    name, reference = _reference(model)
    fast = prepared(model)
    x, t = torch.randn(1, config.in_channels, size, size), torch.tensor([500])
    (ours, theirs), results = interleaved(lambda: fast(x, t), lambda: reference(x, t), rounds=rounds)
    assert torch.allclose(*results, atol=1e-3), size
    work = flops_of(lambda: model(x, t))
    step = row(f"U-Net small, {size}x{size}, a step", ours, name, theirs, "s", difference(*results), share(ours, flops=work))
    return [step, row(f"U-Net small, {size}x{size}, 20 steps", 20 * ours, f"1000 steps, {name}, extrapolated", 1000 * theirs, "s")]


def _random_painter(config, vae, seconds, vocoder=None):
    "A latent painter with random weights"
    autoencoder = S.MelVAE(vae).fit(torch.randn(8, vae.mel.n_mels, 64).cumsum(-1) - 5)
    backbone = S.FlowTransformer(config).eval()
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.02 * torch.randn_like(p))
    told = S.LatentDiffusionConfig(tuple(map(str, range(config.n_classes))), seconds=seconds, griffin_lim=8)
    return S.LatentDiffusion(told, autoencoder, backbone, vocoder).eval()


@torch.inference_mode()
def flow(config, vae, seconds, rounds, vocoder=None):
    "A clip from its class, alone and eight at once"
    model = _random_painter(config, vae, seconds, vocoder)
    told = model.config
    draw = lambda n: model.sample([0] * n, seed=0, progress=False)  # noqa: E731
    latents = lambda n: model.sample_latents(Conditions(label=[0] * n), list(range(n)),  # noqa: E731
                                             round(seconds * 44100 / 512 / vae.patch[1]), guidance=told.guidance)
    (one, eight, z1, z8), results = interleaved(lambda: draw(1), lambda: draw(8), lambda: latents(1), lambda: latents(8),
                                                rounds=rounds)
    far = difference(results[2], results[3][:1])
    how = "default vocoder" if vocoder is not None else "Griffin-Lim, 8 rounds"
    return [row(f"foley, {seconds:g} s, class to sound ({how})", one, "the sound's own length, so ratio is times real time",
                seconds, "s", f"peak memory {peak_memory_mb():.0f} MB"),
            row(f"foley, {seconds:g} s, batch 8, a clip", eight / 8, "batch 1 of the row above", one, "s"),
            row(f"foley latents, {seconds:g} s, batch 8, a clip", z8 / 8, "batch 1", z1, "s", far,
                share(z8 / 8, flops=flops_of(lambda: latents(1))))]


def _decibels(exact, near):
    "In words: how far what was made in bf16 is from what float32 makes"
    return f"SNR {10 * (exact.square().sum() / (exact - near).square().sum()).log10():.0f} dB"


@torch.inference_mode()
def unet_half(size, config, rounds):
    "One reverse step with weights held in bf16, and with autocast, which rounds them in every step"
    model = S.UNet(config).eval()
    full, half = prepared(model), prepared(InBf16(model))
    x, t = torch.randn(1, config.in_channels, size, size), torch.tensor([500])

    def cast():
        with torch.autocast("cpu", torch.bfloat16): return model(x, t).float()

    (ours, theirs, autocast), (near, exact, _) = interleaved(lambda: half(x, t), lambda: full(x, t), cast, rounds=rounds)
    name = f"U-Net small, {size}x{size}, a step, weights held in bf16"
    return [row(name, ours, "ours in float32", theirs, "s", _decibels(exact, near),
                share(ours, flops=flops_of(lambda: model(x, t)), dtype=torch.bfloat16)),
            row(name, ours, "autocast", autocast, "s", _decibels(exact, near))]


@torch.no_grad()
def flow_half(model, seconds, rounds):
    "Latents of `foley` with the weights of its backbone held in bf16"
    columns = round(seconds * model.sample_rate / model.mel.hop_length / model.vae.time_stride)

    def paint(n, precision):
        model.set_precision(precision)
        told = dict(model.defaults)
        return model.sample_latents(Conditions(label=[0] * n), list(range(n)), columns, **told)

    for n in (1, 8):
        (ours, theirs), (near, exact) = interleaved(lambda: paint(n, "bf16"), lambda: paint(n, "float32"), rounds=rounds)
        work = flops_of(lambda: paint(n, "float32"))
        yield row(f"foley latents, {seconds:g} s, batch {n}, held in bf16, a clip", ours / n, "float32", theirs / n, "s",
                  _decibels(exact, near), share(ours, flops=work, dtype=torch.bfloat16))


def _vocoder():
    "The default one, where it reads the mels of this room"
    from foleybook.core.rendering import find_vocoder

    found = find_vocoder()
    return found if found.mel == MelConfig.preset("fullband") else None


def benchmarks(sizes=(64, 256), unet=None, config=None, vae=None, seconds=4.0, rounds=3):
    "Rows, see `_measure.row`; tests take smaller settings"
    torch.manual_seed(0)
    unet = unet or unet_preset("small")
    config = config or S.FlowConfig(width=320, heads=5, n_classes=10)
    steps = [r for size in sizes for r in unet_step(size, unet, rounds if size < 256 else 1)]
    painted = flow(config, vae or S.MelVAEConfig(), seconds, rounds, _vocoder() if vae is None else None)
    return [*steps, *painted, *halves(sizes[0], unet, config, vae, seconds, rounds)]


def halves(size=64, unet=None, config=None, vae=None, seconds=4.0, rounds=3):
    "The rows of weights held in bf16; without sizes the generator that ships"
    torch.manual_seed(0)
    model = Pretrained.from_pretrained("foley") if vae is None else _random_painter(config, vae, seconds)
    yield from unet_half(size, unet or unet_preset("small"), rounds)
    yield from flow_half(model, seconds, rounds)
