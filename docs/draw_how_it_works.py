"""Draws docs/how-it-works.png from a noisy excerpt of an example and the shipped model.

python docs/draw_how_it_works.py
"""

import pathlib

import matplotlib as mpl
import numpy as np

import confp_jax
from confp_jax.audio.contrast import local_contrast
from confp_jax.audio.decode import decode
from confp_jax.audio.mel import mel_power

ROOT = pathlib.Path(__file__).resolve().parents[1]
RATE_HZ = 16_000
BEGIN_S = 12.0
LENGTH_S = 6.0
SNR_DB = 5.0
BLUE = "#3949ab"
GREY = "#666666"


def noisy_excerpt() -> tuple[np.ndarray, np.ndarray]:
    """Returns a track, and an excerpt of it with rain at 5 dB."""
    track = decode(
        ROOT / "examples/music/tim-beek_the-protagonist.mp3", sample_rate_hz=RATE_HZ
    ).samples
    noise = decode(
        ROOT / "examples/noise/test/rain/esc10__4-160999-A.ogg", sample_rate_hz=RATE_HZ
    ).samples
    first = round(BEGIN_S * RATE_HZ)
    num = round(LENGTH_S * RATE_HZ)
    clean = track[first : first + num]
    noise = np.resize(noise, num)
    gain = clean.std() / noise.std() * 10 ** (-SNR_DB / 20)
    return track, clean + gain * noise


def main() -> None:
    """Draws four panels and the answer."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    encoder = confp_jax.load_encoder("edge2")
    projection = encoder.config.encoder.projection
    track, excerpt = noisy_excerpt()
    query = encoder.embed(excerpt, sample_rate_hz=RATE_HZ)
    stored = np.sign(encoder.embed(track, sample_rate_hz=RATE_HZ))
    power = mel_power(excerpt, projection.mel, sample_rate_hz=RATE_HZ)
    contrast = local_contrast(power, projection.mel, projection.contrast)
    similar = stored @ query.T / np.sqrt(stored.shape[1])
    row = int(np.argmax([np.trace(similar, -i) for i in range(len(stored) - len(query))]))

    plt.rcParams.update({"font.size": 9, "axes.edgecolor": GREY, "axes.titlesize": 9.5})
    figure, axes = plt.subplots(1, 5, figsize=(12.4, 2.7), width_ratios=[1, 1, 1, 1.25, 1.0])
    axes[0].plot(np.arange(len(excerpt)) / RATE_HZ, excerpt, lw=0.3, color=BLUE)
    axes[0].set(title=f"1  a noisy excerpt ({SNR_DB:g} dB)", xlabel="s", yticks=[])
    image = {"aspect": "auto", "origin": "lower", "cmap": "Blues"}
    axes[1].imshow(contrast.T, extent=(0, 6, 0, 128), vmax=5, **image)
    axes[1].set(title="2  features: local contrast", xlabel="s", yticks=[])
    axes[2].imshow(query[:, :96].T > 0, extent=(0, 6, 0, 96), alpha=0.85, **image)
    axes[2].set(title="3  fingerprints of 640 signs", xlabel="s", yticks=[])
    axes[3].imshow(similar, extent=(0, 6, 0, 30), **image)
    axes[3].annotate(
        "a line through\nthe track", (3, BEGIN_S + 3), (0.5, 22.5), color=BLUE,
        arrowprops={"arrowstyle": "->", "color": BLUE},
    )  # fmt: skip
    axes[3].set(
        title="4  similar places of a track", xlabel="s of the excerpt", ylabel="s of the track"
    )
    axes[4].axis("off")
    axes[4].set_title("5  the answer", loc="left")
    answer = f"match\n\ntim-beek_the-protagonist\nat 0:{0.3 * row:04.1f}\n\nor: unknown"
    axes[4].text(0, 0.5, answer, va="center", fontsize=11, color=BLUE, family="monospace")
    figure.tight_layout()
    figure.savefig(ROOT / "docs/how-it-works.png", dpi=110)


if __name__ == "__main__":
    main()
