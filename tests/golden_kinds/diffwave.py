import torch

from foleybook.diffwave import (
    DiffWave, DiffusionProcess, align_steps, diffuse, diffusion_loss, step_embedding, time_grid)
from foleybook.published.diffwave import from_published, published_optimizer, to_published

from . import assert_close, check

FREE = "init_conv.0.conv.weight_v"  # one input channel: its direction cannot change, so its true gradient is zero


class Replayed:
    "Noise that was drawn elsewhere"

    def __init__(self, noise): self.noise = iter(noise)
    def randn(self, *shape): return next(self.noise)


def wavenet(case, weights=None, process=None):
    "The network of a case, through the public door"
    released = "checkpoints" in case.meta.get("source", "") or "philsyn" in case.meta.get("source", "")
    return DiffWave.from_original(weights or case.weights, case.meta["kwargs"]["dilation_cycle"], released, process)


def sashimi(case, weights=None, process=None):
    "As above; another room"
    from foleybook.sashimi import SashimiWave

    return SashimiWave.from_original(weights or case.weights, length=case.meta["kwargs"]["L"], process=process)


def network(case, **how):
    return (wavenet if "res_channels" in case.meta["kwargs"] else sashimi)(case, **how)


def process_of(settings): return DiffusionProcess(T=settings["T"], beta_0=settings["beta_0"], beta_T=settings["beta_T"])


@check("diffwave.schedules")
def schedules(case):
    out = case.outputs
    processes = [process_of(s) for s in case.meta["schedules"]]
    for i, p in enumerate(processes):
        assert_close(p.betas, out[f"{i}.Beta"], what=f"{i} beta")
        assert_close(1 - p.betas, out[f"{i}.Alpha"], what=f"{i} alpha")
        assert_close(p.alpha_bar, out[f"{i}.Alpha_bar"], what=f"{i} alpha bar")
        _, sigma = p.levels(torch.arange(-1, p.T))
        posterior = (sigma[1:-1].square() / sigma[2:].square() * p.betas[1:]).sqrt()
        assert_close(torch.cat([p.betas[:1].sqrt(), posterior]), out[f"{i}.Sigma"], what=f"{i} sigma")
    for j, betas in enumerate(case.meta["fast"]):
        for i, p in enumerate(processes):
            if f"fast{j}.align_to{i}" in out:
                assert_close(align_steps(p, betas), out[f"fast{j}.align_to{i}"], what=f"{j} aligned to {i}")


@check("diffwave.step_embedding")
def embedding(case):
    for name, out in case.outputs.items():
        t = case.inputs["t_frac" if "frac" in name else "t"]
        assert_close(step_embedding(t[:, 0], int(name.rpartition("_")[2])), out, what=name)


@check("diffwave.wavenet")
def wavenet_forward(case):
    model, i, out = wavenet(case, process=process_of(case.meta["diffusion_for_loss"])), case.inputs, case.outputs
    assert_close(model(i["x"], i["t"][:, 0], None, i.get("mel")), out["eps"], what="eps")
    if model.net.config.residual_includes_t and "loss" not in out:
        return
    item = model.process.training_item(i["audio"], i["loss_t"][:, 0], i["z"])
    loss = diffusion_loss(model(item.x, item.t, None, i.get("mel")), item.target, item.weight)
    assert_close(loss.reshape(1), out["loss"].reshape(1), what="loss")
    loss.backward()
    grads = to_published(model.net.config, {k: p.grad for k, p in model.net.named_parameters()})
    for name, g in case.part("out.grad").items():
        if name == FREE and g.shape[1] == 1: continue
        assert_close(grads[name], g, 2e-4, what=f"gradient of {name}")


@check("diffwave.sampling_run")
def sampling_run(case):
    fast, out, seen = "beta" in case.meta, case.outputs, []
    process = process_of(case.meta["train" if fast else "diffusion"])
    model, noise = network(case, process=process), case.inputs["noise"]
    mel = case.inputs.get("mel")
    mel = None if mel is None else mel.expand(noise.shape[1], -1, -1)
    times = time_grid(process)
    if fast:
        aligned = align_steps(process, case.meta["beta"])
        assert_close(aligned.sort().values, out["t_aligned"].sort().values, what="aligned times")
        times = torch.cat([aligned.flip(0), torch.tensor([-1.0])])
    with torch.no_grad():
        x = diffuse(process, model.predictor(mel=mel), tuple(noise.shape[1:]), Replayed(noise), "fast" if fast else "ddpm", times=times,
                    on_step=lambda k, n, x: seen.append(x))
    assert_close(x, out["x0"], 1e-4, what="x0")
    states = out["x_after_step"] if fast else out["x_traj"][1:]
    for k, theirs in enumerate(states):
        assert_close(seen[k], theirs, 1e-4, what=f"state after step {k + 1}")


@check("diffwave.training_run")
def training_run(case):
    "All steps from the first weights, and again from the published checkpoint in the middle"
    i, process, lr = case.inputs, process_of(case.meta["diffusion"]), case.meta["lr"]
    after, losses = case.part("sd_after"), case.outputs["losses"]

    def train(model, opt, first):
        for k in range(first, case.meta["n_steps"]):
            item = process.training_item(i["audio"][k], i["t"][k], i["z"][k])
            loss = diffusion_loss(model(item.x, item.t), item.target)
            assert_close(loss.detach().reshape(1), losses[k].reshape(1), what=f"loss of step {k}")
            opt.zero_grad()
            loss.backward()
            opt.step()
        if "res_channels" in case.meta["kwargs"]:
            ours = to_published(model.net.config, model.net.state_dict())
        else:
            ours = model.to_original()
        for name, theirs in after.items():
            if name != FREE: assert_close(ours[name], theirs, 2e-4, what=f"{name} after the run")

    model = network(case, process=process)
    train(model, torch.optim.Adam(model.net.parameters(), lr), 0)
    checkpoint = case.path.with_name(f"{case.path.stem}_2.pkl")
    if checkpoint.exists() and "res_channels" in case.meta["kwargs"]:
        model = wavenet(case, checkpoint, process)
        opt = published_optimizer(model, checkpoint)
        train(model, opt, int(next(iter(opt.state.values()))["step"]))
        again = to_published(model.net.config, model.net.state_dict())
        ours = from_published(model.net.config, again, model.net.state_dict())
        assert all(torch.equal(v, ours[k]) for k, v in model.net.state_dict().items())
