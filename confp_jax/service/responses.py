"""What the service says of recordings and tracks, as JSON: no path of this machine is in it."""

import dataclasses
import time
from typing import Any

from starlette.responses import FileResponse, JSONResponse
from starlette.types import Message, Receive, Scope, Send

from confp_jax.audio.decode import DecodeError
from confp_jax.database import StoredTrack, TrackTags
from confp_jax.matching.spans import Span
from confp_jax.service.engine import Engine, Identification
from confp_jax.service.explain import compare, cut, place_of, spectrogram
from confp_jax.service.problems import Problem
from confp_jax.service.sharing import Links
from confp_jax.texts import steady_json


class JsonReply(JSONResponse):
    """JSON that steers no terminal which shows it, whatever names are in it."""

    def render(self, content: Any) -> bytes:
        """Returns the body."""
        return steady_json(content).encode("utf-8", "backslashreplace")


class ServedFile(FileResponse):
    """A file, or the part of it that is asked for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (
                400,
                416,
            ):  # in plain text
                detail = "the Range header asks for no part of this file"
                raise Problem(
                    message["status"], detail, "leave it out, or ask for bytes that are there"
                )
            await send(message)

        await super().__call__(scope, receive, sending)


def track_reply(track: StoredTrack, links: Links) -> dict[str, Any]:
    """Returns a track; `audio` is where it can be played, None where it cannot."""
    names = _names(track)
    counts = {
        "duration_s": round(track.duration_s, 3),
        "num_fingerprints": track.num_rows,
        "added_at": track.added_at,
    }
    return names | _tags(track) | counts | {"audio": links.audio(track)}


def answer_reply(heard: Identification, links: Links, *, began: float) -> dict[str, Any]:
    """Returns an answer: accepted matches first, then the nearest other tracks."""
    result = heard.result
    return {
        "verdict": "match" if result.accepted else "unknown",
        "num_accepted": len(result.accepted),
        "matches": [_match(heard, span, links) for span in (*result.accepted, *result.nearest)],
        "length_s": round(heard.length_s, 3),
        "notes": result.notes,
        "elapsed_s": round(time.perf_counter() - began, 4),
    }


def _match(heard: Identification, span: Span, links: Links) -> dict[str, Any]:
    found = heard.view.searcher.found(span)
    track = heard.view.searcher.reference.snapshot.tracks[span.track]
    names = _names(track)
    times = {
        "offset_s": found.offset_s,
        "query_offset_s": found.query_offset_s,
        "length_s": found.length_s,
    }
    sure = {"tempo": found.tempo, "score": found.score, "confidence": found.confidence}
    copies = [_names(heard.view.searcher.reference.snapshot.tracks[t]) for t in span.copies]
    audio = links.audio(track, from_s=found.offset_s)
    return names | _tags(track) | times | sure | {"audio": audio, "copies": copies}


def _names(track: StoredTrack) -> dict[str, Any]:
    return {
        "id": track.id,
        "track": track.name,
        "title": track.title,
        "artist": track.artist,
        "album": track.album,
    }


def _tags(track: StoredTrack) -> dict[str, Any]:
    return {"tags": dataclasses.asdict(track.tags or TrackTags())}


async def why_reply(engine: Engine, heard: Identification) -> dict[str, Any] | None:
    """Why: what was heard and what it is like, side by side, with the similarity along it; None for
    an empty database.
    """
    place = place_of(heard)
    if place is None:
        return None
    rate_hz = engine.sample_rate_hz
    mel = heard.view.searcher.embedder.config.mel
    compared = await engine.in_thread(compare, heard, place)
    query = None
    if heard.samples is not None:
        samples = cut(heard.samples, place.query_s, place.length_s, rate_hz)
        query = spectrogram(samples, mel, sample_rate_hz=rate_hz)
    track = heard.view.searcher.reference.snapshot.tracks[place.track]
    path = await engine.in_thread(engine.files.own_file, track)
    match = None
    missing = ""
    if path is not None:
        try:
            decoded = await engine.decode(
                path, start_s=place.track_s, length_s=place.track_length_s
            )
            match = spectrogram(decoded.samples, mel, sample_rate_hz=rate_hz)
        except DecodeError as error:
            missing = f"the track's file {error}"
    else:
        missing = "the track's audio file is not on this machine"
    places = {"query_offset_s": round(place.query_s, 3), "offset_s": round(place.track_s, 3)}
    return compared | places | {"query": query, "match": match, "no_match_because": missing}
