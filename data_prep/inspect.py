"""Draws one track of a prepared dataset: clean clip and replicas under each other, what was drawn
for each beside it.

python -m data_prep.inspect prepared/fma --track 123 --out track.png
"""

import argparse
import json
import pathlib
import sys
import textwrap

import matplotlib
import numpy as np
from jaxtyping import Float32

from confp_jax.audio.mel import mel_power
from confp_jax.config import MelConfig
from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.data.records import Clip, DatasetError

matplotlib.use("agg")
from matplotlib import pyplot

_MEL = MelConfig()
_RANGE_DB = 80.0  # below the loudest value of each clip


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m data_prep.inspect", description=__doc__.splitlines()[0]
    )
    parser.add_argument("dataset", type=pathlib.Path)
    parser.add_argument(
        "--track", type=int, help="a track id; the first track of the first split if left out"
    )
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="how much of it, from its beginning"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("track.png"))
    chosen = parser.parse_args(arguments)
    try:
        clips, source = find_track(chosen.dataset, chosen.track)
    except DatasetError as error:
        sys.exit(f"error: {error}")
    name = source.summary.track_names.get(str(clips[0].track_id), "")
    title = f"{source.split}: track {clips[0].track_id}, {name}"
    draw_clips(
        clips,
        chosen.out,
        sample_rate_hz=source.summary.sample_rate_hz,
        seconds=chosen.seconds,
        title=title,
    )
    print(chosen.out)


def find_track(folder: pathlib.Path, track_id: int | None) -> tuple[list[Clip], ClipSource]:
    """Returns all clips of a track, the clean one first, and the split that holds it.

    Raises:
      DatasetError: no dataset, or no such track in it.
    """
    splits = read_splits(folder)
    for split in splits:
        source = ClipSource(folder, split)
        numbers = [i for i in range(len(source)) if track_id in (None, source.row(i).track_id)]
        same = [i for i in numbers if source.row(i).track_id == source.row(numbers[0]).track_id]
        if same:
            return [source[i] for i in same], source
    raise DatasetError(
        f"{folder} has no track {track_id} in {', '.join(splits)}; confp.json lists them"
    )


def draw_clips(
    clips: list[Clip], out: pathlib.Path, *, sample_rate_hz: int, seconds: float, title: str
) -> None:
    """Writes a picture with a row for each clip: its log-mel spectrogram, and its draws as text.

    Time is the original's, so that the same music is at the same place in every row, whatever the
    clips' tempos.

    Args:
      clips: of one track.
      out: the PNG file to write.
      sample_rate_hz: of the clips.
      seconds: how much of the original is drawn, from the clips' beginning.
      title: above the first row.
    """
    figure, axes = pyplot.subplots(
        len(clips), 2, figsize=(14, 2.4 * len(clips) + 0.6), width_ratios=[3, 1], squeeze=False
    )
    for clip, (left, right) in zip(clips, axes, strict=True):
        length = round(seconds / clip.tempo * sample_rate_hz)
        samples = clip.samples[:length].astype(np.float32) / 32768
        _draw_mels(left, samples, clip, sample_rate_hz)
        left.set_xlim(clip.start_s, clip.start_s + seconds)
        _list_draws(right, samples, clip)
    axes[-1, 0].set_xlabel("seconds of the original")
    axes[0, 0].set_title(title, fontsize=10)
    figure.subplots_adjust(
        left=0.06,
        right=0.98,
        top=1 - 0.5 / figure.get_figheight(),
        bottom=0.5 / figure.get_figheight(),
    )
    figure.subplots_adjust(hspace=0.25, wspace=0.04)
    figure.savefig(out, dpi=80)
    pyplot.close(figure)


def _draw_mels(
    axes: matplotlib.axes.Axes,
    samples: Float32[np.ndarray, " n"],
    clip: Clip,
    sample_rate_hz: int,
) -> None:
    power_db = _power_db(samples, sample_rate_hz)
    half_s = _MEL.fft_samples / 2 / sample_rate_hz
    ends_s = np.array([half_s, half_s + len(power_db) * _MEL.hop_samples / sample_rate_hz])
    axes.imshow(
        power_db.T,
        origin="lower",
        aspect="auto",
        vmin=-_RANGE_DB,
        vmax=0,
        extent=(*(ends_s * clip.tempo + clip.start_s), 0, _MEL.num_mels),
    )
    _label_mels(axes, sample_rate_hz)


def _list_draws(axes: matplotlib.axes.Axes, samples: Float32[np.ndarray, " n"], clip: Clip) -> None:
    rms_db = 10 * np.log10(np.mean(np.square(samples)) + 1e-12)
    lines = [
        "clean" if clip.replica == 0 and clip.draws == "[]" else f"replica {clip.replica}",
        f"RMS {rms_db:.1f} dB",
        *(_in_words(draw) for draw in json.loads(clip.draws)),
    ]
    style = {"va": "top", "fontsize": 8, "family": "monospace"}
    axes.text(0, 1, "\n".join(lines), transform=axes.transAxes, **style)
    axes.axis("off")


def _power_db(
    samples: Float32[np.ndarray, " n"], sample_rate_hz: int
) -> Float32[np.ndarray, "T F"]:
    power = mel_power(samples, _MEL, sample_rate_hz=sample_rate_hz)
    return 10 * np.log10(power / max(float(power.max(initial=0.0)), 1e-20) + 1e-12)


def _label_mels(axes: matplotlib.axes.Axes, sample_rate_hz: int) -> None:
    """Frequencies instead of the numbers of mel filters."""
    loudest = [
        np.argmax(_power_db(_tone(hz, sample_rate_hz), sample_rate_hz).mean(axis=0))
        for hz in (250, 1000, 3000, 6000)
    ]
    axes.set_yticks(np.array(loudest) + 0.5, ["250", "1k", "3k", "6k"])
    axes.set_ylabel("Hz")


def _tone(hz: float, sample_rate_hz: int) -> Float32[np.ndarray, " n"]:
    return np.sin(2 * np.pi * hz * np.arange(4 * _MEL.fft_samples) / sample_rate_hz).astype(
        np.float32
    )


def _in_words(draw: dict) -> str:
    def short(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        if isinstance(value, list):
            return f"{len(value)} sounds"
        return str(value).split("/")[-1][:28] if isinstance(value, str) else str(value)

    values = [f"{key} {short(value)}" for key, value in draw.items() if key != "transform"]
    return textwrap.fill(
        f"{draw['transform']}: {', '.join(values)}" if values else draw["transform"],
        52,
        subsequent_indent="    ",
    )


if __name__ == "__main__":
    main()
