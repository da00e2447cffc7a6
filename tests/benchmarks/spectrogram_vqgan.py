"""The spectrogram VQGAN: ten seconds there and back at the published size, a training step of the small one and of its judges,
and long sounds in pieces against the whole."""
import torch
from _measure import OWN_LENGTH, difference, flops_of, interleaved, row, share

from foleybook.audio_features import MelConfig
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.judge.mel_classifiers import MelClassifier, MelClassifierConfig
from foleybook.apps.codec import decode_long, encode_long
from foleybook.spectrogram_vqgan import PatchDiscriminator, SpectrogramVQGAN, VQGANConfig, VQGANLoss
from foleybook.train.spectrogram_vqgan import VQGANRecipe, find_perceptual


def _codebook(config, **changes):
    torch.manual_seed(0)
    return SpectrogramVQGAN(VQGANConfig(**{**vars(config), "kmeans_iters": 0, **changes}))


@torch.inference_mode()
def _there_and_back(name, model, frames, rounds):
    "Encoder and decoder of one spectrogram, against the length of its sound"
    mel, x = model.mel, torch.rand(1, model.mel.n_mels, frames)
    codes = model.encode(x)
    (there, back), _ = interleaved(lambda: model.encode(x), lambda: model.decode(codes), rounds=rounds)
    seconds = frames * mel.hop_length / mel.sample_rate
    for job, took, work in (("encode", there, lambda: model.encode(x)), ("decode", back, lambda: model.decode(codes))):
        yield row(f"{job} {seconds:.1f} s, {name}", took, OWN_LENGTH, seconds, "s", share=share(took, flops=flops_of(work)))

    def rounded():
        with torch.autocast("cpu", torch.bfloat16):
            return model.decode(model.encode(x))

    (ours, reference), mels = interleaved(rounded, lambda: model.decode(model.encode(x)), rounds=rounds)
    work = share(ours, flops=flops_of(lambda: model.decode(model.encode(x))), dtype=torch.bfloat16)
    yield row(f"encode and decode {seconds:.1f} s, {name}, bf16", ours, "float32", reference, "s", difference(*mels), work)


@torch.inference_mode()
def _held_decoder(name, model, frames, rounds):
    "A decoder with its weights held in bf16"
    codes = model.encode(torch.randn(1, model.mel.n_mels, frames))
    ways = [lambda p=p: model.set_precision(p).decode(codes) for p in ("bf16", "float32")]
    (ours, reference), (near, exact) = interleaved(*ways, rounds=rounds)
    snr = 10 * torch.log10(exact.var() / (near - exact).square().mean())
    return row(f"decode {frames} frames, {name}, held in bf16", ours, "float32", reference, "s", f"SNR {snr:.0f} dB")


@torch.inference_mode()
def _in_pieces(model, frames, rounds):
    "A minute in pieces, with what each piece brings along"
    x = torch.randn(1, model.mel.n_mels, frames)
    whole = model.encode(x)
    (ours, reference), codes = interleaved(lambda: encode_long(model, x), lambda: model.encode(x), rounds=rounds)
    yield row(f"encode {frames} frames in pieces of 1024, quick", ours, "as a whole, in memory that grows with the length", reference, "s",
              f"codes that differ: {int((codes[0] != codes[1]).sum())} of {whole.numel()}")
    (ours, reference), mels = interleaved(lambda: decode_long(model, whole), lambda: model.decode(whole), rounds=rounds)
    yield row(f"decode {frames} frames in pieces of 1024, quick", ours, "as a whole", reference, "s", difference(*mels))


def _step(recipe, batch, rounds):
    "A training step of codebook, perceptual distance and critic, in bf16 and in float32; and without its judges"
    c = recipe.model
    ear = find_perceptual(MelClassifier(MelClassifierConfig(c.mel, labels=("a", "b"))).eval(), c.mel)
    x = torch.randn(batch, c.mel.n_mels, recipe.frames)

    def maker(half, judged=True):
        model, critic, loss = _codebook(c).train(), PatchDiscriminator(recipe.critic_width), VQGANLoss(ear if judged else None)

        def step():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                out = model(x)
            total = loss(out)
            if judged:
                total = total - critic(model.scaled(out.log_mel)).mean()
            total.backward()
            model.zero_grad()
            critic.zero_grad()
            return total.detach()

        return step

    (ours, reference, alone), losses = interleaved(maker(True), maker(False), maker(False, False), rounds=rounds)
    work, name = flops_of(maker(False)), f"training step, quick, {batch} x {recipe.frames} frames"
    yield row(f"{name}, bf16", ours, "float32", reference, "s", difference(*losses[:2], "difference of the first loss"),
              share(ours, flops=work, dtype=torch.bfloat16))
    yield row(f"{name}, float32, with ear and critic", reference, "without them", alone, "s", share=share(reference, flops=work))


def benchmarks(rounds=3, published=VQGANConfig.preset("vggsound"), batch=8, frames=848, long=5168, quick="quick-vqgan", vqvae=VQVAEConfig(MelConfig.preset("dcase2023"))):
    "Rows, see `_measure.row`; tests take smaller settings"
    recipe = VQGANRecipe.preset(quick)
    model = _codebook(published, widths=published.widths).eval()
    rows = [*_there_and_back("published size", model, frames, rounds), _held_decoder("published size", model, frames, rounds)]
    model = _codebook(recipe.model).eval()
    rows += [_held_decoder("quick", model, frames, rounds), _held_decoder("VQ-VAE of DCASE 2023", VQVAE(vqvae).eval(), frames, rounds)]
    rows += _there_and_back("quick", model, frames, rounds)
    rows += _in_pieces(model, long, rounds)
    return [*rows, *_step(recipe, batch, rounds)]
