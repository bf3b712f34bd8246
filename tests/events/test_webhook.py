"""Webhooks: signed, in order, once each, also after failures, a restart and too many events."""

import http.server
import json
import threading

import pytest

from confp_jax.database import DatabaseError
from confp_jax.events import webhook
from confp_jax.events.outbox import Outbox
from confp_jax.events.webhook import Webhook, signature


class Receiver:
    """A web server that refuses the first requests."""

    def __init__(self, refusals: int = 0):
        self.got: list[tuple[dict, bytes]] = []
        self.enough = threading.Event()
        self.wanted = 1
        answers = [500] * refusals

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(inner) -> None:
                body = inner.rfile.read(int(inner.headers["Content-Length"]))
                code = answers.pop() if answers else 204
                if code == 204:
                    self.got.append((dict(inner.headers), body))
                inner.send_response(code)
                inner.end_headers()
                if len(self.got) >= self.wanted:
                    self.enough.set()

            def log_message(self, *_) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receive():
    made: list[Receiver] = []

    def make(refusals: int = 0) -> Receiver:
        made.append(Receiver(refusals))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_signed_in_order_and_tried_again(receive, tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "_FIRST_WAIT_S", 0.05)
    receiver = receive(refusals=2)
    receiver.wanted = 3
    hook = Webhook(receiver.address, Outbox(tmp_path / "q"), secret=b"secret")
    for number in range(3):
        hook.report({"event": "playing", "number": number, "track": "Ö"})
    hook.report({"event": "level", "level_db": -20.0})
    assert receiver.enough.wait(20)
    hook.close()
    assert [json.loads(body)["number"] for _, body in receiver.got] == [0, 1, 2]
    headers, body = receiver.got[0]
    assert headers["X-Confp-Signature"] == signature(b"secret", headers["X-Confp-Timestamp"], body)
    assert signature(b"other", headers["X-Confp-Timestamp"], body) != headers["X-Confp-Signature"]


def test_what_waits_is_sent_after_a_restart(receive, tmp_path):
    away = Webhook("http://127.0.0.1:9/", Outbox(tmp_path / "q"))
    away.report({"event": "playing", "number": 1})
    away.close(wait_s=0.0)
    receiver = receive()
    hook = Webhook(receiver.address, Outbox(tmp_path / "q"))
    assert receiver.enough.wait(20)
    hook.close()
    assert not list((tmp_path / "q").iterdir())


def test_the_queue_is_bounded_and_keeps_the_newest(tmp_path):
    box = Outbox(tmp_path / "q", most=3)
    for number in range(5):
        box.put({"number": number})
    again = Outbox(tmp_path / "q", most=3)
    assert len(again) == 3 and box.num_dropped == 2
    again.put({"number": 5})  # after those that wait, also for the next process
    left = Outbox(tmp_path / "q", most=3)
    found = []
    while event := left.oldest():
        found.append(event[1]["number"])
        left.done(event[0])
    assert found == [3, 4, 5]


def test_a_damaged_file_of_the_queue_is_passed_over(tmp_path):
    box = Outbox(tmp_path / "q")
    box.put({"number": 1})
    box.put({"number": 2})
    next(iter(sorted((tmp_path / "q").iterdir()))).write_text("{")
    first = Outbox(tmp_path / "q").oldest()
    assert first is not None and first[1] == {"number": 2}


def test_processes_that_share_a_queue_lose_nothing(tmp_path):
    one = Outbox(tmp_path / "q")
    other = Outbox(tmp_path / "q")
    for box in (one, other):
        box.put({"event": "match", "path": "caf\udce9"})  # of a file whose name is no UTF-8
    (tmp_path / "q" / "half.json.part").write_text("{")  # another process writes it now
    assert len(Outbox(tmp_path / "q")) == 2 and (tmp_path / "q" / "half.json.part").exists()


def test_no_address(tmp_path):
    with pytest.raises(DatabaseError, match="is no address of a webhook"):
        Webhook("example.org", Outbox(tmp_path / "q"))
