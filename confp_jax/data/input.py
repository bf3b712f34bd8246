"""Grain: shards to {anchor, replica} batches, a slice for each process, resumable to the bit.

Nothing here may import JAX: Grain's worker processes import it.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from confp_jax.audio.mel import mel_power
from confp_jax.audio.segments import PairCrop, draw_pair_crops, replica_start_s
from confp_jax.config import TrainConfig
from confp_jax.data.augmentation_draws import NO_NOISE, SEMITONE_STEPS, MixParameters
from confp_jax.data.clips import ClipSource
from confp_jax.data.device_layout import Layout, first_noise_rows
from confp_jax.data.levels import suppressed
from confp_jax.data.mixing import Mixer, colour, resample
from confp_jax.data.records import DatasetError, to_int16
from confp_jax.data.sampling import AlbumDraw, EpochOrder, ShardGroupDraw, tracks_to_train

_NUM_THREADS = 4  # and as many batches read ahead


class PairCutter(grain.transforms.RandomMap):
    """A track number to `crops_per_track` pairs: {"anchor", "replica"}, each [crops, samples]
    int16 or [crops, T, F] float32.

    With a `layout` of the audio in device memory, the same draws give the crops' places instead,
    [crops, 3] int32, and what is
    mixed: "mix", [crops, fields] float32, rows of `MixParameters` in which a noise is a row of
      `first_noise_rows` and a sample in it.

    Raises:
      DatasetError: the clips' order or rate is not what the configuration needs, or it asks for
        sounds that are not there.
    """

    def __init__(self, source: ClipSource, config: TrainConfig, layout: Layout | None = None):
        summary = source.summary
        if summary.sample_rate_hz != config.audio.sample_rate_hz:
            raise DatasetError(
                f"{source.folder} holds audio at {summary.sample_rate_hz} Hz, the model wants "
                f"{config.audio.sample_rate_hz}; prepare it again with "
                f"--config.sample_rate_hz={config.audio.sample_rate_hz}"
            )
        if summary.num_replicas < 1 and not config.data.mix.is_on:
            raise DatasetError(
                f"{source.folder} holds no replicas; prepare it again with "
                "--config.num_replicas=4, or draw distortions while training with "
                "--config.data.mix.noise_p=0.9 and its fellows"
            )
        self._source = source
        self._config = config
        self._layout = layout
        self._mixer = Mixer(
            config.data.mix,
            source.folder,
            sample_rate_hz=config.audio.sample_rate_hz,
            music=source,
        )
        if layout is not None and self._mixer.noise is not None:
            self._noise_rows = first_noise_rows(self._mixer.noise, config.audio.segment_samples)

    def random_map(  # pyrefly: ignore[bad-override]
        self, element: Any, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Grain's hook: the same (element, rng) gives the same pairs."""
        clean, replica = self._draw_clips(int(element), rng)
        played = self._mixer.draw_pitch_and_tempo(rng)
        crops = self._draw_crops(clean, replica, played.tempo, rng)
        mixes = [self._mixer.draw(rng, played, self._config.audio.segment_samples) for _ in crops]
        if self._layout is not None:
            return self._places(self._layout, clean, replica, crops, mixes)
        anchors = [
            self._feature(self._source.crop(clean, *self._span(crop.anchor_start_s, clean)))
            for crop in crops
        ]
        replicas = [
            self._replica(replica, crop.replica_start_s, drawn)
            for crop, drawn in zip(crops, mixes, strict=True)
        ]
        return {"anchor": np.stack(anchors), "replica": np.stack(replicas)}

    def cut_replica(
        self, track: int, anchor_start_s: float, rng: np.random.Generator
    ) -> np.ndarray:
        """Returns the replica of the window at `anchor_start_s` of the clean clip, without a shift,
        as `random_map` gives it.
        """
        _, replica = self._draw_clips(track, rng)
        played = self._mixer.draw_pitch_and_tempo(rng)
        tempo = self._source.row(replica).tempo * played.tempo
        start_s = replica_start_s(
            anchor_start_s, shift_s=0.0, tempo=tempo, segment_s=self._config.audio.segment_s
        )
        drawn = self._mixer.draw(rng, played, self._config.audio.segment_samples)
        return self._replica(replica, max(start_s, 0.0), drawn)

    def _places(
        self,
        layout: Layout,
        clean: int,
        replica: int,
        crops: Sequence[PairCrop],
        mixes: Sequence[MixParameters],
    ) -> dict[str, np.ndarray]:
        """Returns where a device finds what `random_map` would have cut, and what it mixes."""
        anchors = [layout.place(clean, self._span(crop.anchor_start_s, clean)[0]) for crop in crops]
        if not self._config.data.mix.is_on:
            replicas = [
                layout.place(replica, self._span(crop.replica_start_s, replica)[0])
                for crop in crops
            ]
            return {"anchor": np.stack(anchors), "replica": np.stack(replicas)}
        replicas = []
        rows = []
        for crop, drawn in zip(crops, mixes, strict=True):
            first, lead = self._heard_from(crop.replica_start_s, drawn.tempo)
            replicas.append(layout.place(replica, first))
            rows.append(self._on_device(drawn._replace(lead=lead), layout.row_samples))
        places = {
            "anchor": np.stack(anchors),
            "replica": np.stack(replicas),
            "mix": np.array(rows, np.float32),
        }
        if self._config.data.mix.overlay_p:
            places["overlay"] = np.stack(
                [layout.place(drawn.overlay, drawn.overlay_start) for drawn in mixes]
            )
        return places

    def _on_device(self, drawn: MixParameters, row_samples: int) -> MixParameters:
        """Returns the parameters with the places of their noises in rows."""
        for number, start in (("noise", "noise_start"), ("second_noise", "second_start")):
            if getattr(drawn, number) != NO_NOISE:
                row, sample = divmod(getattr(drawn, start), row_samples)
                drawn = drawn._replace(
                    **{number: int(self._noise_rows[getattr(drawn, number)]) + row, start: sample}
                )
        return drawn

    def _draw_clips(self, track: int, rng: np.random.Generator) -> tuple[int, int]:
        """Returns the numbers of a track's clean clip and of one of its replicas. The replica is
        the clean clip if the track has none, and with the probability `clean_p`.
        """
        num_replicas = self._source.summary.num_replicas
        clean = track * (1 + num_replicas)
        drawn = (
            rng.integers(1, 1 + num_replicas)
            if num_replicas and rng.random() >= self._config.data.mix.clean_p
            else 0
        )
        replica = clean + int(drawn)
        of_clean = self._source.row(clean)
        of_replica = self._source.row(replica)
        if of_clean.replica != 0 or of_replica.track_id != of_clean.track_id:
            raise DatasetError(
                f"{self._source.folder}: record {clean} is not the clean clip of its replica"
            )
        return clean, replica

    def _draw_crops(
        self, clean: int, replica: int, tempo: float, rng: np.random.Generator
    ) -> list[PairCrop]:
        """Returns where the pairs lie; the replica's times are those of its audio played at
        `tempo`.
        """
        data = self._config.data
        rate_hz = self._config.audio.sample_rate_hz
        of_clean = self._source.row(clean)
        of_replica = self._source.row(replica)
        try:
            return draw_pair_crops(
                rng,
                num_crops=data.crops_per_track,
                spacing_s=data.crop_spacing_s,
                clean_s=of_clean.num_samples / rate_hz,
                replica_s=of_replica.num_samples / rate_hz / tempo,
                tempo=of_replica.tempo * tempo,
                segment_s=self._config.audio.segment_s,
                shift=(data.shift_alpha, data.shift_beta, data.max_shift_s),
            )
        except ValueError as error:
            name = self._source.summary.track_names.get(str(of_clean.track_id), of_clean.track_id)
            raise DatasetError(
                f"{self._source.folder}: {name}: {error}; prepare it again with a larger "
                "--config.min_clip_s"
            ) from error

    def _span(self, start_s: float, clip: int) -> tuple[int, int]:
        length = self._config.audio.segment_samples
        last = self._source.row(clip).num_samples - length
        start = min(max(round(start_s * self._config.audio.sample_rate_hz), 0), last)
        return start, start + length

    def _heard_from(self, start_s: float, tempo: float) -> tuple[int, int]:
        """Returns the first sample that a replica's window is made of, and how many lie before the
        window once they are played.
        """
        start = round(start_s * tempo * self._config.audio.sample_rate_hz)
        first = max(0, start - round(self._mixer.lead_samples * tempo))
        return first, min(round((start - first) / tempo), self._mixer.lead_samples)

    def _replica(self, clip: int, start_s: float, drawn: MixParameters) -> np.ndarray:
        config = self._config
        length = self._config.audio.segment_samples
        if not config.data.mix.is_on:
            return self._feature(self._source.crop(clip, *self._span(start_s, clip)))
        first, before = self._heard_from(start_s, drawn.tempo)
        last = min(
            self._source.row(clip).num_samples,
            first + math.ceil((before + length) * drawn.tempo) + 2,
        )
        samples = resample(
            self._source.crop(clip, first, last).astype(np.float32) / 32768,
            drawn.tempo,
            before + length,
        )
        samples = np.concatenate([np.zeros(self._mixer.lead_samples - before, np.float32), samples])
        samples = self._mixer.distort(samples, drawn)
        if config.data.mel_on == "device" and not config.data.mix.warps_mel:
            return to_int16(samples)
        pitch = 2 ** (drawn.mel_steps / (12 * SEMITONE_STEPS))
        power = mel_power(
            samples, config.mel, sample_rate_hz=config.audio.sample_rate_hz, pitch=pitch
        )
        if drawn.suppression:
            power = suppressed(np, power, np.float32(drawn.suppression))
        return colour(power, drawn, config.mel)

    def _feature(self, samples: np.ndarray) -> np.ndarray:
        """Returns mel power where the host makes it, else the samples as they are."""
        if self._config.data.mel_on == "device":
            return samples
        rate_hz = self._config.audio.sample_rate_hz
        return mel_power(
            samples.astype(np.float32) / 32768, self._config.mel, sample_rate_hz=rate_hz
        )


def train_batches(
    config: TrainConfig,
    *,
    process: int = 0,
    num_processes: int = 1,
    first_batch: int = 0,
    layout: Layout | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's part of the endless, shuffled stream of batches.

    No track is in an epoch twice. Batch number and seed decide the batch and its draws: where a run
    stands in its data is its step, whatever the number of processes and workers before and after.

    Args:
      config: the split, the batch size, what is cut and mixed.
      process: the number of this process, of `num_processes`.
      num_processes: a batch is divided evenly among them.
      first_batch: the number of the batch that comes first.
      layout: where the clips are in device memory; with it, batches hold places instead of samples.

    Raises:
      DatasetError: no dataset, too few tracks for a batch, no albums where they are needed.
    """
    source = open_split(config, process=process, num_processes=num_processes)
    tracks = tracks_to_train(source, config.data.subset)
    tracks_per_batch = config.data.batch_size // config.data.crops_per_track
    _check_divides(config, source, len(tracks), num_processes)
    dataset = _shuffled(config, source, tracks, tracks_per_batch)
    dataset = dataset.random_map(PairCutter(source, config, layout))[process::num_processes]
    dataset = dataset.batch(tracks_per_batch // num_processes, drop_remainder=True, batch_fn=_join)[
        first_batch:
    ]
    options = grain.ReadOptions(num_threads=_NUM_THREADS, prefetch_buffer_size=_NUM_THREADS)
    iterable = dataset.to_iter_dataset(options)
    if config.data.num_workers:
        workers = grain.MultiprocessingOptions(num_workers=config.data.num_workers)
        iterable = iterable.mp_prefetch(workers, worker_init_fn=_live_as_long_as_the_loop)
    return iter(iterable)


def _check_divides(
    config: TrainConfig, source: ClipSource, num_tracks: int, num_processes: int
) -> None:
    """Raises DatasetError where no batch can be made, or divided over the processes."""
    tracks_per_batch = config.data.batch_size // config.data.crops_per_track
    if num_tracks < tracks_per_batch:
        raise DatasetError(
            f"{source.folder} has {num_tracks} {config.data.split} tracks, a batch needs "
            f"{tracks_per_batch} different ones; use "
            f"--config.data.batch_size={num_tracks * config.data.crops_per_track} or less (in "
            "phases as well), or more music"
        )
    if tracks_per_batch % num_processes:
        raise DatasetError(
            f"{tracks_per_batch} tracks a batch do not divide over {num_processes} processes; set "
            f"data.batch_size to a multiple of {num_processes * config.data.crops_per_track}"
        )


def _shuffled(
    config: TrainConfig, source: ClipSource, tracks: Sequence[int], tracks_per_batch: int
) -> grain.MapDataset:
    """Returns the tracks of all epochs, shuffled within each.

    An epoch has whole batches only, and leaves out other tracks every time: a batch across two
    epochs could hold a track twice.
    """
    whole = len(tracks) // tracks_per_batch * tracks_per_batch
    if config.data.tracks_per_album > 1:
        albums = AlbumDraw.of(source, tracks, config.data.tracks_per_album)
        order = EpochOrder(whole, albums, seed=config.seed)
    elif config.data.num_shares > 1:
        draw = ShardGroupDraw.of(
            source, tracks, num_groups=config.data.num_shares, tracks_per_batch=tracks_per_batch
        )
        order = EpochOrder(draw.num_batches * tracks_per_batch, draw, seed=config.seed)
    else:
        return grain.MapDataset.source(tracks).seed(config.seed).shuffle()[:whole].repeat()
    return grain.MapDataset.source(order).seed(config.seed)


def _live_as_long_as_the_loop(_worker: int, _num_workers: int) -> None:
    """SIGTERM (Slurm, systemd, `timeout`) and Ctrl-C reach workers as well; the step that is to be
    saved still needs their batch.

    The loop ends them itself, by Grain's event. Where it was killed it cannot, and they would wait
    for ever.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def steps_per_epoch(config: TrainConfig, *, process: int = 0, num_processes: int = 1) -> int:
    """Batches in an epoch: every track of the split at most once, all of them if the batch divides
    their number.

    Raises:
      DatasetError: no dataset, or a group of its shards too small for a batch.
    """
    source = open_split(config, process=process, num_processes=num_processes)
    tracks = tracks_to_train(source, config.data.subset)
    tracks_per_batch = config.data.batch_size // config.data.crops_per_track
    if config.data.num_shares > 1:
        draw = ShardGroupDraw.of(
            source, tracks, num_groups=config.data.num_shares, tracks_per_batch=tracks_per_batch
        )
        return draw.num_batches
    return max(1, len(tracks) // tracks_per_batch)


def open_split(config: TrainConfig, *, process: int, num_processes: int) -> ClipSource:
    """Returns the split that is trained on. Only the shards that this process reads
    (`ShardGroupDraw`) need to be on its machine.
    """
    every = math.gcd(config.data.num_shares, num_processes)
    return ClipSource(config.data.dir, config.data.split, part=(process % every, every))


def _join(elements: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """[crops, ...] of every track to one [pairs, ...]."""
    return {name: np.concatenate([element[name] for element in elements]) for name in elements[0]}
