"""Steps of one shape, as a graphics card wants them: against caches that grow, and compiled against call by call. The same code on any device.

On a card `foleybook bench on_device --device cuda` measures it by the clock, with the card's work waited for; on a processor processor time counts, and what
a prior is compared with there is what it draws with otherwise.
"""
import torch
from _measure import clock_of, difference, interleaved, row

from foleybook.core.cached_transformer import CachedGPT, StaticGPT
from foleybook.core.generator import Conditions
from foleybook.core.on_device import check_backend
from foleybook.core.painting import LatentDiffusion, LatentDiffusionConfig
from foleybook.pixelsnail import PixelSNAIL, PixelSNAILConfig
from foleybook.published.audio_diffusion import MelImageConfig, MelImageDiffusion, MelImageDiffusionConfig, unet_preset
from foleybook.spectrogram_diffusion import FlowConfig, FlowTransformer, MelVAE, MelVAEConfig, UNet
from foleybook.transformer import CodeGPT, TransformerConfig

PUBLISHED = dict(code_shape=(5, 53), n_codes=1024, n_classes=309, width=1024, n_layers=4, n_heads=16, places="table", near=False, dropout=0.0)
SNAIL = dict(code_shape=(20, 86), n_codes=512, n_classes=10)
FLOW = FlowConfig(n_classes=10)


@torch.inference_mode()
def _growing(settings, batch, steps, device, rounds):
    "Some steps of the transformer's cache as it grows, and with all its places"
    model = CodeGPT(TransformerConfig(**settings)).eval().to(device)
    s, k = model.steps, model.config
    steps = min(steps, len(s.first))
    prefix, uniform = model.prefix(None, batch), torch.rand(batch, steps, s.streams, k.n_codes, device=device)
    x = torch.zeros(batch, len(s.first), s.streams, dtype=torch.long, device=device)

    def draw(kind):
        codes = x.clone()
        cache = kind(model, prefix, codes)
        cache.draw(cache.start(0), 0, steps, uniform, codes, codes > 0)
        return codes

    (ours, plain), (a, b) = interleaved(lambda: draw(StaticGPT), lambda: draw(CachedGPT), rounds=rounds, clock=clock_of(device))
    found = "codes equal, all of them" if torch.equal(a, b) else f"{int((a != b).sum())} of {a.numel()} codes differ"
    return row(f"transformer, {k.n_layers} blocks of {k.width}, {steps} codes, batch {batch}, all places and a mask", ours / batch, "keys that grow",
               plain / batch, "s", found)


def _compiled(name, model, draw, device, rounds, backend):
    "What `set_compile` gains; the first round, which compiles, is not counted"
    def run(chosen):
        model.backend = chosen
        return draw()
    (ours, plain), (a, b) = interleaved(lambda: run(backend), lambda: run(None), rounds=rounds, clock=clock_of(device))
    return row(f"{name}, compiled", ours, "as without compile", plain, "s", difference(a.cpu(), b.cpu()))


def benchmarks(device="cpu", rounds=3, batches=(1, 8), steps=64, published=PUBLISHED, snail=SNAIL, flow=FLOW, vae=MelVAEConfig(), unet=None, columns=4,
               backend="inductor"):
    "Rows, see `_measure.row`; tests take smaller settings"
    torch.manual_seed(0)
    found = [_growing(published, batch, steps, device, rounds) for batch in batches]
    try: check_backend(backend, device)
    except ValueError as why:
        print(why)
        return found
    text, map_ = CodeGPT(TransformerConfig(**published)), PixelSNAIL(PixelSNAILConfig(**snail))
    net, book = FlowTransformer(flow), MelVAE(vae)
    painter = LatentDiffusion(LatentDiffusionConfig(tuple(map(str, range(flow.n_classes)))), book, net)
    image = MelImageConfig(x_res=16, y_res=16) if unet else MelImageConfig(x_res=64, y_res=64)
    picture = MelImageDiffusion(MelImageDiffusionConfig(image.mel, frames=image.x_res), UNet(unet or unet_preset(sample_size=64)))
    for model in (text, map_, painter, picture): model.eval().to(device)
    part = lambda m, n: dict(init=torch.zeros(n, *m.config.code_shape, dtype=torch.long), mask=(torch.arange(m.config.code_shape[-1]) < columns)  # noqa: E731
                             .expand(m.config.code_shape[-2:]))
    for n in batches:
        seeds, cond = list(range(n)), torch.arange(n) % 2
        asked = Conditions(label=cond)
        for name, model, draw in (
                ("transformer", text, lambda: text.sample_codes(cond, seeds, **part(text, n))),  # noqa: B023
                ("PixelSNAIL", map_, lambda: map_.sample_codes(cond, seeds, **part(map_, n))),  # noqa: B023
                ("flow, 12 steps", painter, lambda: painter.sample_latents(asked, seeds, 43)),  # noqa: B023
                ("U-Net, 5 steps", picture, lambda: picture.sample_mel(Conditions(n), n, seeds, image.x_res, steps=5))):  # noqa: B023
            found.append(_compiled(f"{name}, batch {n}", model, draw, device, rounds, backend))
    return found
