"""The routes: each parses, asks the engine, and replies."""

import asyncio
import contextlib
import hmac
import pathlib
import time
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from confp_jax.audio.decode import DecodeError
from confp_jax.database import DatabaseError, NewTrack, StoredTrack
from confp_jax.database.names import folded, shown_texts
from confp_jax.database.records import UPLOADED
from confp_jax.fingerprint.files import track_tags
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.fingerprint.query_rows import QueryRows, has_both_parts
from confp_jax.service.admission import Gate, RateLimit, client_of
from confp_jax.service.browser import BrowserFiles, model_reply
from confp_jax.service.engine import Engine, Identification
from confp_jax.service.listen import listen
from confp_jax.service.middleware import Guard, SeeingChanges
from confp_jax.service.openapi import document
from confp_jax.service.problems import Problem, busy, not_ready, problem_of
from confp_jax.service.responses import (
    JsonReply,
    ServedFile,
    answer_reply,
    track_reply,
    why_reply,
)
from confp_jax.service.settings import MOST_QUESTIONS, SHOWN_ROOT, Settings
from confp_jax.service.sharing import Links
from confp_jax.service.track_names import file_stem, given_names, new_names
from confp_jax.service.uploads import Upload, Uploads

_PAGE = pathlib.Path(__file__).parent / "page"
_MOST_TRACKS = 500
_LONGEST_ID = 18  # digits; SQLite's numbers have 19


class Service:
    """The application's handlers, with what they share."""

    def __init__(self, engine: Engine, settings: Settings):
        self._engine = engine
        self._settings = settings
        self._gate = Gate(max_running=settings.max_running, max_waiting=settings.max_waiting)
        self._rate = RateLimit(settings.requests_per_minute)
        self._uploads = Uploads(settings)
        self._browser = BrowserFiles(settings.browser_runtime, engine.embedder)
        self._num_listeners = 0
        engine.metrics.watch(
            "requests_inside", "Requests that run or wait.", lambda: self._gate.num_inside
        )
        engine.metrics.watch("listeners", "Open microphones.", lambda: self._num_listeners)

    def application(self) -> Starlette:
        """All routes behind the guard."""
        routes = [
            Route("/healthz", _health),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
            Route("/v1/model", self.model),
            Route("/v1/identify", self.identify, methods=["POST"]),
            Route("/v1/identify/fingerprints", self.identify_fingerprints, methods=["POST"]),
            Route("/v1/tracks", self.tracks, methods=["GET"]),
            Route("/v1/tracks", self.add_track, methods=["POST"]),
            Route("/v1/tracks/{id}", self.track, methods=["GET"]),
            Route("/v1/tracks/{id}", self.rename_track, methods=["PATCH"]),
            Route("/v1/tracks/{id}", self.delete_track, methods=["DELETE"]),
            Route("/v1/tracks/{id}/audio", self.audio),
            WebSocketRoute("/v1/listen", self.listen),
            Route("/", _page),
            Route("/docs", _docs),
            Route("/local/{name}", self.browser_file),
            Mount("/page", StaticFiles(directory=_PAGE)),
        ]
        errors = (Problem, HTTPException, DecodeError, AudioError, DatabaseError)
        errors += (TimeoutError, OSError)
        return Starlette(
            routes=routes,
            middleware=[
                Middleware(Guard, settings=self._settings, metrics=self._engine.metrics),
                Middleware(SeeingChanges, engine=self._engine),
            ],
            exception_handlers=dict.fromkeys(errors, _report),
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._engine.start()
        try:
            yield
        finally:
            await self._engine.close()
            self._uploads.close()

    async def ready(self, _: Request) -> Response:
        """200 when the model is compiled and the decoders answer."""
        self._check_ready()
        return PlainTextResponse("ready\n")

    async def metrics(self, _: Request) -> Response:
        """Returns the metrics for Prometheus."""
        return Response(self._engine.metrics.text(), media_type=self._engine.metrics.content_type)

    async def openapi(self, _: Request) -> Response:
        """The description of this interface."""
        return JSONResponse(document(self._settings))

    async def identify(self, request: Request) -> Response:
        """Returns which tracks sound in the body's audio."""
        began = time.perf_counter()
        async with (
            self._admitted(request) as upload,
            asyncio.timeout(self._settings.request_timeout_s),  # from when the body is there
            self._enter(request),
        ):
            decoded = await self._engine.decode(upload.path)
            heard = await self._engine.identify(decoded.samples)
            return await self._answer(request, heard, began, notes=decoded.notes)

    async def identify_fingerprints(self, request: Request) -> Response:
        """Returns which tracks sound in a recording, by vectors of it that the client computed."""
        began = time.perf_counter()
        wanted = self._wanted_rows(request)
        budget = 1 / _number(request, "questions", 1, least=1, most=MOST_QUESTIONS)
        async with (
            self._admitted(request) as upload,
            asyncio.timeout(self._settings.request_timeout_s),
            self._enter(request),
        ):
            rows = await self._engine.in_thread(upload.rows, wanted.shape)
            heard = await self._engine.identify_rows(wanted, rows, alarm_budget=budget)
            return await self._answer(request, heard, began)

    async def model(self, _: Request) -> Response:
        """What a client needs to know that computes fingerprints itself."""
        reply = model_reply(
            self._engine.embedder,
            self._browser,
            hop_s=self._engine.view.searcher.reference.hop_s,
            max_audio_s=self._settings.max_audio_s,
        )
        return JsonReply(reply)

    async def browser_file(self, request: Request) -> Response:
        """A file that the page needs to compute fingerprints."""
        return self._browser.response(request)

    async def tracks(self, request: Request) -> Response:
        """A page of the tracks, or of those that have a text in one of their names."""
        limit = _number(request, "limit", 50, least=1, most=_MOST_TRACKS)
        offset = _number(request, "offset", 0, least=0, most=1 << 31)
        wanted = folded(request.query_params.get("search", ""))
        tracks = self._engine.view.searcher.reference.snapshot.tracks
        found = await self._engine.in_thread(_having, tracks, wanted)
        links = self._links(request)
        page = [track_reply(track, links) for track in found[offset : offset + limit]]
        return JsonReply({"total": len(found), "offset": offset, "tracks": page})

    async def track(self, request: Request) -> Response:
        """One track."""
        return JsonReply(track_reply(self._known(request), self._links(request)))

    async def add_track(self, request: Request) -> Response:
        """Adds the body's audio as a track; 201, or 200 with the track that has the same
        content.
        """
        self._check_token(request)
        async with self._admitted(request) as upload:
            async with asyncio.timeout(self._settings.request_timeout_s), self._enter(request):
                decoded = await self._engine.decode(upload.path, with_tags=True)
                vectors = await self._engine.fingerprint(decoded.samples)
            segment_s = self._engine.view.searcher.reference.segment_s
            duration_s = len(decoded.samples) / self._engine.sample_rate_hz
            if duration_s < segment_s:
                raise AudioError(
                    f"is shorter than {segment_s:g} s", "a track needs at least that much"
                )
            if not vectors.any():
                raise AudioError("is silent", "there is nothing to recognise")
            names = given_names(request, upload)
            sha256 = await self._engine.in_thread(upload.sha256)
            name = (
                names.get("name")
                or names.get("title")
                or decoded.tags.title
                or file_stem(upload)
                or f"upload {sha256[:8]}"
            )
            track, is_new = await self._engine.add(
                NewTrack(
                    name=name,
                    path=f"{UPLOADED}{sha256}",
                    sha256=sha256,
                    duration_s=duration_s,
                    vectors=vectors,
                    title=names.get("title") or decoded.tags.title,
                    artist=names.get("artist") or decoded.tags.artist,
                    album=names.get("album") or decoded.tags.album,
                    tags=track_tags(decoded.tags),
                )
            )
            shown = {field: getattr(track, field) for field in names}
            if not is_new and names != shown:
                track = await self._engine.rename(track.id, names) or track
        links = self._links(request)
        headers = {"Location": links.track(track)}
        reply = track_reply(track, links) | {"notes": decoded.notes}
        return JsonReply(reply, 201 if is_new else 200, headers)

    async def rename_track(self, request: Request) -> Response:
        """Gives a track the names in the query or in a JSON object."""
        self._check_token(request)
        self._check_ready()
        track = self._known(request)
        names = await new_names(request, self._settings)
        renamed = await self._engine.rename(track.id, names)
        if renamed is None:
            raise _no_such_track()
        return JsonReply(track_reply(renamed, self._links(request)))

    async def delete_track(self, request: Request) -> Response:
        """Removes a track."""
        self._check_token(request)
        self._check_ready()
        await self._engine.remove(self._known(request).id)
        return Response(status_code=204)

    async def audio(self, request: Request) -> Response:
        """The track's own file, where sharing is switched on; parts of it too."""
        track = self._known(request)
        if not self._engine.files.are_shared:
            raise Problem(
                403,
                "this service does not share audio",
                "its operator can start it with --share-audio FOLDER",
            )
        path = await self._engine.in_thread(self._engine.files.playable, track)
        if path is None:
            raise Problem(
                404,
                "the track's audio file is not in a folder that this service shares",
                "play your own copy from the same position",
            )
        return ServedFile(path)

    async def listen(self, socket: WebSocket) -> None:
        """A microphone."""
        await socket.accept()
        try:
            self._check_ready()
            self._rate.check(_client(socket))
            if self._num_listeners >= self._settings.max_listeners:
                raise busy(
                    f"{self._num_listeners} others are listening, which is all that this service "
                    "allows"
                )
            self._num_listeners += 1
            try:
                await listen(socket, self._engine, self._settings)
            finally:
                self._num_listeners -= 1
        except WebSocketDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - answered, and logged if it is no client's
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it has gone meanwhile
                await socket.send_json(problem_of(error).body() | {"type": "problem"})
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close()

    async def _answer(
        self, request: Request, heard: Identification, began: float, notes: Sequence[str] = ()
    ) -> Response:
        reply = answer_reply(heard, self._links(request), began=began)
        reply["notes"] = [*reply["notes"], *notes]
        if _flag(request, "explain"):
            reply["why"] = await why_reply(self._engine, heard)
        self._engine.metrics.answer(verdict=reply["verdict"], length_s=reply["length_s"])
        return JsonReply(reply)

    def _wanted_rows(self, request: Request) -> QueryRows:
        """Returns which vectors the body must hold, by what the address says of them."""
        self._check_ready()
        model = self._engine.embedder
        if not has_both_parts(model.config):
            detail = "this service's model takes no fingerprints"
            raise Problem(409, detail, "send the recording itself to /v1/identify")
        if request.query_params.get("weights_hash") != model.weights_hash:
            raise Problem(
                409,
                f"weights_hash is not {model.weights_hash}, the model of this service",
                "compute the fingerprints with its model, which GET /v1/model describes",
            )
        most = int(self._settings.max_audio_s * model.sample_rate_hz)
        return self._engine.rows_of(_number(request, "num_samples", None, least=1, most=most))

    @contextlib.asynccontextmanager
    async def _admitted(self, request: Request) -> AsyncIterator[Upload]:
        """The request's body, if another request may run or wait."""
        self._check_ready()
        self._rate.check(_client(request))
        self._gate.check(_client(request))
        async with self._uploads.receive(request) as upload:
            yield upload

    def _enter(self, request: Request) -> contextlib.AbstractAsyncContextManager[None]:
        return self._gate.enter(_client(request))

    def _check_ready(self) -> None:
        if self._engine.state != "ready":
            raise not_ready(self._engine.state)

    def _check_token(self, request: Request) -> None:
        if not self._settings.token:
            raise Problem(
                403,
                "writing is switched off",
                "its operator can start this service with --token-file",
            )
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self._settings.token}".encode()):
            remedy = (
                "send the header Authorization: Bearer TOKEN with the token that this service "
                "was started with"
            )
            raise Problem(
                401, "no token, or a wrong one", remedy, headers={"WWW-Authenticate": "Bearer"}
            )

    def _known(self, request: Request):
        text = request.path_params["id"]
        is_number = text.isascii() and text.isdecimal() and len(text) <= _LONGEST_ID
        track = self._engine.view.tracks.get(int(text)) if is_number else None
        if track is None:
            raise _no_such_track()
        return track

    def _links(self, request: Request) -> Links:
        return Links(self._engine.files, request.scope.get(SHOWN_ROOT, ""))


async def _health(_: Request) -> Response:
    return PlainTextResponse("alive\n")


async def _page(_: Request) -> Response:
    return FileResponse(_PAGE / "index.html")


async def _docs(_: Request) -> Response:
    return FileResponse(_PAGE / "docs.html")


async def _report(_: Request, error: Exception) -> Response:
    return problem_of(error).response()


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("1", "true", "yes")


def _number(request: Request, name: str, usual: int | None, *, least: int, most: int) -> int:
    """Returns a number of the address; `usual` where it is left out, None where it may not be."""
    text = request.query_params.get(name)
    if text is None and usual is not None:
        return usual
    if text is None or not (
        text.isascii() and text.isdecimal() and len(text) < 12 and least <= int(text) <= most
    ):
        remedy = "add it to the address" if usual is None else f"leave it out for {usual}"
        raise Problem(400, f"{name} is no number from {least} to {most}", remedy)
    return int(text)


def _having(tracks: Sequence[StoredTrack], wanted: str) -> Sequence[StoredTrack]:
    """Returns the tracks that have a text in one of their names."""
    if not wanted:
        return tracks
    return [track for track in tracks if any(wanted in folded(text) for text in shown_texts(track))]


def _client(connection: HTTPConnection) -> str:
    return client_of(connection.client.host) if connection.client else ""


def _no_such_track() -> Problem:
    return Problem(404, "no such track", "GET /v1/tracks lists what there is")
