"""PixelSNAIL: cached sampling equals the plain way, kept codes stay, half precision holds, errors speak."""
import argparse
import json
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from foleybook.audio_features import GriffinLim, MelConfig
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.core.code_maps import Cascade
from foleybook.core.code_tables import CodeError
from foleybook.core.code_maps import draw_code
from foleybook.core import cached_pixelsnail
from foleybook.core.cached_pixelsnail import CachedPixelSNAIL
from foleybook.pixelsnail import PixelSNAIL, PixelSNAILConfig
from foleybook.published.dcase2023 import PublishedPixelSNAIL, PublishedPixelSNAILConfig
from foleybook.core.files import CheckpointError
from foleybook.core.randomness import ItemNoise
from foleybook.core.settings import config_hash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SMALL = dict(code_shape=(5, 7), n_codes=11, n_classes=3, channels=16, n_blocks=2, n_res_blocks=2, res_channels=12,
             attention_width=16, cond_channels=6)
KINDS = {
    "ours": {},
    "baseline": dict(condition="linear map", cond_width=8, attend_self=False, edge_bias=False),
    "audyn": dict(condition="embedding map", key_order="last", vertical_shift=2, edge_bias=False),
    "residual": dict(code_shape=(3, 4, 5), n_out_res_blocks=1),
    "no attention": dict(attention=False, weight_norm=False),
    "kernel 3": dict(kernel_size=3, n_res_blocks=3, n_codes=10),
    "columns": dict(order="columns"),
    "columns, baseline": dict(order="columns", condition="linear map", cond_width=8),
    "columns, residual": dict(order="columns", code_shape=(3, 4, 5)),
}
PATHS = {"torch": 0, "compiled": 1e9}  # values of COMPILED_MB


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    "Both ways to draw, whatever the size of the network"
    monkeypatch.setattr(cached_pixelsnail, "COMPILED_MB", PATHS[request.param])
    return request.param


def made(settings):
    "A `PixelSNAIL`, or a published one where something is asked for that only those have"
    ours = settings.keys() <= PixelSNAILConfig.__dataclass_fields__.keys()
    return PixelSNAIL(PixelSNAILConfig(**settings)) if ours else PublishedPixelSNAIL(PublishedPixelSNAILConfig(**settings))


def network(seed=0, **changes):
    torch.manual_seed(seed)
    model = made(SMALL | changes).eval()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)  # weights of a fresh network give nearly equal odds
    return model


@torch.no_grad()
def sample_plain(model, cond, seeds, shape=None, init=None, mask=None, **how):
    "The plain way: the whole network again for every code, with the same random draws"
    k, shape = model.config, shape or model.config.map_shape
    shape = shape[::-1] if k.order == "columns" else shape
    single, noise = k.n_quantizers == 1, ItemNoise(seeds)
    init, mask = (None if x is None else model.turned(x) for x in (init, mask))
    codes = torch.zeros(len(seeds), k.n_quantizers, *shape, dtype=torch.long)
    for i in range(shape[0]):
        uniform = noise.rand(shape[1], k.n_quantizers, k.n_codes)
        for j in range(shape[1]):
            for s in range(k.n_quantizers):
                logits = model.turned(model(model.turned(codes[:, 0] if single else codes), cond))
                logits = logits[:, :, i, j] if single else logits[:, :, s, i, j]
                drawn = draw_code(logits, uniform[:, j, s], **how)
                codes[:, s, i, j] = drawn if mask is None else torch.where(mask[..., i, j], drawn, init[..., i, j])
    return model.turned(codes[:, 0] if single else codes)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_full_forward(kind, path):
    model, cond = network(**KINDS[kind]), torch.tensor([1, 2])
    assert model.compiled() == (path == "compiled")
    how = dict(temperature=0.9, top_k=6, top_p=0.95)
    ours = model.sample_codes(cond, [3, 4], **how)
    assert torch.equal(ours, sample_plain(model, cond, [3, 4], **how))
    assert len(ours.unique()) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_item_is_the_same_alone_and_in_a_batch(kind, path):
    model = network(**KINDS[kind])
    batch = model.sample_codes(torch.arange(8) % 3, list(range(20, 28)))
    for k in (0, 3, 7):
        assert torch.equal(model.sample_codes(torch.tensor([k % 3]), [20 + k])[0], batch[k])


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(PATHS)), st.integers(1, 6), st.integers(1, 7), st.sampled_from([3, 5]), st.integers(1, 3), st.integers(0, 99))
def test_any_map_size(path, h, w, kernel_size, batch, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_pixelsnail, "COMPILED_MB", PATHS[path])
        any_map_size(h, w, kernel_size, batch, seed)


def any_map_size(h, w, kernel_size, batch, seed):
    model = network(kernel_size=kernel_size, code_shape=(h, w), n_blocks=1)
    cond, seeds = torch.arange(batch), [seed + k for k in range(batch)]
    codes = model.sample_codes(cond, seeds)
    assert torch.equal(codes, sample_plain(model, cond, seeds))
    other = network(kernel_size=kernel_size, code_shape=(h, w + 1), n_blocks=1)
    assert torch.equal(other.sample_codes(cond, seeds, shape=(h, w)), sample_plain(other, cond, seeds, (h, w)))


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_kept_codes_stay_and_the_rest_is_drawn_given_them(path, order):
    model, cond = network(order=order), torch.tensor([0, 2])
    init = torch.randint(0, 11, (2, 5, 7))
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1:4, 2:5] = True
    codes = model.sample_codes(cond, [1, 2], init=init, mask=mask)
    assert torch.equal(codes[:, ~mask], init[:, ~mask]) and not torch.equal(codes, init)
    assert torch.equal(codes, sample_plain(model, cond, [1, 2], init=init, mask=mask.expand(2, -1, -1)))
    assert torch.equal(model.sample_codes(cond, [1, 2], init=init, mask=mask & False), init)
    assert torch.equal(model.sample_codes(cond, [1, 2], init=init, mask=mask | True), model.sample_codes(cond, [1, 2]))


@pytest.mark.parametrize("kind", KINDS)
def test_no_position_sees_itself_or_what_follows(kind):
    model = network(**KINDS[kind])
    shape = model.config.code_shape
    codes = torch.randint(0, model.config.n_codes, (1, *shape))
    changed = codes.clone()
    changed[..., 2, 3] = (changed[..., 2, 3] + 1) % model.config.n_codes
    with torch.no_grad():
        a, b = model(codes, torch.tensor([1])), model(changed, torch.tensor([1]))
    differ = model.turned((a != b).flatten(1, -3)).any(1).flatten()
    at = 2 * shape[-1] + 3 if model.config.order == "rows" else 3 * shape[-2] + 2
    assert not differ[:at].any() and differ[at + 1 :].any()
    assert differ[at] == (len(shape) == 3)  # later stages of the same position may look at the earlier ones


def test_columns_are_rows_of_the_turned_map():
    by_rows, by_columns = network(), network(code_shape=(7, 5), order="columns")
    codes, cond = torch.randint(0, 11, (2, 7, 5)), torch.tensor([1, 2])
    with torch.no_grad():
        assert torch.equal(by_columns(codes, cond), by_rows(codes.mT.contiguous(), cond).mT)
    drawn = by_columns.sample_codes(cond, [3, 4])
    assert torch.equal(drawn, by_rows.sample_codes(cond, [3, 4]).mT) and drawn.is_contiguous()
    longer = by_columns.sample_codes(cond, [3, 4], shape=(7, 9))
    assert longer.shape == (2, 7, 9) and torch.equal(longer, sample_plain(by_columns, cond, [3, 4], (7, 9)))
    with pytest.raises(ValueError, match="order is 'time'"):
        network(order="time")
    for wrong in (codes[0, 0], codes[None]):
        with pytest.raises(CodeError, match="code map has shape"):
            by_columns(wrong, cond)


def test_classes_between_classes_and_guidance(path):
    model = network(class_dropout=0.1)
    one = model.sample_codes(torch.tensor([1]), [5])
    assert torch.equal(model.sample_codes(torch.tensor([[0.0, 1, 0]]), [5]), one)
    assert torch.equal(model.sample_codes(torch.tensor([1]), [5], guidance=1.0), one)
    none = model.sample_codes(None, [5])
    assert torch.equal(model.sample_codes(torch.tensor([1]), [5], guidance=0.0), none)
    half = torch.tensor([[0.5, 0.5, 0]])
    with torch.no_grad():
        assert not torch.allclose(model(one, half), model(one, torch.tensor([1])))
    with pytest.raises(CodeError, match="class_dropout"):
        network().sample_codes(torch.tensor([1]), [5], guidance=2.0)


@pytest.mark.parametrize("kind", ["ours", "baseline", "audyn", "residual"])
def test_guidance_without_a_class_is_no_guidance(kind, path):
    model = network(**KINDS[kind], class_dropout=0.1)
    assert torch.equal(model.sample_codes(None, [5, 6], guidance=2.0), model.sample_codes(None, [5, 6]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [{}, dict(top_p=0.7), dict(top_k=4), dict(temperature=1.3, top_k=8, top_p=0.9),
                                 dict(guidance=2.0), dict(guidance=0.4, top_p=0.8)])
def test_compiled_equals_torch(kind, how, monkeypatch):
    model, cond, drawn = network(**KINDS[kind], class_dropout=0.1), torch.tensor([0, 1, 2]), []
    init = torch.randint(0, 10, (3, *model.config.code_shape))
    mask = torch.rand(model.config.code_shape) < 0.6
    for megabytes in PATHS.values():
        monkeypatch.setattr(cached_pixelsnail, "COMPILED_MB", megabytes)
        drawn.append([model.sample_codes(cond, [1, 2, 3], **how),
                      model.sample_codes(cond, [1, 2, 3], init=init, mask=mask, **how)])
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    assert torch.equal(drawn[1][1][:, ~mask], init[:, ~mask])


@pytest.mark.parametrize("kind", ["ours", "baseline"])
def test_same_codes_on_two_threads_and_no_setting_is_changed(kind, path):
    model, cond, threads, drawn = network(**KINDS[kind]), torch.arange(5) % 3, torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch, "set_num_threads", lambda n: pytest.fail("changed the number of threads"))
                drawn.append(model.sample_codes(cond, list(range(5))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*drawn)


def test_the_size_decides_what_draws():
    small, published = PixelSNAILConfig(**SMALL), PublishedPixelSNAILConfig(condition="linear map", cond_width=8)
    with torch.device("meta"):
        models = PixelSNAIL(small), PublishedPixelSNAIL(published)
    assert not any(m.compiled() for m in models)  # not on the CPU
    assert network().compiled(16) and not PublishedPixelSNAIL(published).compiled(8)
    assert network().best_batch > 1


def test_compiles_where_nothing_can_be_written(tmp_path):
    code = "import numba.core.caching as c; c.CompileResultCacheImpl._locator_classes = []\n" \
           "from foleybook.kernels.arithmetic import exponential; import numpy as np; assert abs(exponential(np.float32(1)) - np.e) < 1e-6"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_half_precision_learns_as_single_does():
    rows, curves = torch.arange(5)[:, None] + torch.arange(7), {}
    for precision in ("float32", "bf16"):
        torch.manual_seed(1)
        model = PixelSNAIL(PixelSNAILConfig(**SMALL, dropout=0.0, attention_dropout=0.0)).train()
        step, losses = torch.optim.Adam(model.parameters(), 3e-3), []
        for i in range(40):
            cond = torch.randint(3, (8,), generator=torch.Generator().manual_seed(i))
            codes = (rows + cond[:, None, None] + i) % 11
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(model(codes, cond).float(), codes)
            step.zero_grad()
            loss.backward()
            step.step()
            losses.append(loss.item())
        curves[precision] = torch.tensor(losses)
    single, half = curves.values()
    assert single[-1] < 0.6 * single[0]  # it does learn
    assert ((half - single).abs() / single).max() < 0.05 and (half - single).abs().mean() < 0.01 * single.mean()


def test_attention_dropout_follows_the_seed_and_training_only():
    model = network(attention_dropout=0.5).train()
    codes, cond, logits = torch.randint(0, 11, (2, 5, 7)), torch.tensor([1, 2]), []
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        logits.append(model(codes, cond))
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])
    assert torch.equal(model.eval()(codes, cond), model(codes, cond))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_gains_times_100_stay_finite(dtype):
    model = network(**KINDS["audyn"]).train()
    for block in model.blocks:
        for part in (block.attention.query, block.attention.key):
            part.weight_g.data *= 100
    codes = torch.randint(0, 11, (2, 5, 7))
    with torch.autocast("cpu", dtype):
        logits = model(codes, torch.tensor([1, 2]))
        loss = F.cross_entropy(logits, codes)
    loss.backward()
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_weight_norm_is_folded(path):
    model = network()
    plain = network(weight_norm=False)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("weight_g")}
    for name, module in model.named_modules():
        if hasattr(module, "weight_v"):
            state[f"{name}.weight_v"] = module.weight.detach()
    plain.load_state_dict(state)
    assert torch.equal(model.sample_codes(torch.tensor([1]), [5]), plain.sample_codes(torch.tensor([1]), [5]))


def test_cache_can_be_driven_by_hand():
    model, codes = network(), torch.randint(0, 11, (2, 5, 7))
    with torch.no_grad():
        full = model(codes, torch.tensor([0, 1]))
        cache, seen = CachedPixelSNAIL(model, model.class_weights(torch.tensor([0, 1])), (5, 7)), torch.zeros_like(full)
        for i in range(5):
            cache.start_row(i)
            for j in range(7):

                def teacher(logits, stage):
                    seen[:, :, i, j] = logits
                    return codes[:, i, j]

                cache.draw(j, cache.step(j), teacher)
    assert torch.allclose(seen, full, atol=1e-5)


@pytest.mark.parametrize("call, message", [
    (lambda m: m.sample_codes(torch.tensor([3]), [0]), "0 to 2"),
    (lambda m: m.sample_codes(torch.tensor([-1]), [0]), "0 to 2"),
    (lambda m: m.sample_codes(torch.tensor([0, 1]), [0]), "2 classes for 1 maps"),
    (lambda m: m.sample_codes(torch.tensor([[0.5, 0.5]]), [0]), "shares of classes"),
    (lambda m: m(torch.zeros(1, 5, 7).long(), torch.tensor([9])), "class 9"),
    (lambda m: m(torch.full((1, 5, 7), 11), None), "0..10"),
    (lambda m: m(torch.full((1, 5, 7), -1), None), "-1"),
    (lambda m: m(torch.zeros(1, 2, 5, 7).long(), None), "expected \\(batch, rows, columns"),
    (lambda m: m(torch.zeros(1, 5, 7), None), "float32"),
    (lambda m: m.sample_codes(None, [0], init=torch.zeros(1, 4, 7).long(), mask=torch.ones(4, 7)), "\\(5, 7\\)"),
    (lambda m: m.sample_codes(None, [0], mask=torch.ones(5, 7)), "needs init"),
    (lambda m: m.sample_codes(None, [0], shape=(4, 7)), "shape=\\(4, 7\\)"),
])
def test_errors_name_the_value_and_what_is_allowed(call, message):
    with pytest.raises(CodeError, match=message):
        call(network())


def test_map_conditions_know_one_size():
    model = network(**KINDS["baseline"])
    with pytest.raises(CodeError, match="5 x 7"):
        model(torch.zeros(1, 6, 7).long(), torch.tensor([0]))
    with torch.no_grad():
        assert model(torch.zeros(1, 2, 7).long(), torch.tensor([0])).shape == (1, 11, 2, 7)


@pytest.mark.parametrize("changes, message", [
    (dict(code_shape=(5,)), "code_shape"), (dict(kernel_size=4), "kernel_size"), (dict(n_heads=3), "n_heads"),
    (dict(condition="none"), "condition"), (dict(key_order="x"), "key_order"),
])
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        made(SMALL | changes)


def test_saved_and_loaded(tmp_path):
    model = network()
    model.save_pretrained(tmp_path / "prior")
    again = PixelSNAIL.from_pretrained(tmp_path / "prior")
    assert again.config == model.config
    assert torch.equal(again.sample_codes(torch.tensor([1]), [5]), model.sample_codes(torch.tensor([1]), [5]))


@pytest.mark.parametrize("kind", ["ours", "baseline", "audyn", "columns, baseline"])
def test_folders_that_name_published_options(tmp_path, kind):
    "Earlier versions kept these options in every `PixelSNAIL`, the shipped cascade's prior among them"
    model, file = network(**KINDS[kind]), tmp_path / "config.json"
    model.save_pretrained(tmp_path)
    about = json.loads(file.read_text())
    options = dict(condition="place", cond_width=2048, attend_self=True, key_order="first", vertical_shift=1, edge_bias=True)
    about |= dict(model="PixelSNAIL", module="foleybook.pixelsnail", config=options | about["config"])
    file.write_text(json.dumps(about | dict(config_hash=config_hash(["PixelSNAIL", about["config"]]))))
    again = PixelSNAIL.from_pretrained(tmp_path)
    assert type(again) is type(model) and again.config == model.config
    codes, cond = torch.randint(0, 11, (2, 5, 7)), torch.tensor([1, 2])
    with torch.no_grad():
        assert torch.equal(again(codes, cond), model(codes, cond))
    assert torch.equal(again.sample_codes(cond, [5, 6]), model.sample_codes(cond, [5, 6]))
    about["config"]["key_order"] = "middle"
    file.write_text(json.dumps(about | dict(config_hash=config_hash(["PixelSNAIL", about["config"]]))))
    with pytest.raises(CheckpointError, match="key_order is 'middle'"):
        PixelSNAIL.from_pretrained(tmp_path)


def test_the_teaching_config_has_no_published_options():
    named = set(PublishedPixelSNAILConfig.__dataclass_fields__) - set(PixelSNAILConfig.__dataclass_fields__)
    assert named == {"condition", "cond_width", "attend_self", "key_order", "vertical_shift", "edge_bias"}
    plain = PublishedPixelSNAIL(PublishedPixelSNAILConfig(**SMALL)).eval()
    plain.load_state_dict((ours := network()).state_dict())  # as it stands, it is the same network
    codes = torch.randint(0, 11, (2, 5, 7))
    with torch.no_grad():
        assert torch.equal(plain(codes, torch.tensor([1, 2])), ours(codes, torch.tensor([1, 2])))


def test_audyn_post_blocks_load():
    "Keys as Audyn's `PostNet` writes them: residual blocks of single taps before the last convolution"
    model = network(**KINDS["audyn"], n_out_res_blocks=2)
    ours_to_theirs = [(r"^(vertical|horizontal)\.", r"\1_conv2d."), (r"^blocks\.(\d+)\.resblocks\.", r"backbone.\1.backbone."),
                      (r"^blocks\.", "backbone."), (r"^out_resblocks\.", "post_net.backbone."), (r"^out\.", "post_net.conv2d."),
                      (r"attention\.(query|key|value)\.", lambda m: f"mha2d.{m[1][0]}_proj."), ("query_resblock", "q_proj"),
                      ("key_resblock", "k_proj"), ("out_resblock", "out_proj"), ("aux_conv", "aux_conv2d"),
                      (r"resblocks\.(\d+)\.condition", r"\1.condition"), (r"\.condition\.", ".conditional_conv2d."),
                      (r"^condition\.", "conditionor."), (r"\.conv(\d)", r".conv2d_\1"),
                      ("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1")]
    sd = {"background": torch.zeros(2, *model.config.map_shape)}
    for key, value in model.state_dict().items():
        for old, new in ours_to_theirs:
            key = re.sub(old, new, key)
        if value.ndim == 3 and key.startswith(("vertical", "horizontal")):
            value = value.unflatten(2, (2, -1)) if value.shape[2] > 1 else value[..., None]
        elif value.ndim == 3 and value.shape[2] == 1 and "mha2d" in key:
            value = value[..., 0]
        elif value.ndim == 3 and value.shape[2] == 1:
            value = value[..., None]
        sd[key] = value
    assert "post_net.backbone.1.conv2d_2.parametrizations.weight.original1" in sd
    again = PixelSNAIL.from_original({"model": sd}, n_heads=8)
    assert again.config.n_out_res_blocks == 2
    codes = torch.randint(0, 11, (2, 5, 7))
    with torch.no_grad():
        assert torch.equal(again(codes, torch.tensor([1, 2])), model(codes, torch.tensor([1, 2])))


def test_foreign_files_are_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no PixelSNAIL"):
        PixelSNAIL.from_original(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="b.pt"):
        PixelSNAIL.from_original(tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        PixelSNAIL.from_original(tmp_path / "c.pt")
    torch.save({"model": {}, "args": print}, tmp_path / "d.pt")  # a pickled function: never called
    with pytest.raises(CheckpointError, match="d.pt"):
        PixelSNAIL.from_original(tmp_path / "d.pt")


def cascade(hash_of=None):
    torch.manual_seed(0)
    mel = MelConfig.preset("dcase2023")
    book = VQVAE(VQVAEConfig(mel=mel, freq_strides=(4, 2), time_strides=(4, 2), kernels=(8,), width=8, res_width=4, n_codes=11,
                             dim=4)).eval()
    prior = network(code_shape=book.code_shape(64), class_dropout=0.1, codebook_hash=hash_of or book.codebook_hash)
    return Cascade(prior, book, GriffinLim(mel, 4), labels=["a", "b", "c"])


def test_cascade_makes_sound_of_any_length_and_keeps_what_is_kept():
    model = cascade()
    sound = model.sample("b", n=2, seed=4, guidance=1.5, top_p=0.9, progress=False)
    assert torch.equal(model.sample("b", seed=5, guidance=1.5, top_p=0.9, progress=False).audio[0], sound.audio[1])
    longer = model.sample("b", seconds=1.5, seed=4, progress=False)
    assert longer.audio.shape[-1] == round(1.5 * longer.sample_rate) > sound.audio.shape[-1]
    again = model.sample("c", seed=9, init=sound, mask=(0.3, 0.5), n=2, progress=False)
    assert again.audio.shape == sound.audio.shape
    with pytest.raises(ValueError, match="d"):
        model.sample("d")


def test_cascade_remembers_how_it_is_best_drawn(tmp_path):
    model = cascade()
    told = model.sample("b", seed=4, guidance=1.5, top_p=0.9, progress=False).audio
    usual = Cascade(model.prior, model.codebook, model.vocoder, model.labels, top_p=0.9, guidance=1.5)
    usual = Cascade.from_pretrained(usual.save_pretrained(tmp_path / "cascade")).with_vocoder(model.vocoder)
    assert torch.equal(usual.sample("b", seed=4, progress=False).audio, told)
    otherwise = usual.sample("b", seed=4, guidance=1.0, top_p=1.0, progress=False).audio
    assert torch.equal(otherwise, model.sample("b", seed=4, progress=False).audio) and not torch.equal(otherwise, told)


def test_prior_of_another_codebook_is_refused():
    with pytest.raises(CodeError, match="0123456789ab"):
        cascade(hash_of="0123456789ab")
