"""Makes a model's decision.json: how sure a match is, and where "unknown" begins, by length of
query and size of database.

    python -m confp_jax.evaluation.calibrate --config=configs/calibrate.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/calibration
        --out=confp_jax/pretrained/edge/decision.json

Each excerpt is cut to every length and searched by the program's own matching, as a whole query
and as a part of a long recording is, in random databases of every size that hold its track; that
it is unknown is the same search with its track passed over.
"""

import collections
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import flags
from jaxtyping import Bool, Float64
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track as progress

from confp_jax import command_line
from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.data.records import DatasetError
from confp_jax.evaluation.config import CalibrationConfig
from confp_jax.evaluation.measure.cache import one_run
from confp_jax.evaluation.measure.indexed_dataset import (
    EvaluationReference,
    Excerpt,
    cut,
    embed_reference,
)
from confp_jax.files import RUN_LOCK, write_atomically
from confp_jax.fingerprint.embedder import Embedder, load_encoder
from confp_jax.matching.decision import Decision, features, fit_logistic, fit_tail
from confp_jax.matching.ranking import rank, rank_with_and_without
from confp_jax.matching.searchable import Reference, some_tracks
from confp_jax.typed_config import ConfigError, from_mapping

_SHARED_WINDOWS = 33  # 10 s: so much of a track is compared with the others at once
# In two blocks the mean cosine of a shared recording exceeds its cohort's by this much over the
# root of the dimensions; that of other music does so in one block at most.
_SHARED_MARGIN = 2.0


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What searches of one length and size gave: features with the own track there, whether it came
    first; and without it.
    """

    known: Float64[np.ndarray, "Q F"]
    right: Bool[np.ndarray, " Q"]
    unknown: Float64[np.ndarray, "U F"]


def main(config: ConfigDict, values: flags.FlagValues) -> None:
    """Calibrates as the configuration says and writes the file."""
    console = Console(stderr=True)
    out = pathlib.Path(values.out)
    if not out.parent.is_dir():
        raise ConfigError(
            f"{out.parent}: no such folder; --out is a decision.json beside the model's weights"
        )
    chosen = from_mapping(CalibrationConfig, config)
    places = [out.with_name(f".{out.name}.lock")]
    places += [pathlib.Path(chosen.cache) / RUN_LOCK] if chosen.cache else []
    with one_run(places):
        decision = calibrate(chosen, console)
        write_atomically(out, decision.to_json())
    console.print(
        f"{values.out}: {len(decision.lengths_s)} lengths x {len(decision.num_tracks)} sizes, "
        f"model {decision.weights_hash}"
    )


def calibrate(config: CalibrationConfig, console: Console) -> Decision:
    """Returns the decision of a model.

    Raises:
      DatasetError: the index or the queries are missing.
      ConfigError: no excerpts, or they are shorter than the longest length.
    """
    embedder = load_encoder(config.model)
    excerpts = cut_excerpts(embedder, config, console)
    wanted = {excerpt.track_id for excerpt in excerpts[0]}
    searched = embed_reference(
        embedder,
        config.index,
        config.index_splits,
        console,
        wanted=wanted,
        most_tracks=config.most_tracks,
        cache=config.cache,
        seed=config.seed,
    )
    if len(searched.track_ids) < 2:
        raise DatasetError(
            f"{config.index} holds {len(searched.track_ids)} tracks; name an index of two and more "
            "in index_splits"
        )
    sizes = sorted(
        {*(min(n, len(searched.track_ids)) for n in config.num_tracks), len(searched.track_ids)}
    )
    rng = np.random.default_rng(config.seed)
    sharing = {
        searched.number(track_id): tracks_that_share(searched.reference, searched.number(track_id))
        for track_id in progress(sorted(wanted), "shared recordings", console=console)
    }
    names = feature_names(embedder)

    def search(of_length: list[Excerpt], size: int) -> Outcomes:
        return search_all(of_length, searched, size, rng, sharing, names)

    weights, tails = fit_cells(excerpts, sizes, search, console)
    return Decision(
        config.lengths_s,
        tuple(sizes),
        weights,
        tails,
        weights_hash=embedder.weights_hash,
        features=names,
    )


def fit_cells(
    excerpts: list[list[Excerpt]],
    sizes: Sequence[int],
    search: Callable[[list[Excerpt], int], Outcomes],
    console: Console,
) -> tuple[Float64[np.ndarray, "2 L N F+1"], Float64[np.ndarray, "2 L N 2"]]:
    """Returns weights and tails of every length and size, for parts of a long recording and for
    whole queries.
    """
    kinds = [[plain(of_length) for of_length in excerpts], excerpts]
    shape = len(kinds), len(excerpts), len(sizes)
    fitted: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    cells = list(itertools.product(*map(range, shape)))
    for kind, length, size in progress(cells, "searching", console=console):
        if kind and not has_more(excerpts[length]):
            fitted[kind, length, size] = fitted[0, length, size]  # the same queries
        else:
            fitted[kind, length, size] = fit_cell(search(kinds[kind][length], sizes[size]))
    weights = np.array([fitted[cell][0] for cell in cells]).reshape(*shape, -1)
    tails = np.array([fitted[cell][1] for cell in cells]).reshape(*shape, 2)
    tails[..., 1] = smoothed_scales(tails[..., 1])
    return weights, tails


def cut_excerpts(
    embedder: Embedder, config: CalibrationConfig, console: Console
) -> list[list[Excerpt]]:
    """Returns for each length the excerpts of the query set, cut to it at a random place: at most
    `most_excerpts` of `most_tracks` tracks.

    Raises:
      ConfigError: there are no excerpts, or they are shorter than the longest length.
    """
    rng = np.random.default_rng(config.seed)
    sources = {split: ClipSource(config.queries, split) for split in read_splits(config.queries)}
    places = [(split, number) for split, source in sources.items() for number in range(len(source))]
    track_ids = [sources[split].row(number).track_id for split, number in places]
    order = rng.permutation(len(places))
    searched = set(
        list(dict.fromkeys(track_ids[place] for place in order))[: config.most_tracks or None]
    )
    chosen = sorted(
        [place for place in order if track_ids[place] in searched][: config.most_excerpts]
    )
    out: list[list[Excerpt]] = [[] for _ in config.lengths_s]
    for place in progress(chosen, "excerpts", console=console, transient=True):
        split, number = places[place]
        clip = sources[split][number]
        rate_hz = sources[split].summary.sample_rate_hz
        whole_s = len(clip.samples) / rate_hz
        if whole_s < max(config.lengths_s):
            raise ConfigError(
                f"{config.queries} has excerpts of {whole_s:.1f} s, lengths_s asks for "
                f"{max(config.lengths_s)} s; make them with --config.segment_s=10.0"
            )
        for excerpts, length_s in zip(out, config.lengths_s, strict=True):
            begin_s = rng.uniform(0, whole_s - length_s)
            excerpts.append(
                cut(
                    clip,
                    split,
                    embedder,
                    begin_s=begin_s,
                    length_s=length_s,
                    sample_rate_hz=rate_hz,
                )
            )
    if not out[0]:
        raise ConfigError(f"{config.queries} holds no excerpts")
    return out


def plain(excerpts: list[Excerpt]) -> list[Excerpt]:
    """Returns the same without what only a whole query has: how parts of a long recording are
    searched.
    """
    return [dataclasses.replace(excerpt, query=excerpt.query.plain()) for excerpt in excerpts]


def has_more(excerpts: list[Excerpt]) -> bool:
    """Returns whether a whole query has what a part of a long recording has not."""
    queries = [
        one.query.by_conformer() if one.query.by_conformer else one.query for one in excerpts
    ]
    return any(query.has_edge_windows or query.sped_up is not None for query in queries)


def feature_names(embedder: Embedder) -> tuple[str, ...]:
    """Returns the features that describe an encoder's matches best; the constants of `standout`
    are those of encoders with a projection.
    """
    if embedder.config.encoder.has_projection:
        return ("tempo", "standout")
    return ("score", "margin", "tempo")


def tracks_that_share(reference: Reference, track: int) -> set[int]:
    """Returns the other tracks that hold some of the same recording as this one.

    An excerpt of it whose own track is passed over is rightly answered with them: it must not count
    as a false alarm, nor as a miss.
    """
    query = reference.query_of(track)
    found = collections.Counter()
    starts = range(0, len(query.vectors), _SHARED_WINDOWS)
    least = _SHARED_MARGIN / math.sqrt(query.vectors.shape[1])
    for first in starts:
        block = query.part(first, first + _SHARED_WINDOWS).plain()
        ranking = rank(block, reference, without=track)
        if len(ranking.tracks) and ranking.scores[0] - ranking.cohort_mean > least:
            found[int(ranking.tracks[0])] += 1
    return {other for other, times in found.items() if times >= min(2, len(starts))}


def search_all(
    excerpts: list[Excerpt],
    searched: EvaluationReference,
    size: int,
    rng: np.random.Generator,
    sharing: Mapping[int, set[int]],
    names: tuple[str, ...],
) -> Outcomes:
    """Searches every excerpt in a database with its own track among others, and in one without it.

    Args:
      excerpts: the queries with their truth.
      searched: the tracks that databases are drawn from.
      size: tracks of a database.
      rng: draws the databases.
      sharing: by track, the others that hold some of the same recording.
      names: the features that are kept.
    """
    known = []
    right = []
    unknown = []
    for excerpt in excerpts:
        own = searched.number(excerpt.track_id)
        reference = searched.reference
        others = rng.permutation(np.delete(np.arange(len(searched.track_ids)), own))[
            : size - 1 if size > 1 else 1
        ]
        same = {own, *sharing[own]}
        if size < len(searched.track_ids):
            same = {place for place, track in enumerate([own, *others]) if int(track) in same}
            reference = some_tracks(reference, [own, *others])
            own = 0
        with_own, without = rank_with_and_without(excerpt.query, reference, own)
        if size == 1:  # the own track alone; another one alone
            with_own = rank(excerpt.query, some_tracks(reference, [own]))
        if len(with_own.tracks):
            known.append(features(with_own, names=names))
            right.append(int(with_own.tracks[0]) in same)
        if len(without.tracks) and int(without.tracks[0]) not in same:
            unknown.append(features(without, names=names))
    none = np.zeros((0, len(names)))
    return Outcomes(
        np.concatenate([none, *known]), np.array(right, bool), np.concatenate([none, *unknown])
    )


def smoothed_scales(
    scales: Float64[np.ndarray, "K L N"],
) -> Float64[np.ndarray, "K L N"]:
    """Returns the tails' scales, each the geometric mean of its own (twice) and of the next shorter
    and longer length's.

    A scale is fitted to a few dozen excerpts, so that it may be 15 % off by chance, and changes
    little from length to length.
    """
    logs = np.log(scales)
    padded = np.concatenate([logs[:, :1], logs, logs[:, -1:]], axis=1)
    return np.exp((padded[:, :-2] + 2 * logs + padded[:, 2:]) / 4)


def fit_cell(outcomes: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights of the regression, and the tail of its logit over the unknown: half of all
    queries counts as unknown.
    """
    values = np.concatenate([outcomes.known, outcomes.unknown])
    labels = np.concatenate([outcomes.right, np.zeros(len(outcomes.unknown), bool)])
    weights = fit_logistic(values, labels)
    return weights, fit_tail(outcomes.unknown @ weights[1:] + weights[0])


if __name__ == "__main__":
    flags.DEFINE_string(
        "out", None, "The file to write: decision.json beside the model's weights.", required=True
    )
    command_line.run(main, config_file="configs/calibrate.py")
