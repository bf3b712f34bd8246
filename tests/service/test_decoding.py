"""The decoders' processes: what they return, what they may, and that one which is lost is
replaced.
"""

import asyncio
import os
import pathlib
import signal
import struct

import numpy as np
import pytest
import soundfile
from running_service import KNOWN, MUSIC

from confp_jax.audio.decode import DecodeError, decode
from confp_jax.audio.tags import Tags
from confp_jax.service import decode_worker, decoding
from confp_jax.service.decoding import DecodePool, DecoderGoneError
from confp_jax.service.settings import LONGEST_NAME
from confp_jax.service.track_names import _plain_names, file_stem
from confp_jax.service.uploads import Upload

SONG = MUSIC / f"{KNOWN[0]}.mp3"


def children() -> set[int]:
    return set(
        map(int, pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    )


def with_pool(use, *, timeout_s: float = 60.0, num_workers: int = 1):
    """Runs `use(pool, its processes)`."""

    async def run():
        before = children()
        pool = DecodePool(
            sample_rate_hz=16_000, max_audio_s=40.0, timeout_s=timeout_s, num_workers=num_workers
        )
        await pool.start()
        try:
            return await use(pool, children() - before)
        finally:
            await pool.close()
            assert children() <= before  # none is left

    return asyncio.run(run())


def test_samples_are_those_of_decode():
    async def use(pool, _):
        whole, part = await asyncio.gather(
            pool.decode(SONG), pool.decode(SONG, start_s=7.5, length_s=2.0)
        )
        expected = decode(SONG, sample_rate_hz=16_000).samples
        np.testing.assert_array_equal(whole.samples, expected)
        np.testing.assert_array_equal(part.samples, expected[120_000:152_000])

    with_pool(use)


def test_what_was_lost_is_told(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 320_000)
    soundfile.write(tmp_path / "x.flac", noise, 16_000)
    content = bytearray((tmp_path / "x.flac").read_bytes())
    content[200_000:230_000] = bytes(30_000)
    (tmp_path / "x.flac").write_bytes(content)
    limits = {"start_s": 0.0, "length_s": 0.0, "max_audio_s": 60.0, "cpu_s": 3e6}
    job = {"path": tmp_path / "x.flac", "sample_rate_hz": 16_000, "with_tags": False} | limits
    header, _ = decode_worker.answer(job)
    assert "is damaged" in header["notes"][0]


def test_letters_that_join_are_kept():
    title = "می\u200cخواهم 👩\u200d🎤"
    assert _plain_names({"title": f" {title} "}) == {"title": title}
    assert decode_worker.words(f"{title}\x9b") == title
    named = Upload(pathlib.Path("1"), {}, f"C:\\music\\{title}\u202e.mp3")
    assert file_stem(named) == title


def test_tags_where_they_are_asked_for(tmp_path):
    with soundfile.SoundFile(tmp_path / "tagged.flac", "w", 16_000, 1) as file:
        file.title = "Ein Lied"
        file.artist = "Jemand"
        file.write(np.full(16_000, 0.1))

    async def use(pool, _):
        assert (await pool.decode(tmp_path / "tagged.flac", with_tags=True)).tags == Tags(
            "Ein Lied", "Jemand", ""
        )
        assert (await pool.decode(tmp_path / "tagged.flac")).tags == Tags()

    with_pool(use)


def test_a_huge_tag_is_cut(tmp_path):
    title = b"Ein\tLied  " + b"la " * 1_000_000
    info = b"INFOINAM" + struct.pack("<I", len(title)) + title
    soundfile.write(tmp_path / "tagged.wav", np.full(16_000, 0.1), 16_000)
    sound = (tmp_path / "tagged.wav").read_bytes()[12:]
    body = b"WAVELIST" + struct.pack("<I", len(info)) + info + sound
    (tmp_path / "tagged.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)

    async def use(pool, _):
        decoded = await pool.decode(tmp_path / "tagged.wav", with_tags=True)
        assert (
            decoded.tags.title.startswith("Ein Lied la la")
            and 290 < len(decoded.tags.title) <= LONGEST_NAME
        )
        assert len(decoded.samples) == 16_000

    with_pool(use)


def test_errors_do_not_name_the_file(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF" + bytes(100))

    async def use(pool, _):
        with pytest.raises(DecodeError) as caught:
            await pool.decode(tmp_path / "bad.wav")
        assert str(tmp_path) not in str(caught.value)
        assert len((await pool.decode(SONG)).samples) > 400_000

    with_pool(use)


def test_a_decoder_that_dies_or_hangs_is_replaced():
    async def use(pool, processes):
        (first,) = processes
        os.kill(first, signal.SIGKILL)
        with pytest.raises(DecoderGoneError, match="ended its decoder"):
            await pool.decode(SONG)
        assert len((await pool.decode(SONG)).samples) > 400_000
        (second,) = {worker.pid for worker in pool._all}
        os.kill(second, signal.SIGSTOP)
        with pytest.raises(DecoderGoneError, match=r"within 6 s"):
            await pool.decode(SONG)

    with_pool(use, timeout_s=6.0)


def test_a_request_given_up_in_the_midst_of_an_answer(tmp_path, monkeypatch):
    """More has come than a pipe's reader takes unasked: the decoder is replaced all the same, and
    nothing waits for it.
    """
    soundfile.write(
        tmp_path / "long.wav",
        np.resize(decode(SONG, sample_rate_hz=16_000).samples, 39 * 16_000),
        16_000,
    )

    async def use(pool, _):
        ask = pool._ask
        has_begun = asyncio.Event()

        async def ask_and_stall(worker, job):
            worker.stdin.write(job)
            await worker.stdout.readuntil(b"\n")
            has_begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(pool, "_ask", ask_and_stall)
        request = asyncio.create_task(pool.decode(tmp_path / "long.wav"))
        await has_begun.wait()
        await asyncio.sleep(0.5)  # the rest of the answer comes as far as it may
        request.cancel()
        async with asyncio.timeout(30):
            with pytest.raises(asyncio.CancelledError):
                await request
        monkeypatch.setattr(pool, "_ask", ask)
        assert len((await pool.decode(SONG)).samples) > 400_000

    with_pool(use)


def test_a_decoder_that_cannot_be_replaced_is_tried_again(monkeypatch, caplog):
    """Where no process can be started for a while, the pool is not empty for ever."""
    monkeypatch.setattr(decoding, "_RETRY_S", 0.05)

    async def use(pool, processes):
        spawn = pool._spawn
        may_start = asyncio.Event()

        async def no_more():
            if not may_start.is_set():
                raise BlockingIOError("no more processes")
            await spawn()

        monkeypatch.setattr(pool, "_spawn", no_more)
        os.kill(processes.pop(), signal.SIGKILL)
        with pytest.raises(DecoderGoneError):
            await pool.decode(SONG)
        await asyncio.sleep(0.2)
        assert not pool.is_usable and "no more processes" in caplog.text
        may_start.set()
        async with asyncio.timeout(60):
            assert len((await pool.decode(SONG)).samples) > 400_000
        assert pool.is_usable

    with_pool(use)


def test_what_a_decoder_may():
    """No files, bounded memory, and as much processor time as a job is given."""

    async def use(pool, processes):
        (worker,) = processes
        await pool.decode(SONG)
        lines = pathlib.Path(f"/proc/{worker}/limits").read_text().splitlines()
        limits = {line[:26].strip(): line[26:47].strip() for line in lines[1:]}
        assert limits["Max file size"] == "0"
        assert int(limits["Max address space"]) == 3 << 30
        assert int(limits["Max cpu time"]) < 90

    with_pool(use)
