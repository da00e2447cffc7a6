"""The U-Nets, autoencoder, schedulers and pipeline of audio-diffusion against diffusers."""
import torch

from foleybook.diffwave import sample_ddim, sample_ddpm, time_grid
from foleybook.published.audio_diffusion import (
    AutoencoderKL, MelImageConfig, MelImageDiffusion, MelImageDiffusionConfig, from_bytes, loop_beats,
    scheduler_settings, to_bytes)
from foleybook.spectrogram_diffusion import UNet, slerp

from . import assert_close, check


@check("audiodiff.unet_2d", "audiodiff.unet_2d_condition")
@torch.no_grad()
def unet(case):
    x, out = case.inputs, case.outputs
    model = UNet.from_original((case.config, case.weights))
    assert_close(model(x["sample"], x["timestep"], x.get("encoding")), out["eps"], what="eps")
    if "time_emb" in out:
        assert_close(model.time_vector(x["timestep"]), out["time_emb"], what="time vector")


@check("audiodiff.autoencoder_kl")
@torch.no_grad()
def autoencoder_kl(case):
    x, out = case.inputs, case.outputs
    model = AutoencoderKL.from_original((case.config, case.weights))
    found = model.encode(x["sample"])
    latent = found.draw(x["posterior_noise"])
    assert_close(found.mean, out["mean"], what="mean")
    assert_close(found.logvar, out["logvar"], what="logvar")
    assert_close(latent, out["posterior_sample"], what="posterior sample")
    assert_close(latent * model.config.scaling_factor, out["scaled"], what="scaled")
    assert_close(found.kl(), out["kl"], what="kl")
    assert_close(model.decode(x["latent"]), out["decoded"], what="decoded")


class Drawn:
    "Fresh noise from one torch generator, as the published code draws it"

    def __init__(self, seed, n):
        self.generator, self.n = torch.Generator().manual_seed(seed), n

    def randn(self, *shape):
        return torch.randn(self.n, *shape, generator=self.generator)


@check("audiodiff.schedulers")
def schedulers(case):
    c, x, out = case.config, case.inputs, case.outputs
    steps, picked = c["num_inference_steps"], c["step_timesteps"]
    for kind in ("ddim", "ddpm"):
        process, _, clip = scheduler_settings({**c[kind], "_class_name": kind.upper()})
        assert_close(process.alpha_bar, out["alphas_cumprod"], what="alpha_bar")
        times = time_grid(process, steps, "leading")
        assert times[:-1].long().tolist() == out[f"{kind}_timesteps"].tolist()
        denoiser = process.denoiser(lambda x, t: case.inputs["eps"], clip)
        for i, t in enumerate(picked):
            now = times.tolist().index(t)
            step = times[now : now + 2]
            assert_close(denoiser(x["sample"], t).x0, out[f"{kind}_t{i}_x0"], what=f"{kind} x0 at {t}")
            fixed = lambda z: type("Fixed", (), dict(randn=staticmethod(lambda *shape: z)))
            if kind == "ddpm":
                ours = sample_ddpm(denoiser, x["sample"], step, fixed(out["ddpm_noise"]))
                assert_close(ours, out[f"ddpm_t{i}"], what=f"ddpm at {t}")
                continue
            for name in (k for k in out if k.startswith(f"ddim_t{i}_eta")):
                eta = float(name.split("eta")[1])
                ours = sample_ddim(denoiser, x["sample"], step, fixed(x["variance_noise"]), eta=eta)
                assert_close(ours, out[name], what=name)
    if "add_noise" in out:
        t = torch.tensor(picked[: len(x["sample"])])
        ours = process.q_sample(x["sample"], t, x["variance_noise"])
        assert_close(ours, out["add_noise"], what="noise added")


def pipeline(config, weights, scheduler="ddim"):
    vae = {k.partition(".")[2]: v for k, v in weights.items() if k.startswith(("vae.", "vqvae."))}
    unet = {k.removeprefix("unet."): v for k, v in weights.items() if not k.startswith(("vae.", "vqvae."))}
    image = MelImageConfig(**config["mel"])
    settings = MelImageDiffusionConfig(image.mel, -image.top_db, 0.0, image.x_res, sampler=scheduler)
    vae = AutoencoderKL.from_original((config["vae"], vae)) if config.get("vae") else None
    return image, MelImageDiffusion(settings, UNet.from_original((config["unet"], unet)), vae).eval()


def assert_levels(ours, theirs, off=1):
    assert ours.shape == theirs.shape and (ours.int() - theirs.int()).abs().max() <= off


@check("audiodiff.ddim_run")
@torch.no_grad()
def ddim_run(case):
    c, x, out = case.config, case.inputs, case.outputs
    _, model = pipeline(c, case.weights)
    seen = []
    final = model.paint(x["noise"], c["steps"], eta=c.get("eta", 0), on_step=lambda k, n, x: seen.append(x))
    assert_close(seen[0], out["traj_first"], what="first step")
    assert_close(final, out["final"], what="final")
    assert_levels(to_bytes(final)[:, 0], out["images"])
    images = from_bytes(out["images"])[:, None]
    assert_close(model.hidden_noise(images, c["steps"]), out["encoded"], what="encoded")
    half = out["encoded_half"]
    assert_close(model.hidden_noise(images[: len(half)], c["half_steps"]), half, what="encoded in half the steps")
    for share, theirs in zip(c["slerp_alpha"], out["slerp"]):
        assert_close(slerp(x["noise"][0], x["noise"][1], share), theirs, what=f"slerp {share}")


@check("audiodiff.mel_image_pipeline")
@torch.no_grad()
def mel_image_pipeline(case):
    c, x, out = case.config, case.inputs, case.outputs
    image, model = pipeline(c, case.weights, c["scheduler"])
    source = image.images(image.slices(x["audio"])[:1])
    assert_levels(source[0], out["source_image"])
    noise = x["noise"]
    posterior = torch.randn(noise.shape, generator=torch.Generator().manual_seed(c["generator_seed"]))
    state = model.to_state(from_bytes(out["source_image"])[None, None], posterior)
    width = c["unet"]["sample_size"][1]
    hold = tuple(int(c[k] * width * image.sample_rate / image.x_res / image.hop_length)
                 for k in ("mask_start_secs", "mask_end_secs"))
    made = model.paint(noise, c["steps"], c["scheduler"], state, c["start_step"], hold, c["eta"],
                       Drawn(c["step_generator_seed"], len(noise)), same_noise=True)
    assert_levels(to_bytes(model.to_pictures(made))[:, 0], out["images"])


@check("audiodiff.loop_it")
def loop_it(case):
    c, audio = case.config, case.inputs["audio"]
    ours = loop_beats(audio, c["sr"], c["loops"])
    if not c.get("loop_len"):
        assert ours is None
        return
    assert len(ours) == c["loop_len"]
    head = case.outputs["loop_head"]
    assert torch.equal(ours[: len(head)], head)
