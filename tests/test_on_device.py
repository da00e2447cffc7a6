"""Steps for a device that is not the host: static caches equal growing ones, no step asks the host, noise is the same in any batch, compiled steps are exact.

No GPU is needed for most: tensors on `meta` have no numbers, so a step that would ask the host fails there, and a backend of `torch.compile` that only traces shows
what a compiling one would be given. What is marked `cuda` runs the same on the first GPU.
"""
import shutil

import pytest
import test_pixelsnail
import test_transformer
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foleybook.audio_features import MelConfig
from foleybook.core import on_device
from foleybook.core.cached_pixelsnail import CachedPixelSNAIL, StaticPixelSNAIL
from foleybook.core.cached_transformer import CachedGPT, CHUNK, StaticGPT
from foleybook.core.generator import Conditions, Generator
from foleybook.core.randomness import ItemNoise
from foleybook.core.painting import LatentDiffusion, LatentDiffusionConfig
from foleybook.core.unet import UNet, UNetConfig
from foleybook.published.audio_diffusion import MelImageConfig, MelImageDiffusion, MelImageDiffusionConfig
from foleybook.spectrogram_diffusion import FlowConfig, FlowTransformer, MelVAE, MelVAEConfig

WAYS = {"plain": {}, "sharp": dict(temperature=0.8, top_k=4, top_p=0.9), "guided": dict(guidance=2.0, top_k=5)}
DEVICES = ["cpu", "meta", pytest.param("cuda", marks=pytest.mark.cuda)]


class Unasked(TorchDispatchMode):
    "Inside, nothing is asked of a device and nothing comes from the host, nor is anything copied between two devices"
    def __init__(self, device):
        super().__init__()
        self.device, self.calls = torch.device(device), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, self.calls = func.overloadpacket.__name__, self.calls + 1
        assert name not in ("_local_scalar_dense", "nonzero", "lift_fresh", "lift_fresh_copy", "is_nonzero", "equal", "masked_select", "_unique2"), name
        made = func(*args, **(kwargs or {}))
        flat = torch.utils._pytree.tree_leaves((args, kwargs, made))
        away = [x for x in flat if torch.is_tensor(x) and x.device.type != self.device.type]
        assert not away, f"{name} meets a tensor on {away[0].device}, {tuple(away[0].shape)}"
        return made


def test_the_mode_sees_what_asks():
    for ask in (lambda x: x.sum().item(), lambda x: float(x[0]), lambda x: x.nonzero(), lambda x: x + torch.tensor([1.0, 2.0])):
        with pytest.raises(AssertionError), Unasked("cpu"):
            ask(torch.ones(2))
    with pytest.raises(AssertionError), Unasked("meta"):
        torch.ones(2).to("meta")


@pytest.fixture
def static(monkeypatch):
    "Every prior draws by its static cache, on a CPU too, uncompiled"
    monkeypatch.setattr(on_device, "compiled_by", lambda f, backend="eager": f)
    return lambda model: model.set_compile("eager")


# ---- static caches ----


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("kind", test_transformer.KINDS)
def test_a_static_cache_of_a_transformer_gives_the_same_vectors(kind, batch):
    model, t = test_transformer.network(kind), 4
    s = model.steps
    x = torch.randint(model.config.n_codes, (batch, len(s.first), s.streams))
    prefix = model.prefix(test_transformer.asked(batch), batch)
    growing, still = CachedGPT(model, prefix, x), StaticGPT(model, prefix, x)
    assert (growing.start(t) - still.start(t)).abs().max() < 1e-6
    for t in range(t, len(s.first) - 1):
        a, b = growing.step(t), still.step(torch.tensor([t]))
        assert (model.head(model.ln_f(a)) - model.head(model.ln_f(b))).abs().max() < 1e-6 * max(1, model.head(a).abs().max())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["class", "published", "slope", "flat", "both"])
def test_static_and_growing_caches_of_a_transformer_draw_the_same_codes(kind, way, static, monkeypatch):
    monkeypatch.setattr(test_transformer.transformer, "COMPILED_ROWS_MB", 0)
    model, how = test_transformer.network(kind, slide="half", class_dropout=0.1), dict(WAYS[way])
    n, (h, w) = 3, model.map_shape
    cond, init = test_transformer.asked(n), torch.randint(7, (n, *model.config.code_shape))
    mask = torch.rand(init.shape) < 0.6
    ask = [{}, dict(init=init, mask=mask), dict(shape=(h, 2 * w + 1))]
    wanted = [model.sample_codes(cond, [3, 4, 5], **how, **more) for more in ask]
    static(model)
    found = [model.sample_codes(cond, [3, 4, 5], **how, **more) for more in ask]
    assert all(map(torch.equal, found, wanted)) and "_static" not in model.__dict__


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", test_pixelsnail.KINDS)
def test_static_and_growing_caches_of_pixelsnail_draw_the_same_codes(kind, way, static, monkeypatch):
    monkeypatch.setattr(test_pixelsnail.cached_pixelsnail, "COMPILED_MB", 0)
    model, how = test_pixelsnail.network(**{"class_dropout": 0.1} | test_pixelsnail.KINDS[kind]), dict(WAYS[way])
    cond, init = torch.tensor([0, 1, 2]), torch.randint(7, (3, *model.config.code_shape))
    mask = torch.rand(init.shape[-2:]) < 0.6
    ask = [{}, dict(init=init, mask=mask)]
    wanted = [model.sample_codes(cond, [3, 4, 5], **how, **more) for more in ask]
    static(model)
    assert model.cache_kind(3) is StaticPixelSNAIL
    assert all(map(torch.equal, [model.sample_codes(cond, [3, 4, 5], **how, **more) for more in ask], wanted))


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("kind", test_pixelsnail.KINDS)
def test_a_static_cache_of_pixelsnail_gives_the_same_logits(kind, batch):
    model = test_pixelsnail.network(**test_pixelsnail.KINDS[kind])
    k, (h, w) = model.config, model.config.grid
    weights, codes = model.class_weights(torch.arange(batch) % 3), torch.randint(k.n_codes, (batch, k.n_quantizers, h, w))
    seen = {}
    for kind in (CachedPixelSNAIL, StaticPixelSNAIL):
        cache, seen[kind] = kind(model, weights, (h, w)), []
        for i in range(h):
            cache.start_row(i)
            for j in range(w):
                at = torch.tensor([j]) if kind is StaticPixelSNAIL else j
                cache.draw(at, cache.step(at), lambda logits, s: seen[kind].append(logits) or codes[:, s, i, j])  # noqa: B023
    a, b = (torch.stack(v) for v in seen.values())
    assert (a - b).abs().max() < 1e-6 * max(1, a.abs().max())


# ---- no question to the host ----


@torch.inference_mode()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["class", "published", "slope", "flat"])
def test_no_step_of_a_transformer_asks_the_host(kind, device, way):
    model = test_transformer.network(kind).to(device)
    s, n, rows = model.steps, 2, 2 + 2 * ("guidance" in WAYS[way])
    prefix = torch.zeros(rows, model.prefix.length, model.config.width, device=device)
    x = torch.zeros(n, len(s.first), s.streams, dtype=torch.long, device=device)
    cache, noise = StaticGPT(model, prefix, x.repeat(rows // n, 1, 1)), ItemNoise([1, 2], device, counted=True)
    h, still = cache.start(0), torch.zeros_like(x) > 0
    with Unasked(device) as seen:
        for t in range(0, x.shape[1], 4):
            uniform = noise.rand(CHUNK, s.streams, model.config.n_codes)
            h = cache.draw(h, t, min(t + 4, x.shape[1]), uniform, x, still, **WAYS[way])
    assert seen.calls > 50 * x.shape[1] and (device == "meta" or x.unique().numel() > 2)


@torch.inference_mode()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", test_pixelsnail.KINDS)
def test_no_position_of_pixelsnail_asks_the_host(kind, device, way):
    model = test_pixelsnail.network(**test_pixelsnail.KINDS[kind]).to(device)
    k, (h, w), n = model.config, model.config.grid, 2
    shares = torch.eye(3, device=device)[:n]
    if "guidance" in WAYS[way]: shares = torch.cat([shares, torch.zeros_like(shares)])
    cache, noise = StaticPixelSNAIL(model, shares, (h, w)), ItemNoise([1, 2], device, counted=True)
    codes = torch.zeros(n, k.n_quantizers, h, w, dtype=torch.long, device=device)
    still = torch.zeros_like(codes) > 0
    for i in range(2):
        cache.start_row(i)
        with Unasked(device) as seen:
            cache.draw_row(w, noise.rand(w, k.n_quantizers, k.n_codes), codes, still, **WAYS[way])
        assert seen.calls > 50 * w
    assert device == "meta" or codes.unique().numel() > 2


@pytest.fixture
def painter():
    torch.manual_seed(0)
    vae = MelVAE(MelVAEConfig(channels=8, width=16, hidden=16, depth=1)).fit(torch.randn(6, 128, 64).cumsum(-1) * 0.1 - 5)
    backbone = FlowTransformer(FlowConfig(channels=8, width=16, heads=2, depth=2, columns=12, n_classes=2, level=vae.time_stride,
                                          latents=vae.latents_hash))
    for p in backbone.parameters(): p.data += 0.1 * torch.randn_like(p)
    return LatentDiffusion(LatentDiffusionConfig(("rain", "dog"), seconds=0.5, steps=3, griffin_lim=2), vae, backbone).eval()


@pytest.fixture
def picture():
    torch.manual_seed(0)
    config, image = UNetConfig(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                               up_block_types=("AttnUpBlock2D", "UpBlock2D"), n_classes=2), MelImageConfig(x_res=16, y_res=8)
    config = MelImageDiffusionConfig(image.mel, frames=16, labels=("rain", "dog"))
    net = UNet(UNetConfig(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, n_classes=2,
                          down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")))
    for p in net.parameters(): p.data += 0.05 * torch.randn_like(p)
    return MelImageDiffusion(config, net).eval()


def watched(device, steps):
    "on_step that watches all steps but the first, in which tables are made"
    mode = Unasked(device)
    def on_step(k, n, x):
        assert n == steps
        if k == 1: mode.__enter__()
        if k == n: mode.__exit__(None, None, None)
    return mode, on_step


ASKED = {"plain": {}, "guided": dict(guidance=2.0), "unconditional": dict(guidance=0.0), "ring": dict(guidance=2.0, loop=True), "euler": dict(sampler="euler"),
         "heun": dict(sampler="heun"), "eta": dict(sampler="ddpm")}


@pytest.mark.parametrize("columns", [10, 30])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ASKED)
def test_no_step_of_the_flow_asks_the_host(painter, how, device, columns):
    cond, painter = Conditions(label=[0, 1], controls=dict(level=torch.full((2, columns * painter.vae.time_stride), -20.0))), painter.to(device)
    mode, told = watched(device, 6)
    made = painter.sample_latents(cond, [1, 2], columns, steps=6, on_step=told, **ASKED[how])
    assert made.device.type == device and mode.calls > 200
    keep, init = torch.arange(columns) < 4, torch.zeros_like(made)
    mode, told = watched(device, 6)
    painter.sample_latents(cond, [1, 2], columns, init, keep, steps=6, on_step=told, **ASKED[how])
    assert mode.calls > 200


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("how", [{}, dict(guidance=2.0), dict(sampler="ddpm"), dict(loop=True), dict(mask=torch.arange(16) > 7)])
def test_no_step_of_the_unet_asks_the_host(picture, how, device):
    picture, init = picture.to(device), torch.full((20, 8, 16), -40.0) if "mask" in how else None
    told = [watched(device, 5) for _ in range(2)]  # twenty pictures: sixteen and four
    steps = iter([f for _, f in told for _ in range(5)])
    cond = Conditions(label=torch.arange(20) % 2).to(device)
    made = picture.sample_mel(cond, 20, list(range(20)), 16, init, steps=5, on_step=lambda *a: next(steps)(*a), **how)
    assert made.shape == (20, 8, 16) and all(mode.calls > 200 for mode, _ in told)


# ---- noise ----


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_counted_noise_is_the_same_in_any_batch(device):
    seeds = [7, 2**40 + 7, -3, 0]
    together, alone = ItemNoise(seeds, device, counted=True), [ItemNoise([s], device, counted=True) for s in seeds]
    for draw in ("randn", "rand", "randn"):
        for shape in ((3, 5), (7,), ()):
            x = getattr(together, draw)(*shape)
            assert x.shape == (4, *shape) and torch.equal(x, torch.cat([getattr(a, draw)(*shape) for a in alone]))
            assert x.view(4, -1).unique(dim=0).shape[0] == 4
    probs = torch.tensor([0.2, 0.0, 0.8], device=device).expand(4, 500, 3)
    drawn = together.choice(probs)
    assert not (drawn == 1).any() and abs((drawn == 2).float().mean() - 0.8) < 0.05


@pytest.mark.cuda
def test_a_gpu_counts_the_numbers_that_a_processor_counts():
    here, there = (ItemNoise([1, 2**63], at, counted=True) for at in ("cpu", "cuda"))
    assert torch.equal(here.rand(1001), there.rand(1001).cpu())
    assert torch.allclose(here.randn(1001), there.randn(1001).cpu(), atol=1e-5)


def test_on_a_processor_noise_is_as_it_always_was():
    noise = ItemNoise([5, 6])
    g = [torch.Generator().manual_seed(s) for s in (5, 6)]
    assert torch.equal(noise.randn(3), torch.stack([torch.randn(3, generator=v) for v in g])) and len(noise) == 2
    assert torch.equal(noise.rand(3), torch.stack([torch.rand(3, generator=v) for v in g]))
    assert ItemNoise([5], "meta").randn(2).device.type == "meta"


def counted(monkeypatch):
    "ItemNoise counts on a CPU too, as it does on a GPU"
    init = ItemNoise.__init__
    monkeypatch.setattr(ItemNoise, "__init__", lambda self, seeds, device="cpu", counted=True: init(self, seeds, device, counted))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_four_sounds_are_four_times_one(painter, picture, static, device, monkeypatch):
    counted(monkeypatch)
    text, snail = (static(t.network(class_dropout=0.1)).to(device) for t in (test_transformer, test_pixelsnail))
    seeds, label = [4, 2**33, 9, 1], torch.tensor([0, 1, 1, 0])
    for model in (text, snail):
        draw = lambda at: model.sample_codes(label[at], seeds[at], guidance=2.0, top_p=0.9)  # noqa: B023, E731
        assert torch.equal(draw(slice(0, 4)), torch.cat([draw(slice(k, k + 1)) for k in range(4)]))
    for model in (painter, picture):
        draw = lambda at: model.to(device).sample(label[at].tolist(), n=len(seeds[at]), seed=seeds[at], steps=3, progress=False).audio  # noqa: B023, E731
        four, ones = draw(slice(0, 4)), torch.cat([draw(slice(k, k + 1)) for k in range(4)])
        assert torch.allclose(four, ones, atol=1e-4) and four.unique(dim=0).shape[0] == 4


def test_items_are_decoded_together_but_on_a_processor(painter, picture, monkeypatch):
    seen, cond = [], Conditions(label=[0, 1, 0])
    hook = lambda net: net.register_forward_hook(lambda m, args, y: seen.append(len(args[0])))  # noqa: E731
    hook(painter.vae.leave), hook(picture.unet)
    draw = [lambda m=m: m.sample_mel(cond, 3, [1, 2, 3], 16, steps=2) for m in (painter, picture)]
    wanted = [f() for f in draw]
    assert set(seen) == {1}
    seen.clear()
    monkeypatch.setattr(on_device, "at_once", lambda device: 2)
    monkeypatch.setattr("foleybook.published.audio_diffusion.at_once", lambda device: 2)
    for f, x, near in zip(draw, wanted, (1e-4, 0.05)): assert torch.allclose(f(), x, atol=near)  # dB; a picture begins at 1 / 150 of the signal
    assert seen.count(2) == seen.count(1) == 3


# ---- compiled ----


def families(painter, picture):
    "(model, what it draws) of the four whose step can be compiled"
    text, snail = test_transformer.network(class_dropout=0.1), test_pixelsnail.network(class_dropout=0.1)
    cond = Conditions(label=[0, 1])
    return {"text": (text, lambda: text.sample_codes(cond, [1, 2], guidance=2.0, top_k=5)),
            "snail": (snail, lambda: snail.sample_codes(cond, [1, 2], guidance=2.0, top_p=0.9)),
            "painter": (painter, lambda: painter.sample_latents(cond, [1, 2], 30, guidance=2.0, steps=6)),
            "picture": (picture, lambda: picture.sample_mel(cond, 2, [1, 2], 16, steps=3))}


def check_compiled(model, draw, backend, near):
    "The same with and without; and without again, where it was taken back"
    plain = draw()
    model.set_compile(backend)
    for _ in range(2):  # recorded, replayed
        found = draw()
        assert torch.equal(found, plain) if plain.dtype == torch.long else torch.allclose(found, plain, atol=near)
    assert torch.equal(model.set_compile(None) and draw(), plain)


@pytest.mark.parametrize("family", ["text", "snail", "painter", "picture"])
def test_compiled_steps_are_exact(family, painter, picture):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    check_compiled(*families(painter, picture)[family], "aot_eager", 1e-5 if family == "painter" else 0.05)
    assert counters["stats"]["unique_graphs"] >= 1 and not counters["graph_break"], counters["graph_break"]


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
@pytest.mark.parametrize("family", ["text", "painter"])
def test_steps_compiled_by_inductor_are_near(family, painter, picture):
    check_compiled(*families(painter, picture)[family], "inductor", 1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("family", ["text", "snail", "painter", "picture"])
def test_steps_compiled_on_a_gpu_are_near(family, painter, picture):
    model, draw = families(painter, picture)[family]
    check_compiled(model.to("cuda"), draw, "inductor", 0.05)
    assert draw().device.type == "cuda"


@pytest.mark.parametrize("which", ["text", "snail"])
def test_what_a_step_writes_stays_in_its_place(which):
    "A recorded graph may only write where it knows the address: into what torch calls static inputs"
    from torch._dynamo.backends.common import aot_autograd

    seen = []
    def look(graph, inputs):
        about = torch._guards.TracingContext.get().fw_metadata
        seen.append((set(about.mutated_inp_runtime_indices), set(about.static_input_indices), len(inputs)))
        return graph
    torch._dynamo.reset()
    model = dict(text=test_transformer, snail=test_pixelsnail)[which].network()
    model.backend = aot_autograd(fw_compiler=look, inference_compiler=look)
    for seed in (1, 2): model.sample_codes(torch.tensor([1]), [seed])
    assert len(seen) == 1, "a second map is compiled anew"
    written, static, n = seen[0]
    assert len(written) > 6 and static == set(range(n))


def test_compile_says_what_it_needs(painter, monkeypatch):
    with pytest.raises(ValueError, match="'fortran' is not known to torch.*aot_eager"): painter.set_compile("fortran")
    monkeypatch.setattr(on_device.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no C\\+\\+ compiler.*Install g"): painter.set_compile()
    with pytest.raises(ValueError, match="no C\\+\\+ compiler"): painter.set_compile("inductor")
    monkeypatch.setattr(on_device, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="Triton is not installed.*cuda"): on_device.check_backend("inductor", "cuda")
    assert painter.backend is None

def test_a_generator_compiles_the_part_that_repeats_a_step():
    class Part(on_device.Compiles, torch.nn.Module):
        device = torch.device("cpu")

    model = Generator()
    with pytest.raises(ValueError, match="Generator repeats no step that torch could compile. Leave it out"): model.set_compile()
    assert model.set_compile(None) is model
    model.part = Part()
    assert model.set_compile("eager").part.backend == "eager" and model.set_compile(None).part.backend is None


def test_batches_for_a_gpu_are_pinned(tmp_path):
    from foleybook.sound_data import make_procedural
    from foleybook.train.loaders import mel_dls

    table = make_procedural(tmp_path, ["pops", "rain"], 4, 0.5)
    for device, pinned in (("cpu", False), ("cuda", True)):
        dls = mel_dls(table, MelConfig.preset("hifigan"), 0.5, bs=2, cache_dir=tmp_path / "cache", device=device)
        assert dls.train.pin_memory == dls.valid.pin_memory == dls.train.new().pin_memory == dls.train.fake_l.pin_memory == pinned
