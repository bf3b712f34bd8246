"""Queries by vectors that a client computed: their answers, and what is refused."""

import concurrent.futures
import io
import re
import types

import hypothesis
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st
from running_service import KNOWN, MUSIC, ROOT, UNKNOWN, excerpt, start_server

import confp_jax
from confp_jax.config import ModelConfig
from confp_jax.fingerprint.embedder import HOP_S, Embedder, load_encoder
from confp_jax.fingerprint.query_rows import QueryRows, packed_rows
from confp_jax.service.browser import BrowserFiles, BrowserModelError
from confp_jax.service.settings import BROWSER_PACKAGE

PATH = "/v1/identify/fingerprints"
RATE = 16_000
MODEL = ROOT / "confp_jax" / "pretrained" / "edge2" / "edge2.onnx"


@pytest.fixture(scope="module")
def encoder() -> Embedder:
    return load_encoder("edge2", engine="onnx")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return excerpt(KNOWN[0], start_s=7.35, length_s=3.0, rate_hz=RATE)


def wav(clip: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, clip, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.fixture(scope="module")
def ask(encoder):
    """`ask(client, clip)`: asks about samples by their vectors alone; parameters may be changed."""

    def asked(client, clip: np.ndarray, rows: np.ndarray | None = None, **parameters):
        own = {"weights_hash": encoder.weights_hash, "num_samples": len(clip)}
        body = packed_rows(encoder.query(clip)) if rows is None else rows
        return client.post(PATH, params=own | parameters, content=body.tobytes())

    return asked


@pytest.mark.parametrize("length_s", [1.0, 1.03, 2.0, 2.4, 5.0, 20.0])
def test_rows_make_the_query_again(encoder, length_s):
    clip = excerpt(KNOWN[0], start_s=2.0, length_s=length_s, rate_hz=RATE).copy()
    clip[-RATE // 2 :] = 0
    expected = encoder.query(clip)
    rows = packed_rows(expected)
    assert set(np.abs(rows).max(axis=1)) <= {0, 127}
    wanted = QueryRows(len(clip), encoder.config, HOP_S)
    assert wanted.shape == rows.shape
    found = wanted.query(rows)
    for mine, theirs in ((found, expected), (found.by_conformer(), expected.by_conformer())):
        assert mine.duration_s == pytest.approx(theirs.duration_s)
        assert mine.is_partial == theirs.is_partial
        for name in ("vectors", "between", "edge_windows"):
            assert getattr(mine, name).shape == getattr(theirs, name).shape
            np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), atol=4e-3)
        assert (mine.sped_up is None) == (theirs.sped_up is None)
    assert bool(expected.by_conformer().sped_up) == (length_s < 2.4)
    first, whole = found.part(0, 1).by_conformer(), expected.by_conformer()
    np.testing.assert_allclose(first.vectors, whole.vectors[:1], atol=4e-3)


def test_a_model_of_one_part_has_no_rows():
    query = load_encoder("edge", engine="onnx").query(np.zeros(RATE, np.float32))
    with pytest.raises(ValueError, match="one part"):
        packed_rows(query)


class TestAnswers:
    @pytest.mark.parametrize(
        ("name", "length_s", "noise_db"),
        [(KNOWN[0], 5.0, 10.0), (KNOWN[3], 1.5, None), (KNOWN[4], 10.0, 0.0), (UNKNOWN, 6.0, None)],
    )
    def test_they_are_the_uploads(self, client, ask, valid, name, length_s, noise_db):
        options = {"start_s": 7.35, "length_s": length_s, "noise_db": noise_db, "rate_hz": RATE}
        clip = np.clip(excerpt(name, **options), -1, 1)
        upload = client.post("/v1/identify", content=wav(clip)).json()
        found = valid(ask(client, clip))
        for key in ("verdict", "num_accepted", "length_s", "notes"):
            assert found[key] == upload[key]
        for mine, theirs in zip(found["matches"][:1], upload["matches"][:1], strict=True):
            assert mine["track"] == theirs["track"]
            assert mine["offset_s"] == pytest.approx(theirs["offset_s"], abs=0.03)
            assert mine["score"] == pytest.approx(theirs["score"], abs=0.005)
            assert mine["confidence"] == pytest.approx(theirs["confidence"], abs=0.02)

    def test_a_long_recording_of_two_tracks(self, client, ask, valid):
        pieces = [excerpt(name, start_s=4.0, length_s=14.0, rate_hz=RATE) for name in KNOWN[1:3]]
        found = valid(ask(client, np.concatenate(pieces)))
        named = {match["track"] for match in found["matches"][: found["num_accepted"]]}
        assert named == set(KNOWN[1:3])

    def test_sound_that_begins_late(self, client, ask, valid):
        """Only the last window hears it, and none of those that are searched usually."""
        clip = np.zeros(19_200, np.float32)
        clip[14_400:] = np.random.default_rng(0).normal(scale=0.1, size=4_800)
        upload = client.post("/v1/identify", content=wav(clip))
        for reply in (upload, ask(client, clip)):
            assert (reply.status_code, reply.json()["verdict"]) == (200, "unknown"), reply.text

    def test_why_without_a_picture_of_what_was_heard(self, client, ask, valid):
        clip = excerpt(KNOWN[0], start_s=7.35, length_s=5.0, rate_hz=RATE)
        why = valid(ask(client, clip, explain="true"))["why"]
        assert why["query"] is None and why["match"]["num_bands"] == 80
        assert len(why["scores"]) == 5 and why["margin"] > 0.1

    def test_many_at_once(self, server, ask):
        clips = [excerpt(name, start_s=8.0, length_s=3.0, rate_hz=RATE) for name in KNOWN]
        with server.client() as shared, concurrent.futures.ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda clip: ask(shared, clip).json(), clips * 2))
        assert [one["matches"][0]["track"] for one in found] == list(KNOWN * 2)


class TestRefusals:
    @pytest.mark.parametrize(
        ("parameters", "status", "words"),
        [
            ({"weights_hash": "0" * 16}, 409, "the model of this service"),
            ({"weights_hash": ""}, 409, "the model of this service"),
            ({"num_samples": "1e5"}, 400, "num_samples is no number"),
            ({"num_samples": -48_000}, 400, "num_samples is no number"),
            ({"num_samples": 0}, 400, "num_samples is no number"),
            ({"num_samples": 61 * RATE}, 400, "from 1 to 960000"),  # --max-audio-s 60
            ({"num_samples": 10**30}, 400, "num_samples is no number"),
            ({"questions": 0}, 400, "questions is no number from 1 to 20"),
            ({"num_samples": 15_999}, 422, "too short"),
            ({"num_samples": 62_400}, 400, "66 vectors of 640"),
        ],
    )
    def test_what_the_address_says(self, client, ask, clip, valid, parameters, status, words):
        reply = ask(client, clip, **parameters)
        assert (reply.status_code, words in valid(reply)["detail"]) == (status, True), reply.text
        assert reply.json()["remedy"]

    def test_nothing_in_the_address(self, client, valid):
        for parameters in ({}, {"num_samples": 48_000}):
            reply = client.post(PATH, params=parameters, content=bytes(640))
            assert reply.status_code == 409 and valid(reply)

    def test_without_a_length(self, client, encoder, valid):
        parameters = {"weights_hash": encoder.weights_hash}
        reply = client.post(PATH, params=parameters, content=bytes(640))
        assert reply.status_code == 400
        assert "add it to the address" in valid(reply)["remedy"]

    def test_bodies_of_another_shape(self, client, ask, clip, encoder, valid):
        rows = packed_rows(encoder.query(clip))
        floats = rows.astype(np.float32)
        floats[0] = np.nan  # there is no such byte: four of them are of another size
        for body in (rows[:-1], rows.ravel()[:-1], np.concatenate([rows, rows[:1]]), floats):
            reply = ask(client, clip, body)
            assert reply.status_code == 400
            assert "48 vectors of 640" in valid(reply)["detail"]
        reply = ask(client, clip, np.zeros(0, np.int8))
        assert (reply.status_code, valid(reply)["detail"]) == (400, "the body is empty")
        reply = ask(client, clip, np.zeros(5 << 20, np.int8))  # --max-body-mib 4
        assert reply.status_code == 413 and valid(reply)

    def test_silence(self, client, ask, clip, valid):
        reply = ask(client, clip, np.zeros((48, 640), np.int8))
        assert reply.status_code == 422 and "silent" in valid(reply)["detail"]

    @hypothesis.settings(
        max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
    )
    @hypothesis.given(
        st.integers(16_000, 50_000),
        st.integers(0, 2**32 - 1),
        st.sampled_from([(-128, 128), (-1, 2), (-128, -127), (127, 128)]),
        st.floats(0, 1),
    )
    def test_any_bytes_are_answered(self, client, ask, encoder, num, seed, limits, loud):
        """Noise, ternary rows, constant ones, some of them silent: never a fault of the service."""
        rng = np.random.default_rng(seed)
        shape = QueryRows(num, encoder.config, HOP_S).shape
        rows = rng.integers(*limits, shape, dtype=np.int8)
        rows[rng.random(len(rows)) > loud] = 0
        reply = ask(client, np.zeros(num), rows)
        assert reply.status_code in (200, 422), reply.text
        if reply.status_code == 200:
            assert reply.json()["verdict"] == "unknown"

    def test_a_service_that_is_busy(self, database, tmp_path, ask, clip):
        """A client's requests count, whatever they carry."""
        server = start_server(database, tmp_path, "--rate", "6")
        try:
            with server.client() as client:
                statuses = [ask(client, clip).status_code for _ in range(3)]
            assert statuses == [200, 429, 429]
        finally:
            server.stop()

    def test_a_model_of_one_part(self, tmp_path, clip):
        database = tmp_path / "music.db"
        confp_jax.open(database, model="edge").add([MUSIC / f"{KNOWN[0]}.mp3"])
        server = start_server(database, tmp_path)
        try:
            with server.client() as client:
                assert client.get("/v1/model").json()["takes_fingerprints"] is False
                parameters = {"weights_hash": "x", "num_samples": len(clip)}
                reply = client.post(PATH, params=parameters, content=bytes(640))
            assert reply.status_code == 409
            assert reply.json()["remedy"] == "send the recording itself to /v1/identify"
        finally:
            server.stop()


class TestFilesForBrowsers:
    def test_what_the_model_is(self, client, encoder, valid):
        about = valid(client.get("/v1/model"))
        assert about["weights_hash"] == encoder.weights_hash
        assert (about["takes_fingerprints"], about["hop_s"]) == (True, HOP_S)
        assert about["max_audio_s"] == 60 and about["config"]["encoder"]["embedding_dim"] == 640
        assert str(MUSIC.parent) not in client.get("/v1/model").text

    def test_each_is_served_once(self, client):
        files = client.get("/v1/model").json()["files"]
        types = {"runtime": "text/javascript", "wasm": "application/wasm"}
        assert set(files) == {"runtime", "wasm", "model"}
        for what, place in files.items():
            first = client.get(f"/{place}")
            kind = types.get(what, "application/octet-stream")
            assert first.headers["content-type"].partition(";")[0] == kind
            assert first.headers["cache-control"] == "no-cache"
            for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
                again = client.get(f"/{place}", headers={"If-None-Match": known})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == first.headers["etag"]
        assert client.get(f"/{files['model']}").content == MODEL.read_bytes()

    def test_no_other_file_is(self, client):
        for name in ("..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "edge2.onnx", "package.json"):
            reply = client.get(f"/local/{name}")
            assert reply.status_code == 404, name
            assert reply.headers["content-type"] == "application/problem+json"

    def test_only_the_worker_may_run_wasm(self, client):
        policies = {
            path: client.get(path).headers["content-security-policy"]
            for path in ("/", "/page/page.js", "/page/local-worker.js", "/docs", "/v1/model")
        }
        assert [path for path, policy in policies.items() if "wasm" in policy] == [
            "/page/local-worker.js"
        ]
        assert not any("'unsafe-eval'" in policy for policy in policies.values())

    def test_the_package_has_one_version(self):
        for file in ("launch/browser_runtime.sh", "docs/music/anywhere.md"):
            assert set(re.findall(r"onnxruntime-web@[\d.]+", (ROOT / file).read_text())) == {
                BROWSER_PACKAGE
            }, file

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"config": ModelConfig()}, "has one part"),
            ({"name": str(MODEL.parent.parent)}, "has no ONNX file"),
            ({"weights_hash": "another"}, "has other weights"),
        ],
    )
    def test_models_that_browsers_cannot_run(self, encoder, changed, words):
        names = ("name", "config", "weights_hash")
        model = {name: getattr(encoder, name) for name in names} | changed
        with pytest.raises(BrowserModelError, match=words):
            BrowserFiles(MUSIC, types.SimpleNamespace(**model))
