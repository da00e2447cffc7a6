"Draw docs/images/sounds.jpg, the picture of the front page: eight sounds that `foley` made, as log-mel spectrograms"
from pathlib import Path

import matplotlib.pyplot as plt

import foleybook as fb
from foleybook.audio_features import MelConfig, log_mel

KINDS = ["rain", "dog_bark", "clock_tick", "rooster", "footsteps", "siren", "church_bells", "crickets"]
DECIBELS = 65  # drawn below the loudest point of each picture


def draw(path, seconds=4.0, seed=0):
    "Write the picture; the same seed gives the same picture on one machine"
    mel, made = MelConfig(), fb.load("foley").sample(KINDS, seconds=seconds, seed=seed, progress=False)
    fig, axes = plt.subplots(2, 4, figsize=(10, 3.6), layout="constrained")
    for ax, kind, sound in zip(axes.flat, KINDS, made.audio):
        picture = log_mel(sound, mel)[0] * (20 / 2.302585)
        top = float(picture.max())
        ax.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=top - DECIBELS, vmax=top, interpolation="nearest")
        ax.set_title(kind.replace("_", " "), fontsize=9)
        ax.set_axis_off()
    path.parent.mkdir(exist_ok=True)
    fig.savefig(path, dpi=120, pil_kwargs=dict(quality=85))


if __name__ == "__main__":
    draw(Path(__file__).resolve().parent / "images" / "sounds.jpg")
