"""S4 in its published generations, SaShiMi as a denoiser and as an autoregressive network."""
import torch

from foleybook.diffwave import DiffusionProcess, diffusion_loss
from foleybook.sashimi import S4, Sashimi, SashimiWave, StateSpace, Stepper, advance

from . import assert_close, check


def stepped(layer, u, mode):
    "The layer sample by sample"
    system, x, out = layer.space.recurrence(mode), None, []
    for u_k in u.unbind(-1):
        y, x = advance(system, u_k.double(), x)
        out.append(layer.mix((y + layer.D * u_k[:, None]).flatten(1).float()[..., None]))
    return torch.cat(out, -1)


@check("diffwave.s4_layer", "diffwave.s4v4_block", "diffwave.s4d_layer_minimal")
@torch.no_grad()
def layer(case):
    k, x, out = case.meta["kwargs"], case.inputs, case.outputs
    v4 = case.meta["kind"] == "diffwave.s4v4_block"
    rule = k.get("disc", "zoh" if v4 else "bilinear")
    model = S4.from_original(case.weights, k.get("bidirectional", False), k.get("l_max") or 0, rule,
                             k.get("real_transform", k.get("real_type", "exp")), dt_form=k.get("dt_transform", "exp"),
                             imag_form=k.get("imag_transform", "none"))
    if "k" in out:
        length = out["k"].shape[-1]
        kernel = model.space.kernel(length)
        exact = out.get("k_exact64")
        assert_close(kernel, out["k"] if exact is None else exact, 5e-5, "kernel")
        assert_close(model.space.kernel(length, dtype=torch.float64), out["k"] if exact is None else exact, 5e-5, "float64 kernel")
    if "k_half_len" in out:
        assert_close(model.space.kernel(out["k_half_len"].shape[-1]), out["k_half_len"], 5e-5, "half the kernel")
        assert_close(model.space.kernel(out["k_rate2"].shape[-1], rate=2.0), out["k_rate2"], 5e-5, "rate 2")
    assert_close(model(x["u"]), out["y"], 5e-5, "output")
    for name in (n for n in out if n.startswith("y_step_")):
        mode = name.removeprefix("y_step_")
        assert_close(stepped(model, x["u"], mode), out[name], 5e-5, name)
    if "state" in x:
        y, state = model(x["u"], state=torch.view_as_complex(x["state"]))
        assert_close(y, out["y_with_state"], 5e-5, "with a state")
        assert_close(torch.view_as_real(state), out["next_state"], 5e-5, "next state")
    if after := case.part("sd_after"):
        C = next(v for n, v in after.items() if n.endswith("kernel.C"))
        length = int(next(v for n, v in after.items() if n.endswith("kernel.L")))
        found, settled = model.space.settled_C(model.space.systems().C, length)
        assert settled == length
        assert_close(torch.view_as_real(found), C, 5e-5, "C of a settled kernel")


@check("diffwave.s4v4_kernel", "diffwave.s4d_kernel_minimal")
@torch.no_grad()
def kernel(case):
    k, want = case.meta["kwargs"], case.outputs["k"]
    space = StateSpace.from_original(case.weights, case.meta.get("disc", k.get("disc", "zoh")), k.get("real_transform", "exp"),
                                     dt_form=k.get("dt_transform", "exp"), imag_form=k.get("imag_transform", "none"))
    found = space.kernel(want.shape[-1])
    assert_close(found if want.ndim == 3 else found[0], want, 5e-5, "kernel")


FREE = "init_conv.0.conv.weight_v"  # one input channel: its direction cannot change, so its true gradient is zero


def denoiser(case):
    s = case.meta["diffusion_for_loss"]
    process = DiffusionProcess(T=s["T"], beta_0=s["beta_0"], beta_T=s["beta_T"])
    return SashimiWave.from_original(case.weights, case.meta["kwargs"]["L"], process)


@check("diffwave.sashimi", "diffwave.sashimi_v1")
def sashimi(case):
    model, i, out = denoiser(case), case.inputs, case.outputs
    x, t, mel = i["x"], i["t"][:, 0], i.get("mel")
    exact = out.get("eps_f64")
    with torch.no_grad():
        held = model.predictor(mel=mel)
        assert_close(held(x, t), out["eps"] if exact is None else exact, 5e-5, "eps, kernels in float64")
        assert_close(model(x, t, None, mel), out["eps"] if exact is None else exact, 5e-5, "eps")
    if "loss" not in out:
        return
    item = model.process.training_item(i["audio"], i["loss_t"][:, 0], i["z"])
    loss = diffusion_loss(model(item.x, item.t, None, mel), item.target, item.weight)
    assert_close(loss.reshape(1), out["loss"].reshape(1), what="loss")
    loss.backward()
    grads = model.to_original({k: p.grad for k, p in model.net.named_parameters()})
    for name, g in case.part("out.grad").items():
        if name != FREE:
            assert_close(grads[name], g, 1e-3, what=f"gradient of {name}")
    for name, v in case.part("sd_after").items():
        assert_close(model.to_original()[name], v, what=f"{name} once settled")


@check("diffwave.sashimi_autoregressive")
@torch.no_grad()
def autoregressive(case):
    trunk, x, out = Sashimi.from_original(case.weights), case.inputs["x"].mT, case.outputs
    c, k = trunk.config, case.meta["kwargs"]
    assert (c.d_model, c.n_layers, list(c.pool), c.expand, c.ff, c.unet) == tuple(
        k[n] for n in ("d_model", "n_layers", "pool", "expand", "ff", "unet"))
    assert_close(trunk(x).mT, out["y"], 5e-5, "all at once")
    for mode in ("dense", "diagonal", "linear"):
        stepper = Stepper(trunk, len(x), mode)
        assert_close(torch.stack([stepper(u) for u in x.unbind(-1)], 1), out["y_step"], 5e-5, f"step by step, {mode}")
