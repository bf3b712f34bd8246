"""Test tracks to distorted query sets, in the record format: every condition is a split of the set.

    python -m data_prep.make_queries --config=configs/queries.py \\
        --config.music_dir=fma_large ... --config.out=queries

Truth travels in the record: track id, and where in the original the excerpt begins. Stretched
excerpts are aligned at their centres, reverberated ones at the direct sound
(docs/research/paper.md, "query position").
"""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from confp_jax import command_line
from confp_jax.audio.folders import find_audio
from confp_jax.audio.segments import replica_start_s
from confp_jax.data.records import (
    Clip,
    DatasetSummary,
    to_int16,
    write_dataset_metadata,
)
from confp_jax.data.replay import ReplayConfig
from confp_jax.data.telephone import TelephoneConfig
from confp_jax.typed_config import ConfigError, from_mapping, suggestion
from data_prep.augment import Chain, Distorted, check_sources
from data_prep.config import Band, ChainConfig, Draw, QueryConfig
from data_prep.parts import read_middle
from data_prep.shards import (
    claim_folder,
    explains_a_full_disk,
    plan_shards,
    report_failures,
    write_manifest,
    write_shards,
)
from data_prep.sounds import Sounds, check_sounds, prepare_sounds
from data_prep.sources import (
    check_present,
    credits,
    one_run,
    output_folder,
    read_tracks,
    settings_json,
    sound_part,
)
from data_prep.tracks import ALL_SPLITS, Outcome, SourceError, Track, UnfitError
from data_prep.verify import verify


@dataclasses.dataclass(frozen=True)
class Condition:
    """What is done to the whole clip (rooms and time), what to the excerpt (noise, so that the SNR
    is the excerpt's).
    """

    clip: ChainConfig = ChainConfig()
    excerpt: ChainConfig = ChainConfig()
    shift_s: float = 0.0  # of a start on the index's grid, either way


def _always(value: float) -> Draw:
    return Draw(1.0, value, value)


_STRETCHES = (70, 80, 85, 90, 110, 115, 120, 130)
_PITCHES = {"down_2": -2, "down_1": -1, "up_1": 1, "up_2": 2}
_REVERB = ChainConfig(reverb_p=1.0)
# Held to a loudspeaker; across a room; where others are loud. Levels are of what arrives at the
# microphone.
_STEADY = ReplayConfig(
    ambience_tilt_db=(-6.0, 1.0), swell_p=0.0, gain_p=0.0, clip_p=0.0, suppression_p=0.0
)
_NEAR = dataclasses.replace(
    _STEADY, room_p=0.5, ambience_snr_db=(10.0, 20.0), noise_p=0.3, noise_snr_db=(10.0, 20.0)
)
_FAR = dataclasses.replace(
    _STEADY, room_p=1.0, ambience_snr_db=(0.0, 10.0), noise_p=0.5, noise_snr_db=(3.0, 15.0)
)
_LOUD_PLACE = dataclasses.replace(
    _STEADY, room_p=0.9, ambience_snr_db=(-6.0, 6.0), noise_p=1.0, noise_snr_db=(-6.0, 6.0)
)
_REPLAYS = {"replayed_near": _NEAR, "replayed_far": _FAR, "replayed_loud_place": _LOUD_PLACE}
_LINE_CODECS = ("mulaw", "alaw", "gsm", "g723")
# One thing at a time on an otherwise good line; then a call as it comes.
_LINE = TelephoneConfig(
    codecs=("alaw",),
    second_codec_p=0.0,
    loss_p=0.0,
    noise_p=0.0,
    clipping_p=0.0,
    touch_tone_p=0.0,
    sidetone_p=0.0,
)
_LOSSY = dataclasses.replace(_LINE, loss_p=1.0, loss_share=(0.05, 0.05))
_CALLS = {
    **{f"call_{codec}": dataclasses.replace(_LINE, codecs=(codec,)) for codec in _LINE_CODECS},
    "call_amr_5kbps": dataclasses.replace(_LINE, codecs=("amr",), kbps=(4.75, 4.75)),
    "call_amr_12kbps": dataclasses.replace(_LINE, codecs=("amr",), kbps=(12.2, 12.2)),
    "call_opus_6kbps": dataclasses.replace(_LINE, codecs=("opus",), kbps=(6.0, 6.0)),
    "call_loss_5": dataclasses.replace(_LOSSY, concealed_p=0.0),
    "call_loss_5_concealed": dataclasses.replace(_LOSSY, concealed_p=1.0),
    "call_noise_10db": dataclasses.replace(_LINE, noise_p=1.0, noise_snr_db=(10.0, 10.0)),
    "call_clipped": dataclasses.replace(_LINE, clipping_p=1.0, clipping_db=(12.0, 12.0)),
    "call_keys": dataclasses.replace(_LINE, touch_tone_p=1.0),
    "call_sidetone": dataclasses.replace(_LINE, sidetone_p=1.0, sidetone_db=(-12.0, -12.0)),
    "call": TelephoneConfig(),
}
CONDITIONS: dict[str, Condition] = {
    "clean": Condition(),
    **{
        f"shift_{percent}": Condition(shift_s=0.003 * percent)
        for percent in (5, 10, 15, 20, 30, 40)
    },
    "reverb": Condition(clip=_REVERB),
    **{
        f"background_{db}db": Condition(excerpt=ChainConfig(background=_always(db)))
        for db in (15, 10, 5, 0)
    },
    **{
        f"coloured_{db}db": Condition(excerpt=ChainConfig(coloured=_always(db)))
        for db in (15, 10, 5, 0)
    },
    **{f"varying_{db}db": Condition(excerpt=ChainConfig(varying=_always(db))) for db in (10, 5, 0)},
    "reverb_background_10db": Condition(clip=_REVERB, excerpt=ChainConfig(background=_always(10))),
    "reverb_background_5db": Condition(clip=_REVERB, excerpt=ChainConfig(background=_always(5))),
    **{
        f"stretch_{percent}": Condition(clip=ChainConfig(stretch=_always(percent / 100)))
        for percent in _STRETCHES
    },
    **{
        f"pitch_{name}": Condition(clip=ChainConfig(pitch=_always(semitones)))
        for name, semitones in _PITCHES.items()
    },
    "mp3_32kbps": Condition(clip=ChainConfig(mp3=_always(32))),
    "opus_16kbps": Condition(clip=ChainConfig(opus=_always(16))),
    "aac_32kbps": Condition(clip=ChainConfig(aac=_always(32))),
    "telephone": Condition(clip=ChainConfig(telephone=Band(1.0))),
    **{
        f"overlay_music_{db}db": Condition(excerpt=ChainConfig(overlay=_always(db)))
        for db in (6, 0)
    },
    "speech_over_music_0db": Condition(excerpt=ChainConfig(speech=_always(0))),
    **{
        name: Condition(clip=ChainConfig(replay_p=1.0, replay=replay))
        for name, replay in _REPLAYS.items()
    },
    **{name: Condition(clip=ChainConfig(call_p=1.0, call=call)) for name, call in _CALLS.items()},
}


def main(config: ConfigDict, values: flags.FlagValues) -> int:
    """Makes the query sets that the configuration describes: one, or one in a folder of its own for
    each length and seed.
    """
    chosen = from_mapping(QueryConfig, config)
    for several, name in (("lengths_s", "segment_s"), ("seeds", "seed")):
        if getattr(chosen, several) and name in command_line.overridden(values):
            raise ConfigError(
                f"--config.{name} has no effect: {several}={getattr(chosen, several)} is set"
            )
    statuses = {0}
    sets = query_sets(chosen)
    if len(sets) > 1 and not values.verify:
        Console(stderr=True).print(total_size(sets), highlight=False)
    for one in sets:
        if values.verify:
            verify(pathlib.Path(one.out), Console(stderr=True))
        else:
            statuses.add(make_queries(one, Console(stderr=True)).exit_status)
    return 1 if 1 in statuses else max(statuses)


def total_size(sets: Sequence[QueryConfig]) -> str:
    """Says how much several query sets will hold in all, before the first is written."""
    num_tracks = len(_asked(sets[0]))
    num_bytes = sum(
        num_tracks * _bytes_per_track(one) * len(one.conditions or CONDITIONS) for one in sets
    )
    folders = ", ".join(pathlib.Path(one.out).name for one in sets)
    return (
        f"{num_bytes / 1e9:.1f} GB in {len(sets)} query sets ({folders}); --config.conditions, "
        "lengths_s and seeds make fewer"
    )


def _asked(config: QueryConfig) -> list[Track]:
    tracks = [track for track in read_tracks(config) if config.split in (track.split, ALL_SPLITS)]
    if not tracks:
        raise SourceError(f"{config.music_dir} has no {config.split} tracks")
    return tracks


def _bytes_per_track(config: QueryConfig) -> float:
    return 2 * config.segment_s * config.sample_rate_hz * config.excerpts_per_track


def query_sets(config: QueryConfig) -> list[QueryConfig]:
    """Returns a configuration for each of `lengths_s` and `seeds`, in OUT/3s_seed0 and so on; the
    configuration itself without them.

    Excerpts are spaced so that a shorter one lies inside the longer one of the same number, in the
    same room.
    """
    if not config.lengths_s and not config.seeds:
        return [config]
    output_folder(config.out)
    return [
        dataclasses.replace(
            config,
            segment_s=length_s,
            seed=seed,
            lengths_s=(),
            seeds=(),
            out=f"{config.out}/{length_s:g}s_seed{seed}",
        )
        for length_s in config.lengths_s or (config.segment_s,)
        for seed in config.seeds or (config.seed,)
    ]


def make_queries(config: QueryConfig, console: Console) -> Outcome:
    """Writes the TFDS dataset `config.out`, a split for each condition. Nothing is written before
    all that it reads was found.

    Raises:
      SourceError: a source cannot be used, or the folder holds something else.
      ConfigError: an unknown condition.
    """
    speech = find_audio([pathlib.Path(config.speech_dir)]).files if config.speech_dir else []
    if config.speech_dir and not speech:
        raise SourceError(f"{config.speech_dir}: no recordings of speech in this folder")
    names = config.conditions or tuple(
        name for name, one in CONDITIONS.items() if speech or not one.excerpt.speech.p
    )
    for name in names:
        if name not in CONDITIONS:
            raise ConfigError(f"unknown condition {name!r}{suggestion(name, CONDITIONS)}")
    tracks = _asked(config)
    check_present(tracks, config)
    for name in names:
        for chain in (CONDITIONS[name].clip, CONDITIONS[name].excerpt):
            check_sources(
                chain,
                noise=bool(config.noise_dir),
                rooms=bool(config.ir_dir),
                speech=bool(speech),
            )
    check_sounds(config.noise_dir, config.ir_dir, {sound_part(config.split)})
    out = output_folder(config.out)
    with explains_a_full_disk(out), one_run(out):
        return _make_queries(config, names, tracks, speech, out, console)


def _make_queries(
    config: QueryConfig,
    names: tuple[str, ...],
    tracks: list[Track],
    speech: list[pathlib.Path],
    out: pathlib.Path,
    console: Console,
) -> Outcome:
    part = sound_part(config.split)
    sounds = prepare_sounds(
        config.noise_dir,
        config.ir_dir,
        part,
        cache=out / ".sounds",
        sample_rate_hz=config.sample_rate_hz,
    )
    sounds = dataclasses.replace(sounds, speech=tuple(map(str, speech)))
    shards = []
    for name in names:
        shards += plan_shards(
            tracks, out, config.name, name, tracks_per_shard=config.tracks_per_shard
        )
    settings = settings_json(config, tracks, [sounds])
    claim_folder(out, settings)
    make = functools.partial(
        make_excerpts,
        config=config,
        sounds=sounds,
        others=tuple(str(track.path) for track in tracks),
    )
    splits, failures = write_shards(
        shards,
        make,
        sample_rate_hz=config.sample_rate_hz,
        bytes_per_track=_bytes_per_track(config),
        num_workers=config.num_workers,
        console=console,
    )
    outcome = report_failures(failures, splits, out, console)
    if not outcome.num_clips:
        return outcome
    write_manifest(out, shards, splits)
    track_names = {str(track.track_id): track.name for track in tracks}
    summary = DatasetSummary(config.name, config.sample_rate_hz, 0, settings, track_names)
    about = credits(config, "Distorted excerpts with their true track and position.")
    write_dataset_metadata(out, summary, splits, credits=about)
    console.print(f"{out}: {outcome.num_clips} queries in {len(splits)} conditions")
    return outcome


def make_excerpts(
    track: Track, name: str, *, config: QueryConfig, sounds: Sounds, others: tuple[str, ...] = ()
) -> list[Clip]:
    """Returns the excerpts of one track under one condition; `others` are tracks that may be laid
    over it.

    Raises:
      DecodeError: the file cannot be used (UnfitError: too short); the caller lists it.
    """
    condition = CONDITIONS[name]
    rate_hz = config.sample_rate_hz
    if condition.excerpt.overlay.p:
        sounds = dataclasses.replace(
            sounds, music=tuple(path for path in others if path != str(track.path))
        )
    middle = read_middle(track.path, config.max_clip_s, sample_rate_hz=rate_hz)
    if middle.whole_s < config.segment_s + 2:
        raise UnfitError(f"{track.path}: {middle.whole_s:.1f} s is too short for a query set")
    clip = middle.samples
    clip_start_s = middle.start_s
    seed = (config.seed, zlib.crc32(name.encode()), track.track_id)
    clip_chain, excerpt_chain = _chains(name, sounds)
    whole = clip_chain.apply(clip, sample_rate_hz=rate_hz, seed=seed)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=config.excerpts_per_track)
    excerpts = []
    for number, start_s in enumerate(
        _starts_s(len(clip) / rate_hz, whole, condition, signs, config)
    ):
        begin_s = replica_start_s(
            start_s, shift_s=0.0, tempo=whole.tempo, segment_s=config.segment_s
        )
        begin = min(
            max(round(begin_s * rate_hz), 0), len(whole.samples) - round(config.segment_s * rate_hz)
        )
        window = whole.samples[begin : begin + round(config.segment_s * rate_hz)]
        noisy = excerpt_chain.apply(window, sample_rate_hz=rate_hz, seed=(*seed, number))
        draws = (
            whole.draws[:-1]
            + ("," if min(len(whole.draws), len(noisy.draws)) > 2 else "")
            + noisy.draws[1:]
        )
        excerpts.append(
            Clip(
                track.track_id,
                number,
                whole.tempo,
                clip_start_s + start_s,
                to_int16(noisy.samples),
                draws,
            )
        )
    return excerpts


def _starts_s(
    clean_s: float, whole: Distorted, condition: Condition, signs: np.ndarray, config: QueryConfig
) -> list[float]:
    """Returns linearly spaced starts at which the (stretched) clip has a whole window; shifted ones
    begin on the index's grid.
    """
    half = config.segment_s / 2
    low = max(0.0, (whole.tempo - 1) * half)
    high = min(
        clean_s - config.segment_s,
        whole.tempo * (len(whole.samples) / config.sample_rate_hz - half) - half,
    )
    starts = np.linspace(low, high, config.excerpts_per_track)
    if condition.shift_s:
        last = int((high - condition.shift_s) / config.index_hop_s)
        grid = np.clip(np.round(starts / config.index_hop_s), 1, last) * config.index_hop_s
        starts = grid + signs * condition.shift_s
    return [float(start) for start in starts]


@functools.lru_cache(maxsize=2)
def _chains(name: str, sounds: Sounds) -> tuple[Chain, Chain]:
    condition = CONDITIONS[name]
    return Chain(condition.clip, sounds), Chain(condition.excerpt, sounds)


if __name__ == "__main__":
    flags.DEFINE_bool(
        "verify",
        False,
        "Write nothing: read all of --config.out again and compare it with its checksums.",
    )
    command_line.run(main, config_file="configs/queries.py")
