"""`compare`: finds the sections that two recordings share."""

import dataclasses
import pathlib
from collections.abc import Callable

from confp_jax.audio.decode import decode_blocks
from confp_jax.audio.errors import Losses
from confp_jax.fingerprint.embedder import DEFAULT_MODEL, Embedder, load_encoder
from confp_jax.fingerprint.files import reason
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.fingerprint.query import Query, joined
from confp_jax.matching.common_sections import common_sections
from confp_jax.matching.decision import load_decision


@dataclasses.dataclass(frozen=True)
class CommonSection:
    """A stretch of A, from `a_s` on, that sounds like B from `b_s` on; times in seconds."""

    a_s: float
    b_s: float
    length_s: float
    tempo: float
    score: float
    confidence: float


def compare_files(
    a: str | pathlib.Path,
    b: str | pathlib.Path,
    model: str | None = None,
    *,
    note: Callable[[str], None] = lambda text: None,
) -> list[CommonSection]:
    """Returns the sections that two recordings share, in the order of the first.

    Args:
      a: an audio file of at least 1 s.
      b: another one.
      model: a shipped model or a checkpoint folder; None: `edge2`.
      note: called with what was unusual in a file.

    Raises:
      DecodeError: one of them cannot be decoded.
      AudioError: one of them is too short.

    Examples:
      >>> section = compare_files("clip.wav", "music/the-protagonist.mp3")[0]
      >>> round(section.a_s), round(section.b_s)
      (0, 4)
    """
    embedder = load_encoder(model or DEFAULT_MODEL)
    first, second = (fingerprint_file(pathlib.Path(path), embedder, note) for path in (a, b))
    decision = load_decision(embedder.folder, embedder.weights_hash)
    spans = common_sections(first, second, decision, embedder.stored_rows)
    names = "query_s", "track_s", "length_s", "tempo", "score", "confidence"
    return [
        CommonSection(
            *(round(min(getattr(s, n), 1.0) if n == "score" else getattr(s, n), 4) for n in names)
        )
        for s in spans
    ]


def fingerprint_file(
    path: pathlib.Path, embedder: Embedder, note: Callable[[str], None] = lambda text: None
) -> Query:
    """Returns all fingerprints of a file, decoded as a stream; `note` is called with what was
    unusual in it.

    Raises:
      DecodeError: it cannot be decoded.
      AudioError: it is too short.
    """
    try:
        losses = Losses()
        rate_hz = embedder.sample_rate_hz
        parts = list(embedder.stream(decode_blocks(path, sample_rate_hz=rate_hz, losses=losses)))
    except AudioError as error:
        raise AudioError(reason(path, error)) from error
    for text in losses.notes():
        note(f"{path}: {text}")
    return joined(parts)
