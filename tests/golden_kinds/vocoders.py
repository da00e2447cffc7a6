"""HiFi-GAN, MelGAN and BigVGAN against the published implementations."""
import zlib

import numpy as np
import torch

from foleybook.published.melgan import MelGAN, MelGANDiscriminator
from foleybook.published.bigvgan import BigVGAN
from foleybook.train.vocoders import (
    MultiPeriodDiscriminator, MultiScaleDiscriminator, discriminator_loss, feature_matching_loss, generator_loss)
from foleybook.vocoders import HiFiGAN

from . import assert_close, check


def both_ways(case, cls, tol, wave, **options):
    "Weight norm kept and weight norm folded give the published waveform"
    for fold in (False, True):
        model = cls.from_original(case.weights, fold=fold, **options)
        with torch.no_grad():
            assert_close(model(case.inputs["mel"]), case.outputs[wave], tol, f"fold={fold}")
    return model


@check("foley.hifigan_generator")
def hifigan_generator(case):
    both_ways(case, HiFiGAN, 1e-4, "audio", config=case.meta["config"])


@check("foley.audyn_hifigan")
def audyn_hifigan(case):
    both_ways(case, HiFiGAN, 1e-4, "audio")


@check("specvqgan.melgan_generator")
def melgan_generator(case):
    both_ways(case, MelGAN, 5e-5, "audio")


@check("audiodiff.bigvgan_generator")
def bigvgan_generator(case):
    model = both_ways(case, BigVGAN, 5e-5, "wav", config=case.meta["config"])
    out, act = case.outputs, model.resblocks[0].activations[0]
    assert_close(act.upsample.filter, out["filter_up"], what="upsampling filter")
    assert_close(act.downsample.lowpass.filter, out["filter_down"], what="downsampling filter")
    with torch.no_grad():
        assert_close(act.upsample(case.inputs["act_in"]), out["act_up"], what="upsampled")
        assert_close(act(case.inputs["act_in"]), out["act_out"], what="activation")


def discriminators(case, model):
    inputs, out = case.inputs, case.outputs
    with torch.no_grad():
        real, fake = model(inputs["y"]), model(inputs["y_hat"])
    for i in range(len(real.logits)):
        assert_close(real.logits[i], out[f"real.{i}"], what=f"logits {i} of y")
        assert_close(fake.logits[i], out[f"fake.{i}"], what=f"logits {i} of y_hat")
        first = out[f"fmap_real.{i}.0"]
        ours = real.features[i][0][:, : first.shape[1], : first.shape[2]]
        assert_close(ours, first, what=f"first features {i}")
    sums = torch.stack([f.abs().double().sum() for maps in real.features for f in maps])
    assert_close(sums, out["fmap_abs_sums"], what="feature sums")
    assert_close(discriminator_loss(real.logits, fake.logits), out["d_loss"], what="discriminator loss")
    assert_close(generator_loss(fake.logits), out["g_loss"], what="generator loss")
    assert_close(2 * feature_matching_loss(real.features, fake.features), out["fm_loss"], what="feature matching")


@check("foley.hifigan_mpd")
def hifigan_mpd(case):
    discriminators(case, MultiPeriodDiscriminator.from_original(case.weights))


@check("foley.hifigan_msd")
def hifigan_msd(case):
    model = MultiScaleDiscriminator.from_original(case.weights)
    discriminators(case, model)
    model.train()
    with torch.no_grad():
        real = model(case.inputs["y"])
        model(case.inputs["y_hat"])
    assert_close(real.logits[0], case.outputs["train.real.0"], what="logits in train mode")
    state = model.state_dict()
    for name, u in case.part("out.train.u").items():
        assert_close(state[name], u, what=name)


def filled(model, seed, gain):
    "Weights by the fill rule of the case: normal numbers, seeded by the name of each weight"
    state = {}

    def normal(name, shape):
        return np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(shape)

    for name, t in model.state_dict().items():
        name, shape = name.replace("parametrizations.weight.original0", "weight_g"), tuple(t.shape)
        name = name.replace("parametrizations.weight.original1", "weight_v")
        r = normal(name, shape)
        state[name] = 0.1 * r if name.endswith("bias") else gain * r / np.sqrt(np.prod(shape[1:]))
        if name.endswith("weight_v"):
            length = np.sqrt((state[name] ** 2).sum((1, 2), keepdims=True))
            state[name[:-1] + "g"] = length * (1 + 0.2 * normal(name[:-1] + "g", length.shape))
    return {k: torch.tensor(v, dtype=torch.float32) for k, v in state.items()}


@check("specvqgan.melgan_discriminator")
def melgan_discriminator(case):
    m, out = case.meta, case.outputs
    sizes = {k: m[k] for k in ("num_D", "ndf", "n_layers", "downsampling_factor")}
    state = case.weights or filled(MelGANDiscriminator(**sizes), m["seed"], m["gain"])
    for name, total in m.get("weight_check", {}).items():
        assert_close(state[name].double().sum(), total, 1e-4, f"sum of {name}")
    model = MelGANDiscriminator.from_original(state)
    with torch.no_grad():
        real, fake = model(case.inputs["real"]), model(case.inputs["fake"])
    for i in range(m["num_D"]):
        assert_close(real.logits[i], out[f"real.logits{i}"], what=f"logits {i} of real")
        assert_close(fake.logits[i], out[f"fake.logits{i}"], what=f"logits {i} of fake")
        for j, f in enumerate([*real.features[i], real.logits[i]]):
            stat = torch.tensor([f.mean(), f.std(), *f.shape])
            assert_close(stat, out[f"real.stat.{i}.{j}"], what=f"features {i}.{j}")
    d, g = discriminator_loss(real.logits, fake.logits, "hinge"), generator_loss(fake.logits, "hinge")
    matching = feature_matching_loss(real.features, fake.features) * 4 / (m["n_layers"] + 1) / m["num_D"]
    assert_close(d, out["loss_D"], what="discriminator loss")
    assert_close(g, out["loss_G"], what="generator loss")
    assert_close(matching, out["loss_feat"], what="feature matching")
    assert_close(g + 10 * matching, out["loss_G_total"], what="total")
