"Distances and scores of generated clips"
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from foleybook.judge import challenge_scores, mel_classifiers
from foleybook import evaluation as ev
from foleybook.judge import challenge_scores as scores

from . import assert_close, check


@check("foley.frechet")
def frechet(case):
    x, y, out = case.inputs["e1"], case.inputs["e2"], case.outputs
    a = ev.gaussian(x)
    assert_close(a.mu, out["mu1"], what="mean")
    assert_close(a.sigma, out["sigma1"], what="covariance")
    scale = float(out["fad"])
    assert_close(ev.frechet_distance(x, y), float(out["fad"]), what="distance")
    assert_close(ev.frechet_distance(y, x), float(out["fad_swapped"]), what="swapped")
    assert abs(ev.frechet_distance(x, x) - float(out["fad_self"])) <= 1e-8 * scale
    assert_close(ev.frechet_distance(a._replace(root=None), ev.gaussian(y)), float(out["fad"]), what="from statistics")


@check("foley.gt_embedding_facts")
def gt_embedding_facts(case):
    root = Path(os.environ.get("FOLEYBOOK_DATA", "data")) / "dcase2023_gt"
    names = list(case.meta["classes"])
    if not all((root / name / "gt_embedding.pkl").exists() for name in names):
        pytest.skip(f"the challenge's reference files are not below {root}")
    stats = {name: challenge_scores.read_gt_embedding(root / name / "gt_embedding.pkl") for name in names}
    for name, facts in case.meta["classes"].items():
        assert (stats[name].count, len(stats[name].mu)) == (facts["count"], facts["length"])
        assert_close(stats[name].mu[: len(facts["mu_first8"])], facts["mu_first8"], what=f"{name} mean")
        assert_close(stats[name].sigma.trace(), facts["trace_sigma"], what=f"{name} covariance")
    for pair, distance in case.meta["pairwise"].items():
        a, b = pair.split("|")
        assert_close(ev.frechet_distance(stats[a], stats[b]), distance, what=pair)


@check("specvqgan.metrics")
def specvqgan_metrics(case):
    ours, out, meta, x = {}, case.outputs, case.meta, case.inputs
    ours["frechet_inception_distance"] = ev.frechet_distance(x["feat_fake"], x["feat_real"])
    kid, isc = meta["kid"], meta["isc"]
    ours["kernel_inception_distance_mean"], ours["kernel_inception_distance_std"] = scores.kernel_inception_distance(
        x["feat_fake"], x["feat_real"], kid["subsets"], kid["subset_size"], kid["degree"], kid["gamma"], kid["coef0"],
        kid["rng_seed"])
    ours["inception_score_mean"], ours["inception_score_std"] = scores.inception_score(
        x["logits_fake"], isc["splits"], isc["shuffle"], isc["rng_seed"])
    for name, labels in (("vggsound", None), ("vas", meta["vas_classes"])):
        at = scores.pair_clips(meta[f"paths_fake_{name}"], meta[f"paths_real_{name}"], lambda p: scores.clip_key(p, labels))
        ours[f"mkl_{name}"] = scores.mean_kl(x["logits_fake"], x["logits_real"][at])
    c = scores.classification(x["logits_real"], x["cls_targets"])
    ours |= {"cls.accuracy_1": c.accuracy, "cls.accuracy_5": c.accuracy_5, "cls.mAP": c.mean_ap,
             "cls.mROCAUC": c.mean_auc, "cls.dprime": c.dprime}
    assert set(ours) == set(out)
    for name, value in ours.items():
        assert_close(value, float(out[name]), what=name)


def filled(shapes, seed):
    "Weights by the fill rule of the published-model cases: normal numbers from the crc32 of each key"
    weights = {}
    for key, shape in shapes.items():
        r = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(1)
            continue
        if key.endswith("running_var"):
            r = 1 + 0.3 * abs(r)
        elif key.endswith(("running_mean", "bias")):
            r = 0.1 * r
        elif len(shape) == 1:
            r = 1 + 0.2 * r
        else:
            r = np.sqrt(2) * r / np.sqrt(np.prod(shape[1:]))
        weights[key] = torch.from_numpy(np.asarray(r)).float()
    return weights


@check("specvqgan.melception")
def melception(case):
    x, out = case.inputs, case.outputs
    empty = mel_classifiers.Melception(mel_classifiers.MelceptionConfig(n_classes=case.meta["num_classes"]))
    weights = filled({k: tuple(v.shape) for k, v in empty.net.state_dict().items()}, case.meta["seed"])
    for key, total in case.meta["weight_check"].items():
        assert_close(weights[key].double().sum(), total, tol=1e-4, what=key)
    stats = torch.stack([x["means"], x["stds"]], 1).numpy()
    model = mel_classifiers.Melception.from_original({"model": weights}, stats)
    assert_close((x["mel01"] - model.mean) / model.std, out["normed"], what="normed")
    with torch.no_grad():
        ours = model.all_features(x["mel01"])
    names = {"64": "f64", "192": "f192", "768": "f768", "2048": "f2048"}
    for name, values in out.items():
        if name != "normed":
            assert_close(getattr(ours, names.get(name, name)), values.flatten(1), what=name)
