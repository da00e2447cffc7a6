"""PixelSNAIL of the DCASE 2023 baseline and of Audyn: logits, loss, gradients, sampled codes."""
import argparse
import json
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from foleybook.pixelsnail import PixelSNAIL
from foleybook.published.dcase2023 import published_key
from safetensors.torch import load_file

from . import assert_close, check


def load(weights, n_heads=None, **beside):
    "Through a file as the original projects write it"
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"model": weights, **beside}, path := Path(folder) / "prior.pt")
        return PixelSNAIL.from_original(path, n_heads=n_heads)


def logits_close(ours, theirs, what):
    dist = (ours.double() - theirs.double()).abs().max() / theirs.abs().max()
    assert dist <= 1e-4, f"{what}: {dist:.2e} of the maximum norm"
    assert_close(ours, theirs, 5e-5, what)


@check("foley.pixelsnail")
def pixelsnail(case):
    model = load(case.weights, args=argparse.Namespace(dropout=0.1, batch=8, path="codes"))
    unused = [k for k in case.weights if k.startswith("cond_resnet.")]
    assert sorted(model.card["unused"]) == sorted(unused)
    x, out = case.inputs, case.outputs
    weights = model.class_weights(x["label"])
    with torch.no_grad():
        assert_close(model.condition(weights, model.config.code_shape), out["condition"], 5e-5, "condition")
        logits_close(model(x["codes"], x["label"]), out["logits"], "logits")
        n, sampled = x["gumbel"].shape[1], torch.zeros_like(out["sampled"])
        w = sampled.shape[-1]
        for p in range(n):  # the plain way, one forward a position
            logits = model(sampled[:, : p // w + 1], x["label"])[:, :, p // w, p % w]
            sampled[:, p // w, p % w] = (logits + x["gumbel"][:, p]).argmax(-1)
    assert torch.equal(sampled, out["sampled"])


@check("foley.pixelsnail_loss")
def pixelsnail_loss(case):
    weights = case.weights
    if not weights:  # "same weights as NAME"
        name = case.meta["source"].split("same weights as ")[1].split(";")[0].strip()
        weights = {k[3:]: v for k, v in load_file(case.path.with_name(f"{name}.safetensors")).items() if k.startswith("sd.")}
    model = load(weights, args=argparse.Namespace(dropout=0.0)).train()
    assert model.config.dropout == 0
    x, out = case.inputs, case.outputs
    loss = F.cross_entropy(model(x["codes"], x["label"]), x["codes"])
    loss.backward()
    assert_close(loss, out["loss"], 5e-5, "loss")
    grads = {name: p.grad for name, p in model.named_parameters()}
    for key in (k for k in out if k.startswith("grad.")):
        ours = grads[published_key(key[5:])]
        theirs = out[key].flatten(2) if out[key].ndim > 2 else out[key]
        if ours.ndim == 3 and theirs.ndim == 3:
            theirs = theirs[:, :, : ours.shape[2]]  # weights that the original zeroes at every forward
        assert_close(ours.flatten(), theirs.flatten(), 2e-4, key)


@check("foley.audyn_pixelsnail")
def audyn_pixelsnail(case):
    cfg = case.config
    model = load(case.weights, resolved_config={"model": {"num_heads": cfg["num_heads"], "dropout": cfg["dropout"]}})
    assert model.config.n_heads == cfg["num_heads"] and list(model.config.code_shape) == cfg["input_shape"]
    x, out = case.inputs, case.outputs
    with torch.no_grad():
        logits_close(model(x["codes"], x["category"]), out["logits"], "logits")
        logits_close(model(x["codes"]), out["logits_uncond"], "without a class")
        rows = out["logits_prefix"].shape[2]
        logits_close(model(x["codes"][:, :rows], x["category"]), out["logits_prefix"], "prefix")
    old = {k.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v"): v
           for k, v in case.weights.items()}
    assert_same(model, load(old, n_heads=cfg["num_heads"]))  # files written before torch 2.1


def assert_same(a, b):
    "Equal weights, and equal settings but for the dropout, of which weights alone say nothing"
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    said = [{k: v for k, v in vars(m.config).items() if "dropout" not in k} for m in (a, b)]
    assert json.dumps(said[0]) == json.dumps(said[1])
