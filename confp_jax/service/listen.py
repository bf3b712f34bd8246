"""The microphone's end of the service: PCM in by WebSocket, guesses and answers out while it is
heard.
"""

import asyncio
import contextlib
import dataclasses
import queue
import time
from collections.abc import AsyncIterator, Iterator

import numpy as np
from jaxtyping import Float32
from starlette.websockets import WebSocket, WebSocketDisconnect

from confp_jax.audio.decode import DecodeError, StreamResampler
from confp_jax.audio.g711 import decode_g711
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.library.listening import ANSWER_BUDGET, LONGEST_S, PACES, GrowingClip
from confp_jax.library.live import live_moments
from confp_jax.library.monitor import Event, events_of
from confp_jax.library.searcher import Match
from confp_jax.service.engine import Engine, Identification
from confp_jax.service.problems import Problem
from confp_jax.service.responses import answer_reply, why_reply
from confp_jax.service.settings import SHOWN_ROOT, Settings
from confp_jax.service.sharing import Links
from confp_jax.texts import parse_json

_IDLE_S = 15.0
_STATE_BYTES = 4_096  # of a text message
_PIECE_S = 1.0  # of a message that is converted and searched at a time
_QUEUED_PIECES = 16  # of one listener: with `max_listeners` of them, what all may hold
_FULL_S = 0.02  # until a full queue is looked at again
_SAMPLE_BYTES = {"f32le": 4, "s16le": 2, "mulaw": 1, "alaw": 1}


@dataclasses.dataclass(frozen=True)
class Start:
    """The first message."""

    sample_rate_hz: int
    format: str
    mode: str  # "clip": one answer; "monitor": events without end
    explain: bool
    profile: str  # of PACES; "calls": the first sure guess is the answer


async def listen(socket: WebSocket, engine: Engine, settings: Settings) -> None:
    """Serves one connection, from its first message to its last.

    Raises:
      Problem: what the client did wrong.
      WebSocketDisconnect: the client has gone.
    """
    start = _start(await _receive(socket))
    resampler = _Resampler(engine, start)
    await socket.send_json(
        {"type": "listening", "longest_s": LONGEST_S if start.mode == "clip" else None}
    )
    if start.mode == "monitor":
        return await _monitor(socket, engine, start, resampler)
    links = Links(engine.files, socket.scope.get(SHOWN_ROOT, ""))
    clip = _Clip(engine, links, start.profile)
    try:
        async with asyncio.timeout(settings.clip_timeout_s):
            while not clip.is_full and (sent := await _audio(socket, start)) is not None:
                async for samples in resampler.pieces(sent):
                    clip.push(samples)
                    if clip.is_full:
                        break
                if clip.is_due:
                    heard, reply = await clip.guess()
                    if start.profile == "calls" and heard and heard.result.accepted:
                        return await _send_answer(socket, engine, start, heard, reply)
                    await socket.send_json({"type": "guess"} | reply)
    except TimeoutError as error:
        detail = f"the clip was not complete within {settings.clip_timeout_s:g} s"
        raise Problem(
            408, detail, "send audio as fast as it is recorded, and a stop message"
        ) from error
    clip.push(await resampler.rest())
    async with asyncio.timeout(settings.request_timeout_s):
        heard, reply = await clip.answer()
        await _send_answer(socket, engine, start, heard, reply)


async def _send_answer(
    socket: WebSocket, engine: Engine, start: Start, heard: Identification, reply: dict
) -> None:
    verdict = "match" if heard.result.accepted else "unknown"
    engine.metrics.answer(verdict=verdict, length_s=reply["length_s"])
    why = {"why": await why_reply(engine, heard)} if start.explain else {}
    await socket.send_json({"type": "answer"} | reply | why)


class _Clip:
    """A growing clip, fingerprinted and searched beside the event loop."""

    def __init__(self, engine: Engine, links: Links, profile: str):
        self._engine = engine
        self._links = links
        self._began = time.perf_counter()
        self._pace = PACES[profile]
        self._heard = GrowingClip(engine.view.searcher.embedder, pace=self._pace)
        self.push = self._heard.push

    @property
    def is_full(self) -> bool:
        return self._heard.is_full

    @property
    def is_due(self) -> bool:
        """Returns whether it is time for a guess."""
        return self._heard.is_due

    async def guess(self) -> tuple[Identification | None, dict]:
        """Returns what it seems to be, and as a reply, whose verdict is "match" when it is sure."""
        self._heard.looked()
        began = time.perf_counter()
        try:
            heard = await self._search(self._pace.look_budget)
        except AudioError:  # silence so far
            return None, {
                "verdict": "unknown",
                "matches": [],
                "num_accepted": 0,
                "length_s": round(self._heard.heard_s, 3),
                "notes": ["silence"],
            }
        return heard, self._reply(heard, began)

    async def answer(self) -> tuple[Identification, dict]:
        """Returns the answer to all of it.

        Raises:
          AudioError: shorter than 1 s, or silent.
        """
        began = time.perf_counter()
        heard = await self._search(ANSWER_BUDGET)
        return heard, self._reply(heard, began)

    async def _search(self, alarm_budget: float) -> Identification:
        clip = self._heard
        samples = clip.unfingerprinted()
        if samples is not None:
            clip.settle(await self._engine.query(samples))
        return await self._engine.search(clip.query, clip.samples, alarm_budget=alarm_budget)

    def _reply(self, heard: Identification, began: float) -> dict:
        return answer_reply(heard, self._links, began=began)


async def _monitor(
    socket: WebSocket, engine: Engine, start: Start, resampler: "_Resampler"
) -> None:
    """Sends events until the client stops. The search runs in a thread; a client that sends faster
    than it is served has to wait.
    """
    loop = asyncio.get_running_loop()
    blocks: queue.Queue[np.ndarray | None] = queue.Queue(_QUEUED_PIECES)
    events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    def heard() -> Iterator[np.ndarray]:
        while (block := blocks.get()) is not None:
            yield block

    def run() -> None:
        try:
            for event in events_of(live_moments(engine.live, heard())):
                loop.call_soon_threadsafe(events.put_nowait, event)
            loop.call_soon_threadsafe(events.put_nowait, None)
        except Exception as error:  # noqa: BLE001 - raised where the connection is served
            loop.call_soon_threadsafe(events.put_nowait, error)

    async def tell() -> None:
        while (event := await events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            await socket.send_json(
                {"type": event.event, "heard_s": event.heard_s} | _public(event.found)
            )

    async def feed() -> None:
        try:
            while (sent := await _audio(socket, start)) is not None:
                async for samples in resampler.pieces(sent):
                    await _put(blocks, samples)
            await _put(blocks, await resampler.rest())
            await _put(blocks, None)
        except BaseException:
            _give_up(blocks)
            raise

    thread = engine.start_monitor(run)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            group.create_task(tell())
    except* (DecodeError, AudioError, Problem, WebSocketDisconnect) as errors:
        raise errors.exceptions[0] from None
    finally:
        await thread
    await socket.send_json({"type": "end"})


async def _put(blocks: "queue.Queue[np.ndarray | None]", block: np.ndarray | None) -> None:
    """Waits for a free place without a thread: those of a pool that all sessions share could all be
    waiting for one another.
    """
    while True:
        try:
            return blocks.put_nowait(block)
        except queue.Full:
            await asyncio.sleep(_FULL_S)


def _give_up(blocks: "queue.Queue[np.ndarray | None]") -> None:
    """Ends the search; what waits is dropped.

    Nobody else puts anything in, so that there is a free place afterwards.
    """
    with contextlib.suppress(queue.Empty):
        while True:
            blocks.get_nowait()
    blocks.put_nowait(None)


def _public(found: Match) -> dict:
    values = dataclasses.asdict(found)
    for named in (values, *values["copies"]):
        del named["path"]  # it is of this machine
    return values


async def _receive(socket: WebSocket) -> str | bytes:
    try:
        async with asyncio.timeout(_IDLE_S):
            message = await socket.receive()
    except TimeoutError as error:
        raise Problem(
            408, f"nothing was sent for {_IDLE_S:g} s", "keep sending audio, or send a stop message"
        ) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    return message["text"] if message.get("text") is not None else message.get("bytes") or b""


def _start(message: str | bytes) -> Start:
    remedy = (
        'begin with {"type": "start", "sample_rate_hz": 48000, "format": "f32le"}; mode is '
        f'"clip" or "monitor", format one of {", ".join(_SAMPLE_BYTES)}, profile "music" or, of '
        'clips, "calls"'
    )
    try:
        if not isinstance(message, str) or len(message) > _STATE_BYTES:
            raise TypeError("not a start message")
        values = parse_json(message)
        start = Start(
            values["sample_rate_hz"],
            values.get("format", "f32le"),
            values.get("mode", "clip"),
            values.get("explain", False) is True,
            values.get("profile", "music"),
        )
        rate_ok = type(start.sample_rate_hz) is int and 4_000 <= start.sample_rate_hz <= 768_000
        if (
            values["type"] != "start"
            or start.format not in _SAMPLE_BYTES
            or start.mode not in ("clip", "monitor")
            or start.profile not in (PACES if start.mode == "clip" else ("music",))
            or not rate_ok
        ):
            raise ValueError("a start message with other values than are known")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Problem(400, f"the first message is no start message ({error!r})", remedy) from error
    return start


async def _audio(socket: WebSocket, start: Start) -> bytes | None:
    """Returns the next message of whole samples; None when the client has said stop."""
    message = await _receive(socket)
    if isinstance(message, str):
        with contextlib.suppress(ValueError, AttributeError):
            if parse_json(message[:_STATE_BYTES]).get("type") == "stop":
                return None
        raise Problem(
            400,
            "a text message that is no stop message",
            'send audio as binary messages, {"type": "stop"} at the end',
        )
    if len(message) % _SAMPLE_BYTES[start.format]:
        raise Problem(
            400,
            f"{len(message)} bytes are no whole number of {start.format} samples",
            "send whole samples, mono",
        )
    return message


class _Resampler:
    """What a client sends, as samples at the model's rate: one short piece at a time, beside the
    event loop, so that a large message takes neither its time nor much memory.
    """

    def __init__(self, engine: Engine, start: Start):
        self._engine = engine
        self._format = start.format
        self._piece_bytes = round(_PIECE_S * start.sample_rate_hz) * _SAMPLE_BYTES[start.format]
        self._resampler = StreamResampler(from_hz=start.sample_rate_hz, to_hz=engine.sample_rate_hz)

    async def pieces(self, sent: bytes) -> AsyncIterator[Float32[np.ndarray, " n"]]:
        """Yields the samples of one message.

        Raises:
          Problem: 400, a sample that is no finite number.
        """
        for first in range(0, len(sent), self._piece_bytes):
            part = sent[first : first + self._piece_bytes]
            yield await self._engine.in_thread(self._converted, part)

    async def rest(self) -> Float32[np.ndarray, " n"]:
        """Returns what the resampler still holds at the end."""
        nothing = np.zeros(0, np.float32)
        return await self._engine.in_thread(lambda: self._resampler.push(nothing, last=True))

    def _converted(self, part: bytes) -> Float32[np.ndarray, " n"]:
        samples = _samples(part, self._format)
        if not np.isfinite(samples).all():
            raise Problem(
                400, "a sample is no finite number", "send float32 samples from -1 to 1, or s16le"
            )
        return self._resampler.push(samples)


def _samples(part: bytes, name: str) -> Float32[np.ndarray, " n"]:
    """Returns the samples of bytes in one of the formats, in [-1, 1]."""
    if name == "mulaw" or name == "alaw":
        return decode_g711(part, name)
    if name == "s16le":
        return np.frombuffer(part, "<i2").astype(np.float32) / np.float32(32_768)
    return np.frombuffer(part, "<f4").astype(np.float32)
