"Checks of notebook 04: published VQ-VAEs, their EMA codebooks and residual codes"
import torch
import torch.nn.functional as F
from foleybook.audio_features import MelConfig
from foleybook.codebooks import VQVAE
from foleybook.published.dcase2023 import published_keys

from . import assert_close, check


def load(case, mel):
    "The model of a case, for spectrograms of the case's own height"
    bands = next(v for k, v in case.inputs.items() if k.startswith("mel")).shape[-2]
    return VQVAE.from_original(case.weights, mel=mel.replace(n_mels=bands))


def outside(x, like):
    "Our (b, m, f) as the original's (b, 1, m, f) where it has a channel axis"
    return x.view(like.shape)


@check("foley.vqvae")
@torch.no_grad()
def vqvae(case):
    model, x, out = load(case, MelConfig.preset("dcase2023")), case.inputs, case.outputs
    mel = x["mel"].squeeze(1)
    quantized = model.quantizer(model.latent(mel))
    assert torch.equal(model.encode(mel), out["codes"])
    assert_close(quantized.z_q, out["quantized"], what="quantized")
    assert_close(quantized.commitment.view(1), out["diff"], what="diff")
    assert_close(outside(model(mel).log_mel, out["recon"]), out["recon"], what="recon")
    if "decode" in out:
        assert_close(outside(model.decode(x.get("codes", out["codes"])), out["decode"]), out["decode"], what="decode")


@check("foley.vqvae_ema_steps")
def ema_steps(case):
    model, out = load(case, MelConfig.preset("dcase2023")).train(), case.outputs
    ours = dict(model.named_parameters())
    names = published_keys(case.weights)
    steps = sum(k.startswith("mel") for k in case.inputs)
    for i in range(1, 1 + steps):
        mel = case.inputs[f"mel{i}"].squeeze(1)
        result = model(mel)
        model.zero_grad()
        result.loss.backward()
        assert_close(outside(result.log_mel, case.inputs[f"mel{i}"]), out[f"recon{i}"], what=f"recon{i}")
        assert_close(result.loss, out[f"loss{i}"], what=f"loss{i}")
        latent = (result.loss - result.error).view(1) / model.config.commitment
        assert_close(latent, out[f"latent{i}"], 1e-4, f"latent{i}")
        for key, value in case.part(f"out.grad{i}").items():
            assert_close(ours[names[key]].grad, value, what=f"grad{i}.{key}")
        for key, theirs in (("codebook", "embed"), ("total", "embed_avg"), ("count", "cluster_size")):
            assert_close(getattr(model.quantizer, key).t(), out[f"{theirs}{i}"], what=f"{theirs}{i}")


@check("foley.audyn_vqvae")
def audyn_vqvae(case):
    audyn(case, ["quantizer"], ["ema_codebook"])


@check("foley.audyn_rvqvae")
def audyn_rvqvae(case):
    stages = case.outputs["codes"].shape[1]
    audyn(case, [f"quantizer.stages.{i}" for i in range(stages)], [f"ema_codebook.{i}" for i in range(stages)])


@torch.no_grad()
def audyn(case, books, moved):
    model, out = load(case, MelConfig.preset("audyn")), case.outputs
    mel = case.inputs["mel"].reshape(len(case.inputs["mel"]), *case.inputs["mel"].shape[-2:])
    latent = model.latent(mel)
    assert_close(latent, out["encoded"], what="encoded")
    codes = model.encode(mel)
    assert torch.equal(codes, out["codes"])
    if "residual" in out:
        parts = torch.stack([stage.lookup(c) for stage, c in zip(model.quantizer.stages, codes.unbind(1))], 1)
        before = F.pad(parts.cumsum(1)[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        assert_close(latent[:, None] - before, out["residual"], what="residual")
    else:
        parts = model.quantizer.lookup(codes)
    assert_close(parts, out["quantized"], what="quantized")
    assert_close(outside(model(mel).log_mel, out["recon"]), out["recon"], what="recon")
    assert_close(outside(model.decode(codes), out["decode"]), out["decode"], what="decode")
    model.quantizer.dropout = 0.0
    model.quantizer.train()(latent)
    for book, key in zip(books, moved):
        assert_close(model.get_submodule(book).codebook, out[key], what=key)
