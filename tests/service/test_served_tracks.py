"""Tracks over HTTP: listed and played, added and removed at once, by the service or beside it."""

import concurrent.futures
import threading
import time

from running_service import KNOWN, MUSIC, UNKNOWN

import confp_jax
from confp_jax.database import StoredTrack
from confp_jax.database.names import folded
from confp_jax.service.app import _having


class TestTracks:
    def test_pages_and_search(self, client, valid):
        pages = [
            valid(client.get(f"/v1/tracks?limit=3&offset={offset}"))["tracks"]
            for offset in (0, 3, 6, 9)
        ]
        assert [track["track"] for page in pages for track in page] == [
            track["track"] for track in valid(client.get("/v1/tracks"))["tracks"]
        ]
        found = valid(client.get("/v1/tracks?search=BATTLE"))
        assert (found["total"], found["tracks"][0]["track"]) == (1, KNOWN[0])
        assert valid(client.get(f"/v1/tracks/{found['tracks'][0]['id']}")) == found["tracks"][0]

    def test_the_file_can_be_played_from_anywhere(self, client):
        track = client.get(f"/v1/tracks?search={KNOWN[0]}").json()["tracks"][0]
        whole = (MUSIC / f"{KNOWN[0]}.mp3").read_bytes()
        part = client.get(track["audio"], headers={"Range": "bytes=1000-1999"})
        assert (part.status_code, part.content) == (206, whole[1000:2000])

    def test_writing_needs_the_token(self, client, writer, valid):
        body = (MUSIC / f"{UNKNOWN}.mp3").read_bytes()
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic 0123456789abcdef-for-tests"},
        ):
            assert valid(client.post("/v1/tracks", content=body, headers=headers))["status"] == 401
            assert client.delete("/v1/tracks/1", headers=headers).status_code == 401

    def test_added_and_removed_at_once(self, client, writer, clips, valid):
        body = (MUSIC / f"{UNKNOWN}.mp3").read_bytes()
        query = clips["unknown"].read_bytes()
        made = writer.post(
            "/v1/tracks", params={"title": "The Protagonist", "artist": "Tim Beek"}, content=body
        )
        try:
            assert made.status_code == 201
            track = valid(made)
            assert (track["title"], track["artist"], track["audio"]) == (
                "The Protagonist",
                "Tim Beek",
                None,
            )
            assert made.headers["location"] == f"/v1/tracks/{track['id']}"
            found = client.post("/v1/identify?explain=1", content=query).json()
            assert (found["verdict"], found["matches"][0]["id"]) == ("match", track["id"])
            assert "not on this machine" in found["why"]["no_match_because"]
            again = writer.post("/v1/tracks", content=body)
            assert (again.status_code, again.json()["id"]) == (200, track["id"])
        finally:
            assert writer.delete(f"/v1/tracks/{track['id']}").status_code == 204
        assert writer.delete(f"/v1/tracks/{track['id']}").status_code == 404
        assert client.post("/v1/identify", content=query).json()["verdict"] == "unknown"

    def test_the_same_twice_at_once(self, writer, valid):
        """Of several that send the same, one is told that it was new."""
        body = (MUSIC / f"{UNKNOWN}.mp3").read_bytes()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: writer.post("/v1/tracks", content=body), range(4)))
        assert {valid(reply)["id"] for reply in made} == {(number := made[0].json()["id"])}
        assert writer.delete(f"/v1/tracks/{number}").status_code == 204
        assert sorted(reply.status_code for reply in made) == [200, 200, 200, 201]

    def test_adding_and_removing_while_others_ask(self, server, client, writer, clips):
        """A known clip is always right; a removed track is in no answer to what was asked after its
        204.
        """
        unknown = clips["unknown"].read_bytes()
        known = clips["known"].read_bytes()
        removed_at: dict[int, float] = {}
        done = threading.Event()

        def ask(body: bytes, right: str) -> int:
            num_asked = 0
            with server.client() as own:
                while not done.is_set():
                    asked_at = time.monotonic()
                    answer = own.post("/v1/identify", content=body).json()
                    accepted = answer["matches"][: answer["num_accepted"]]
                    assert {match["track"] for match in accepted} <= {right} and (
                        accepted or right == UNKNOWN
                    )
                    gone = {number for number, when in list(removed_at.items()) if when < asked_at}
                    assert not gone & {match["id"] for match in answer["matches"]}
                    num_asked += 1
            return num_asked

        body = (MUSIC / f"{UNKNOWN}.mp3").read_bytes()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asking = [
                pool.submit(ask, *what) for what in [(known, KNOWN[0]), (unknown, UNKNOWN)] * 2
            ]
            try:
                for _ in range(3):
                    made = writer.post("/v1/tracks", params={"name": UNKNOWN}, content=body)
                    number = made.json()["id"]
                    found = client.post("/v1/identify", content=unknown).json()
                    assert (made.status_code, found["verdict"], found["matches"][0]["id"]) == (
                        201,
                        "match",
                        number,
                    )
                    assert writer.delete(f"/v1/tracks/{number}").status_code == 204
                    removed_at[number] = time.monotonic()
                    assert (
                        client.post("/v1/identify", content=unknown).json()["verdict"] == "unknown"
                    )
            finally:
                done.set()
            assert all(future.result() > 0 for future in asking)

    def test_what_is_no_track(self, writer, clips, valid):
        for clip in ("silence", "short", "text"):
            assert (
                valid(writer.post("/v1/tracks", content=clips[clip].read_bytes()))["status"] == 422
            )
        assert (
            valid(writer.post("/v1/tracks?name=a%00b", content=clips["known"].read_bytes()))[
                "status"
            ]
            == 400
        )


def test_another_process_adds_while_it_serves(server, client, database, clips):
    """`confp add` and `confp remove` beside the service: seen within seconds."""
    library = confp_jax.open(database)
    library.add(MUSIC / f"{UNKNOWN}.mp3")
    query = clips["unknown"].read_bytes()

    def verdict(wanted: str) -> bool:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if client.post("/v1/identify", content=query).json()["verdict"] == wanted:
                return True
            time.sleep(0.3)
        return False

    try:
        assert verdict("match")
    finally:
        from confp_jax.database import Database
        from confp_jax.library.maintenance import remove

        remove(Database(database), [UNKNOWN])
    assert verdict("unknown")


def test_names_that_unicode_calls_equal_are_found():
    found = StoredTrack("Bjo\u0308rk", "/x", "", 3.0, 0, 1)
    assert _having([found], folded("BJÖRK")) == [found] and not _having([found], "bjork")
