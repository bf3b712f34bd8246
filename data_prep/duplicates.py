"""Which tracks are one recording: files that are equal to the bit, and copies by this program's
own fingerprints.

    python -m data_prep.duplicates --config=configs/prepare.py:large \\
        --config.music_dir=fma_large ... --config.out=prepared/fma

Writes OUT/duplicates.json. Training then keeps one track of each group and none whose copy is held
out; the benchmark counts a hit on a copy as right. Copies are found through codecs, cuts and other
tempos (0.7 to 1.4), which chromaprint does not see. The fingerprints stay in OUT/.fingerprints: a
run that was killed is continued by the same command, and one with more music reads only what is
new.
"""

import collections
import itertools
import json
import pathlib
from collections.abc import Iterable, Sequence

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from confp_jax import command_line
from confp_jax.data.duplicates import DUPLICATES_FILE
from confp_jax.database import StoredTrack
from confp_jax.files import write_atomically
from confp_jax.fingerprint.embedder import load_encoder
from confp_jax.library.add import add_paths
from confp_jax.library.open import database_decision, open_or_create, open_reference
from confp_jax.matching.shared_sections import SharedSection, shared_sections
from confp_jax.typed_config import from_mapping
from data_prep.config import PrepareConfig
from data_prep.progress import counting
from data_prep.sources import output_folder, read_tracks
from data_prep.tracks import Track

# its cosines separate copies from other arrangements: a clip that begins between two of its rows
# has nearly the same fingerprints
_MODEL = "edge"
_SHORTEST_S = 8.0  # of what two tracks share
# mean cosine: on clips like FMA's, arrangements of one piece reach 0.72, a copy at a tempo of 1.1
# reaches 0.88
_LEAST_SCORE = 0.8
# of the time for which both sound, so laid beside each other: a shared loop or jingle makes no copy
_LEAST_SHARE = 0.8


def main(config: ConfigDict, _: flags.FlagValues) -> None:
    """Looks for duplicates among the tracks of a configuration of make_train."""
    chosen = from_mapping(PrepareConfig, config)
    console = Console(stderr=True)
    out = output_folder(chosen.out)
    groups = find_duplicates(read_tracks(chosen), out / ".fingerprints", console)
    file = out / DUPLICATES_FILE
    write_atomically(file, json.dumps({"groups": groups}, indent=1))
    console.print(
        f"{file}: {sum(len(group) for group in groups)} tracks in {len(groups)} groups",
        highlight=False,
    )


def find_duplicates(
    tracks: Sequence[Track], folder: pathlib.Path, console: Console
) -> list[list[int]]:
    """Groups of two and more track ids, each sorted. Files that cannot be read, or are too short,
    are in none.

    Args:
      folder: keeps the fingerprints, a database for each model.

    Raises:
      DatabaseError: another process is writing there, or the disk is full.
    """
    folder.mkdir(exist_ok=True)
    database, embedder = open_or_create(folder / load_encoder(_MODEL).weights_hash, _MODEL)
    id_of = {str(track.path.resolve()): track.track_id for track in tracks if track.path.is_file()}
    with counting(console, "fingerprints") as report:
        done = itertools.count(1)
        add_paths(
            database,
            embedder,
            list(map(pathlib.Path, id_of)),
            report=lambda _, total: report(next(done), total),
        )
    by_content: dict[str, list[int]] = collections.defaultdict(list)
    for path, file in database.known_files().items():
        if path in id_of:
            by_content[file.sha256].append(id_of[path])
    reference = open_reference(database, embedder)
    stored = reference.snapshot.tracks
    with counting(console, "search") as report:
        decision = database_decision(database, embedder)
        sections = shared_sections(reference, decision, shortest_s=_SHORTEST_S, report=report)
    copies = [
        (stored[found.track], stored[found.other]) for found in sections if is_copy(found, stored)
    ]
    joined = [by_content[a.sha256][:1] + by_content[b.sha256][:1] for a, b in copies]
    return groups_of([*by_content.values(), *joined])


def is_copy(found: SharedSection, tracks: Sequence[StoredTrack]) -> bool:
    """Returns whether two tracks sound alike for about as long as they can, laid beside each other
    as `found` says.
    """
    before_s = min(found.track_s, found.other_s / found.tempo)
    after_s = min(
        tracks[found.track].duration_s - found.track_s,
        (tracks[found.other].duration_s - found.other_s) / found.tempo,
    )
    return found.score >= _LEAST_SCORE and found.length_s >= _LEAST_SHARE * (before_s + after_s)


def groups_of(together: Iterable[Sequence[int]]) -> list[list[int]]:
    """Whatever hangs together; ids that stand alone are left out."""
    leader: dict[int, int] = {}

    def find(track_id: int) -> int:
        while leader.setdefault(track_id, track_id) != track_id:
            track_id = leader[track_id]
        return track_id

    for ids in together:
        for other in ids[1:]:
            first, second = sorted((find(ids[0]), find(other)))
            leader[second] = first
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for track_id in leader:
        groups[find(track_id)].append(track_id)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


if __name__ == "__main__":
    command_line.run(main, config_file="configs/prepare.py")
