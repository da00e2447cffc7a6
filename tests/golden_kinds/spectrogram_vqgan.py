"Checks of notebook 06: SpecVQGAN's codebook, critic, losses and bit rate"
import tempfile
from pathlib import Path

import torch
from foleybook.audio_features import MelConfig
from foleybook.apps.codec import bitrate
from foleybook.spectrogram_vqgan import LPAPS, PatchDiscriminator, SpectrogramVQGAN, adaptive_weight, critic_loss

from . import assert_close, check


def load(case, half=None):
    "Through a file as the original trainer writes it; the mel has as many bands as the case"
    shape = next(v.shape for k, v in (case.inputs | case.outputs).items() if k in ("x", "xrec"))
    mel = MelConfig.preset("specvqgan").replace(n_mels=shape[-2])
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": case.weights, "epoch": 3, "global_step": 7}, path := Path(folder) / "epoch_3.ckpt")
        return SpectrogramVQGAN.from_original(path, mel, half)


def encoded(model, x):
    "Latent and what the quantiser gives; the encoder itself, as the original leaves what lies between strides unseen"
    return (z := model.encoder(x)), model.quantizer(z)


@torch.no_grad()
def encode(case, model):
    out = case.outputs
    z, quantized = encoded(model, case.inputs["x"])
    if "h" in out:
        assert_close(z, out["h"], what="h")
    assert torch.equal(quantized.codes, out["indices"])
    assert_close(model.quantizer.lookup(quantized.codes), out["quant"] if "quant" in out else quantized.z_q, what="quant")
    assert_close(model.config.quantizer_weight * quantized.loss, out["emb_loss"], what="emb_loss")
    assert_close(quantized.perplexity, out["perplexity"], what="perplexity")
    if case.inputs["x"].shape[-1] % model.time_stride == 0:
        assert torch.equal(model.encode((case.inputs["x"].squeeze(1) + 1) / 2), out["indices"])
    return quantized.codes


@torch.no_grad()
def decode(case, model, codes):
    theirs = case.outputs["xrec"]
    recon = model.decode(codes, theirs.shape[-1])
    assert_close(2 * recon - 1, theirs.view_as(recon), what="xrec")


@check("specvqgan.codebook_encode")
def codebook_encode(case):
    encode(case, load(case, "encoder"))


@check("specvqgan.codebook_decode")
def codebook_decode(case):
    decode(case, load(case, "decoder"), case.inputs["indices"])


@check("specvqgan.codebook_full")
def codebook_full(case):
    model = load(case)
    decode(case, model, encode(case, model))


@check("specvqgan.discriminator")
def discriminator(case):
    model, x, out = PatchDiscriminator.from_original(case.weights), case.inputs["x"], case.outputs
    with torch.no_grad():
        assert_close(model(x), out["logits_eval"], what="logits_eval")
        assert_close(model.train()(x), out["logits_train"], what="logits_train")
    moved = dict(model.named_buffers())
    for key in (k for k in out if k.startswith("after_train.")):
        assert_close(moved[key[12:]], out[key], what=key)


OURS = {"quant_conv": "encoder.project", "post_quant_conv": "decoder.conv", "quantize.embedding.weight": "quantizer.codebook"}


def ours(key):
    return next((new + key[len(old):] for old, new in OURS.items() if key.startswith(old)), key)


@check("specvqgan.vqgan_loss")
def vqgan_loss(case):
    p, out, x = case.meta["lossconfig"]["params"], case.outputs, case.inputs["x"]
    ear, weight = LPAPS.from_original(case.weights), p.get("perceptual_weight", 1.0)
    x01 = (x.squeeze(1) + 1) / 2
    kind = p.get("disc_loss", "hinge")

    def fresh():
        return load(case).train(), PatchDiscriminator.from_original(case.weights).train()

    model, critic = fresh()
    with torch.no_grad():
        assert_close(ear(x01, model(x01).log_mel), out["lpaps_per_sample"].view(-1), what="lpaps")
        for k, m in enumerate(ear.net(x01)):
            if f"vgg.relu{k}" in out:
                theirs = out[f"vgg.relu{k}"]
                if theirs.ndim == 2:  # means over the positions
                    m = m.mean((2, 3))
                assert_close(m, theirs, what=f"relu{k}")
    stages = sorted({k.split(".")[0] for k in out if k.endswith(".ae.total_loss")})
    for stage in stages:
        model, critic = fresh()
        result = model(x01)
        nll = result.error + weight * ear(result.target, result.log_mel).mean()
        g = -critic(model.scaled(result.log_mel)).mean()
        low, high = (1.0, 1.0) if "clamp1" in stage else (p.get("min_adapt_weight", 0.0), p.get("max_adapt_weight", 1e4))
        d_weight = p.get("disc_weight", 1.0) * adaptive_weight(nll, g, model.last_layer, low, high)
        factor = 0.0 if stage.startswith("pre") else p.get("disc_factor", 1.0)
        total = nll + d_weight * factor * g + p.get("codebook_weight", 1.0) * result.quantizer_loss
        found = dict(total_loss=total, nll_loss=nll, rec_loss=nll, p_loss=ear(result.target, result.log_mel).mean(), g_loss=g,
                     d_weight=d_weight, quant_loss=result.quantizer_loss)
        for key in (k for k in found if f"{stage}.ae.{k}" in out):
            assert_close(found[key], out[f"{stage}.ae.{key}"], 1e-4 if key == "d_weight" else 5e-5, f"{stage}.ae.{key}")
        total.backward()
        grads = {k: v.grad for k, v in model.named_parameters()}
        for key in (k for k in out if k.startswith(f"{stage}.grad.")):
            assert_close(grads[ours(key[len(stage) + 6:])], out[key], 2e-4, key)
        model, critic = fresh()
        real, fake = critic(x), critic(model.scaled(model(x01).log_mel).detach())
        loss = factor * critic_loss(real, fake, kind)
        for key, value in dict(disc_loss=loss, logits_real=real.mean(), logits_fake=fake.mean()).items():
            assert_close(value, out[f"{stage}.disc.{key}"], what=f"{stage}.disc.{key}")
        if factor:
            critic.zero_grad()
            loss.backward()
            own = dict(critic.named_parameters())
            for key in (k for k in out if k.startswith("grad_disc.loss.discriminator.")):
                assert_close(own[key.removeprefix("grad_disc.loss.discriminator.")].grad, out[key], 2e-4, key)


@check("specvqgan.bitrate")
def rates(case):
    for c in case.meta["cases"]:
        assert abs(bitrate(c["code_map"], c["n_codes"], c["duration"], kilo=1024) - c["kbps"]) < 1e-12
        assert abs(bitrate(c["code_map"], c["n_codes"], c["duration"]) - c["kbps"] * 1.024) < 1e-12
