"""The OpenAPI document: written by hand beside the routes; the tests hold every answer against
it.
"""

from typing import Any

from confp_jax.database.records import TAG_NAMES
from confp_jax.service import VERSION
from confp_jax.service.settings import LONGEST_NAME, MOST_QUESTIONS, NAME_FIELDS, Settings

_BYTES = {"type": "string", "format": "binary"}
_STRING = {"type": "string"}
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_AUDIO = {
    "description": "Where it can be played, if sharing is on and the file is there.",
    "type": ["string", "null"],
}
_NAMES = {"id": _INTEGER, "track": _STRING, "title": _STRING, "artist": _STRING, "album": _STRING}


def _object(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _maybe(name: str) -> dict[str, Any]:
    return {"oneOf": [_ref(name), {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _described(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return schema | {"description": description}


_TAGS = {
    "tags": _described(
        _object(dict.fromkeys(TAG_NAMES, _STRING)),
        "What the track's file says of it; empty where it does not.",
    )
}
_MATCH = (
    _NAMES
    | _TAGS
    | {
        "offset_s": _described(_NUMBER, "The track's moment that sounds at query_offset_s."),
        "query_offset_s": _described(_NUMBER, "Where in the recording the match begins."),
        "length_s": _described(_NUMBER, "How long it lasts there."),
        "tempo": _described(_NUMBER, "Above 1 it is played faster than the track."),
        "score": _described(_NUMBER, "Mean cosine along the match."),
        "confidence": _described(_NUMBER, "Probability that it is right."),
        "audio": _AUDIO,
        "copies": _described(
            _list(_object(_NAMES)), "Other tracks that hold the same recording at this place."
        ),
    }
)
_TRACK = (
    _NAMES
    | _TAGS
    | {
        "duration_s": _NUMBER,
        "num_fingerprints": _INTEGER,
        "added_at": _NUMBER,
        "audio": _AUDIO,
    }
)
_MODEL = {
    "weights_hash": _described(_STRING, "What fingerprints of this model name."),
    "takes_fingerprints": {"type": "boolean"},
    "hop_s": _described(_NUMBER, "Between the windows of a query."),
    "max_audio_s": _NUMBER,
    "speedup": _described(_NUMBER, "At which tempo short recordings are searched for, too."),
    "sped_up_below_samples": _described(_INTEGER, "So long is no short recording."),
    "silent_rms": _described(_NUMBER, "A window no louder than this is silent."),
    "config": {"type": "object"},
    "files": {
        "oneOf": [_object(dict.fromkeys(("runtime", "wasm", "model"), _STRING)), {"type": "null"}]
    },
}
_NOTES = {"notes": _described(_list(_STRING), "What was unusual, such as damage in the file.")}
_SCHEMAS = {
    "Track": _object(_TRACK),
    "AddedTrack": _object(_TRACK | _NOTES),
    "Tracks": _object({"total": _INTEGER, "offset": _INTEGER, "tracks": _list(_ref("Track"))}),
    "Match": _object(_MATCH),
    "Model": _object(_MODEL),
    "Spectrogram": _object(
        {"num_bands": _INTEGER, "num_columns": _INTEGER, "length_s": _NUMBER}
        | {
            "pixels": _described(
                _STRING, "Base64 of bytes, bands by columns, low bands first; 255 is loudest."
            )
        }
    ),
    "Why": _object(
        {
            "scores": _list(_object({"query_offset_s": _NUMBER, "score": _NUMBER})),
            "runner_up": {
                "oneOf": [
                    _object(
                        {
                            "id": _INTEGER,
                            "track": _STRING,
                            "title": _STRING,
                            "artist": _STRING,
                            "score": _NUMBER,
                        }
                    ),
                    {"type": "null"},
                ]
            },
            "margin": _described(
                {"type": ["number", "null"]}, "Score of the best track above the runner-up's."
            ),
            "query_offset_s": _NUMBER,
            "offset_s": _NUMBER,
            "query": _maybe("Spectrogram"),
            "match": _maybe("Spectrogram"),
            "no_match_because": _STRING,
        }
    ),
    "Answer": _object(
        {
            "verdict": {"enum": ["match", "unknown"]},
            "num_accepted": _described(
                _INTEGER, "So many of the matches are answers; the others are the nearest tracks."
            ),
            "matches": _list(_ref("Match")),
            "length_s": _NUMBER,
            **_NOTES,
            "elapsed_s": _NUMBER,
            "why": _maybe("Why"),
        },
        optional=("why",),
    ),
    "Problem": _object(
        {
            "type": _STRING,
            "title": _STRING,
            "status": _INTEGER,
            "detail": _STRING,
            "remedy": _STRING,
        }
    ),
}
_WHAT = {
    400: "not understood",
    401: "no token",
    403: "switched off",
    404: "not there",
    408: "too slow",
    409: "another model's",
    413: "too large",
}
_WHAT |= {
    416: "no such part",
    421: "not this service's host name",
    422: "no usable audio",
    429: "too many requests",
}
_WHAT |= {500: "a fault of the service", 503: "not ready, or it took too long"}
_ALWAYS = (421, 500)
_BAD_AUDIO = (400, 408, 413, 422, 429, 503)


_ROWS = {
    "description": "Vectors of the recording's windows, an int8 for each value: only their "
    "direction counts, and a silent window's is zero. First the projection's of every window, then "
    "those of the windows that begin 1, 2, ... phases later, the conformer's, and, of a short "
    "recording, the conformer's of the same played faster.",
    "required": True,
    "content": {"application/octet-stream": {"schema": _BYTES}},
}


def document(settings: Settings) -> dict[str, Any]:
    """OpenAPI 3.1 of this service with its limits."""
    listening = (
        "WebSocket /v1/listen: first a text message "
        '{"type": "start", "sample_rate_hz": 48000, "format": "f32le", "s16le", "mulaw" '
        'or "alaw", "mode": "clip" or "monitor", "profile": "music" or "calls", "explain": false}, '
        'then mono PCM as binary messages, then {"type": "stop"}. Comes back: {"type": "guess"} '
        "about once a second (calls: twice a second, and the first sure one is the answer) and one "
        '{"type": "answer"} with the members of Answer (mode clip, at most 12 s), or '
        '{"type": "playing"} and {"type": "match"} '
        'with the members of a match, and {"type": "end"} (mode monitor); {"type": "problem"} with '
        "those of Problem. Over HTTP, too, every refusal is a Problem: also 404 for a path and "
        "405 for a method that is not described here."
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "confp", "version": VERSION, "description": listening},
        "paths": _paths(settings),
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths(settings: Settings) -> dict[str, Any]:
    explain = [
        _query(
            "explain",
            {"type": "boolean"},
            "Also say why: spectrograms, score for each second, runner-up.",
        )
    ]
    return {
        "/v1/identify": {
            "post": {"parameters": explain, "requestBody": _audio(settings)}
            | _about("Which tracks sound in it?", 200, "Answer", *_BAD_AUDIO)
        },
        "/v1/identify/fingerprints": {
            "post": {"parameters": [*_fingerprinted(settings), *explain], "requestBody": _ROWS}
            | _about("The same without the audio.", 200, "Answer", *_BAD_AUDIO, 409)
        },
        "/v1/model": {
            "get": _about("What computes fingerprints, and where pages find it.", 200, "Model")
        },
        **_track_paths(settings),
        "/healthz": {"get": _about("Whether the process lives.", 200, "text/plain")},
        "/readyz": {"get": _about("Whether the model is compiled.", 200, "text/plain", 503)},
        "/metrics": {"get": _about("For Prometheus.", 200, "text/plain")},
    }


def _fingerprinted(settings: Settings) -> list[dict[str, Any]]:
    """Returns what an address says of the vectors in its body."""
    longest = f"Of the recording at the model's rate; at most {settings.max_audio_s:g} s."
    return [
        _query("weights_hash", _STRING, "Of the model that computed them, as in /v1/model.")
        | {"required": True},
        _query("num_samples", _INTEGER | {"minimum": 1}, longest) | {"required": True},
        _query(
            "questions",
            _INTEGER | {"minimum": 1, "maximum": MOST_QUESTIONS},
            "How often a growing recording is asked about: they share the false-alarm rate (1).",
        ),
    ]


def _track_paths(settings: Settings) -> dict[str, Any]:
    text = "Of the track; without it, what the file's tags say, or its name in a form."
    name = _STRING | {"maxLength": LONGEST_NAME}
    names = [_query(field, name, text) for field in NAME_FIELDS]
    paging = [
        _query("search", _STRING, "Only tracks with this in one of their names."),
        _query("limit", _INTEGER | {"minimum": 1, "maximum": 500}, "How many (50)."),
        _query("offset", _INTEGER | {"minimum": 0}, "How many to pass over (0)."),
    ]
    number = [{"name": "id", "in": "path", "required": True, "schema": _INTEGER | {"minimum": 0}}]
    token = {"security": [{"token": []}]}
    form = dict.fromkeys(NAME_FIELDS, _described(name, text))
    added = "Add a track. 200: its content was there already."
    return {
        "/v1/tracks": {
            "get": {"parameters": paging} | _about("What can be identified.", 200, "Tracks", 400),
            "post": {"parameters": names, "requestBody": _audio(settings, **form)}
            | token
            | _about(added, 201, "AddedTrack", *_BAD_AUDIO, 401, 403, also=200),
        },
        "/v1/tracks/{id}": {
            "get": {"parameters": number} | _about("One track.", 200, "Track", 404),
            "patch": {"parameters": [*number, *names], "requestBody": _names(name)}
            | token
            | _about("Correct a track's names.", 200, "Track", 400, 401, 403, 404, 408, 413, 503),
            "delete": {"parameters": number}
            | token
            | _about("Remove a track.", 204, None, 401, 403, 404, 503),
        },
        "/v1/tracks/{id}/audio": {
            "get": {"parameters": number}
            | _about("Its audio file.", 200, "audio/*", 400, 403, 404, 416, also=206)
        },
    }


def _audio(settings: Settings, **fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a body: the audio itself, or a form with it and these fields."""
    form = {"type": "object", "properties": {"audio": _BYTES} | fields}
    return {
        "description": f"Audio of any format: at most {settings.max_body_bytes >> 20} MiB and "
        f"{settings.max_audio_s:g} s.",
        "required": True,
        "content": {
            "application/octet-stream": {"schema": _BYTES},
            "multipart/form-data": {"schema": form},
        },
    }


def _names(name: dict[str, Any]) -> dict[str, Any]:
    """Returns a body: names as JSON, where they are not in the query."""
    schema = {"type": "object", "properties": dict.fromkeys(NAME_FIELDS, name)}
    return {
        "description": "The names, where they are not in the address.",
        "required": False,
        "content": {"application/json": {"schema": schema}},
    }


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _about(
    summary: str, status: int, result: str | None, *problems: int, also: int | None = None
) -> dict[str, Any]:
    """Summary and responses of one operation; `result` is a schema or a media type."""
    if result is None:
        content = {}
    elif "/" in result:
        content = {"content": {result: {}}}
    else:
        content = {"content": {"application/json": {"schema": _ref(result)}}}
    good = {str(code): {"description": "done"} | content for code in (status, also) if code}
    problem = {"content": {"application/problem+json": {"schema": _ref("Problem")}}}
    bad = {
        str(code): {"description": _WHAT[code]} | problem for code in sorted((*problems, *_ALWAYS))
    }
    return {"summary": summary, "responses": good | bad}
