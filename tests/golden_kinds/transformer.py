"""Transformers of SpecVQGAN: logits, attention, greedy texts, windows, orders, picked rows, decayed weights."""
import math
import re
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from foleybook.core.code_maps import filter_logits
from foleybook.core.generator import Conditions
from foleybook.train.transformer import decayed
from foleybook.core.code_texts import code_order
from foleybook.core.text_priors import crop_middle, frame_indices
from foleybook.transformer import CodeGPT, TransformerConfig

from . import assert_close, check

NAMES = {"ColumnMajor": "columns", "Identity": "rows", "AlternateParsing": "there and back", "ZCurve": "z",
         "Subsample": "subsample", "SpiralOut": "spiral out", "SpiralIn": "spiral in", "Random": "random"}


def load(weights, **options):
    "Through a file as the trainer writes it"
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": weights, "epoch": 3, "global_step": 7}, path := Path(folder) / "last.ckpt")
        return CodeGPT.from_original(path, **options)


def asked(inputs, rows_first):
    "Class and features of a case"
    label, x = inputs.get("target"), inputs.get("feature")
    x = None if x is None else x if rows_first else x.mT
    return Conditions(label=None if label is None else label.flatten(), features=x)


@check("specvqgan.gpt_class", "specvqgan.gpt_feats", "specvqgan.gpt_featsclass")
def gpt(case):
    x, out = case.inputs, case.outputs
    heads, tokens = case.config["GPT_config"]["n_head"], x["tokens"]
    model = load({f"transformer.{k}": v for k, v in case.weights.items()}, n_heads=heads, code_shape=(1, tokens.shape[1]))
    codes, cond = tokens[:, None], asked(x, False)
    assert model.prefix.length == case.config["cond_size"] and model.config.n_heads == heads
    with torch.no_grad():
        assert_close(model.head(model.ln_f(model.hidden(codes[:, None], cond))), out["logits"], 5e-5, "logits")
        logits = model(codes, cond)
        assert_close(F.cross_entropy(logits, codes), out["loss"], 5e-5, "loss")
        assert_close(model.attention(codes, cond), out["att_last"], 5e-5, "attention")
    again = CodeGPT.from_original(case.weights, n_heads=heads, code_shape=(1, tokens.shape[1]))  # bare weights
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


@check("specvqgan.sample_cls", "specvqgan.sample_feats")
def sample(case):
    x, out, cfg = case.inputs, case.outputs, case.config
    model = load(case.weights, n_heads=cfg["transformer"]["params"]["GPT_config"]["n_head"])
    (name, size), = cfg["permuter"].items()
    assert model.config.order == NAMES[name] and model.config.code_shape == (size["H"], size["W"])
    cond, seeds = asked(x if "feats" in cfg["cond"] else {"target": x["target"]}, True), list(range(len(out["z_indices"])))
    to_map = lambda tokens: model.steps.to_map(tokens[..., None])[:, 0]
    to_text = lambda codes: model.steps.to_steps(codes[:, None], 0)[..., 0]
    z = to_map(out["z_indices"])
    with torch.no_grad():
        logits = model(z, cond)
    assert_close(model.steps.to_steps(logits.movedim(1, 0).flatten(0, 1)[:, None], 0)[..., 0],
                 out["logits"].movedim(-1, 0).flatten(0, 1), 5e-5, "logits")
    assert_close(F.cross_entropy(logits, z), out["loss"], 5e-5, "loss")
    greedy = model.sample_codes(cond, seeds, top_k=1)
    for key in ("greedy_tokens", "generate_samples_nopix_tokens"):
        assert torch.equal(to_text(greedy), out[key]), key
    with torch.no_grad():
        found = model(greedy, cond)
    assert_close(model.steps.to_steps(found.movedim(1, 0).flatten(0, 1)[:, None], 0)[..., 0],
                 out["greedy_logits"].movedim(-1, 0).flatten(0, 1), 5e-5, "logits of the greedy text")
    for key, kept in (("greedy_half_tokens", "half_prime_sample"), ("generate_samples_half_tokens", "half_prime_generate")):
        mask = to_map((torch.arange(z[0].numel()) >= cfg[kept])[None])[0]
        assert torch.equal(to_text(model.sample_codes(cond, seeds, top_k=1, init=z, mask=mask)), out[key]), key
    sliding(model, cond, z, cfg, out)
    assert_close(filter_logits(x["topk_logits"], 0.7, 5).softmax(-1), out["topk5_t0.7_probs"], 5e-5, "top 5")


def sliding(model, cond, z, cfg, out):
    "Maps of twice the length, the first clip, from nothing and with the first half of the first map known"
    (h, w), one = model.config.code_shape, cond[:1]
    to_text = lambda codes: codes.flatten(1)[:, code_order((h, 2 * w), model.config.order)]
    whole = model.sample_codes(one, [0], top_k=1, shape=(h, 2 * w))
    assert torch.equal(to_text(whole), out["sliding2x_full_tokens"])
    mask = torch.arange(2 * w)[None] >= cfg["half_prime_generate"] // h
    half = model.sample_codes(one, [0], top_k=1, shape=(h, 2 * w), init=F.pad(z[:1], (0, w)), mask=mask.expand(h, -1))
    assert torch.equal(to_text(half), out["sliding2x_half_tokens"])


@check("specvqgan.permute_resample")
def permute_resample(case):
    seen = set()
    for key, theirs in case.outputs.items():
        name, what = key.rsplit(".", 1)
        if name.startswith(("resample", "centercrop")) or "resample" in key:
            length, n, *repeat = map(int, re.findall(r"\d+", key))
            if "resample" in key:
                ours = frame_indices(length, n, repeat[0] if repeat and repeat[0] > 1 else None)
            else:
                ours = crop_middle(torch.arange(float(length)), n)[[0, -1]]
        else:
            kind, h, w = re.fullmatch(r"(\w+)_(\d+)_(\d+)", name).groups()
            h, w, order = int(h), int(w), NAMES[kind]
            if what.startswith("on_"):
                tokens = case.inputs[re.match(r"on_\d+_tokens", what)[0]]
                index = code_order((h, tokens.shape[1] // h), order)
                ours = tokens[:, index.argsort() if what.endswith("reverse") else index]
            else:
                index = code_order((h, w), order)
                ours = index.argsort() if what == "backward" else index
        assert torch.equal(ours, theirs), key
        seen.add(key)
    assert seen == set(case.outputs) and seen


@check("specvqgan.optim_groups")
def optim_groups(case):
    groups = {bool(g["weight_decay"]): set(g["params"]) for g in case.meta["groups"]}
    names = groups[True] | groups[False]
    layers = 1 + max(int(n.split(".")[1]) for n in names if n.startswith("blocks."))
    kind = "both" if "cls_embedder.weight" in names else "features" if "embedder.bias" in names else "class"
    model = CodeGPT(TransformerConfig(condition=kind, n_layers=layers, places="table", near=False, feature_dim=6, width=8, n_heads=2))
    pulled, given = decayed(model), {}
    for name, p in model.named_parameters():
        given[name] = name in pulled
    theirs = {"place.table": ["pos_emb"], "tokens.weight": ["tok_emb.weight"]}
    for part in ("weight", "bias"):
        theirs[f"prefix.features.{part}"] = [f"{'feat_' * (kind == 'both')}embedder.{part}"]
        theirs[f"prefix.label.{part}"] = [f"{'cls_' * (kind == 'both')}embedder.{part}"]
        for i in range(layers):
            theirs[f"blocks.{i}.attn.qkv.{part}"] = [f"blocks.{i}.attn.{k}.{part}" for k in ("query", "key", "value")]
    ours = {True: set(), False: set()}
    for name, decays in given.items():
        ours[decays] |= set(theirs.get(name, [name]))
    assert ours == groups and math.isclose(next(g["weight_decay"] for g in case.meta["groups"] if g["weight_decay"]), 0.01)
