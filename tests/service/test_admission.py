"""Who is let in: turns that are fair, and clients that ask too often."""

import asyncio
import contextlib

import pytest

from confp_jax.service.admission import Gate, RateLimit, client_of
from confp_jax.service.problems import Problem


class Crowd:
    """Requests at a gate; `order` is who was let in, `refused` who was not."""

    def __init__(self, gate: Gate):
        self._gate = gate
        self._open = asyncio.Event()
        self.order: list[str] = []
        self.refused: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def comes(self, *clients: str) -> None:
        for client in clients:
            self._tasks.append(asyncio.create_task(self._ask(client)))
            await asyncio.sleep(0)

    async def _ask(self, client: str) -> None:
        try:
            async with self._gate.enter(client):
                self.order.append(client)
                await self._open.wait()
                await asyncio.sleep(0)
        except Problem:
            self.refused.append(client)

    async def leaves(self, place: int) -> None:
        self._tasks[place].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tasks[place]

    async def leave_at_once(self, *places: int) -> None:
        for place in places:
            self._tasks[place].cancel()
        await asyncio.gather(*(self._tasks[place] for place in places), return_exceptions=True)

    async def finish(self) -> None:
        self._open.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def test_clients_have_their_turns_one_after_the_other():
    async def run() -> Crowd:
        crowd = Crowd(Gate(max_running=1, max_waiting=9))
        await crowd.comes("a", "a", "a", "a", "b", "c", "b")
        await crowd.finish()
        return crowd

    crowd = asyncio.run(run())
    assert "".join(crowd.order) == "aabcaba" and not crowd.refused


def test_a_full_queue_has_room_for_another_client_and_none_for_the_same():
    async def run() -> Crowd:
        gate = Gate(max_running=1, max_waiting=3)
        crowd = Crowd(gate)
        await crowd.comes("a", "a", "a", "a", "a", "b", "c", "b")
        assert gate.num_inside == 4
        await crowd.finish()
        assert gate.num_inside == 0
        return crowd

    crowd = asyncio.run(run())
    assert crowd.refused == ["a", "a", "a", "b"] and sorted(crowd.order) == ["a", "a", "b", "c"]


@pytest.mark.parametrize("places", [(0, 1), (1, 0), (0, 1, 2), (0, 1, 2, 3)])
def test_requests_whose_time_ends_at_one_moment_keep_no_place(places):
    """A loaded service: what runs and what waits end in the same turn of the event loop."""

    async def run() -> tuple[Gate, Crowd]:
        gate = Gate(max_running=1, max_waiting=9)
        crowd = Crowd(gate)
        await crowd.comes("a", "a", "b", "b", "c")
        await crowd.leave_at_once(*places)
        assert gate.num_inside == 5 - len(places)
        await crowd.finish()
        await crowd.comes("late")
        return gate, crowd

    gate, crowd = asyncio.run(run())
    assert gate.num_inside == 0 and crowd.order[-1] == "late" and not crowd.refused


def test_one_that_gives_way_may_have_hung_up_just_then():
    async def run() -> tuple[Gate, Crowd]:
        gate = Gate(max_running=1, max_waiting=3)
        crowd = Crowd(gate)
        await crowd.comes("a", "a", "a", "a")
        newest = asyncio.create_task(crowd._ask("b"))
        crowd._tasks[3].cancel()
        await asyncio.gather(crowd._tasks[3], return_exceptions=True)
        await crowd.finish()
        await newest
        return gate, crowd

    gate, crowd = asyncio.run(run())
    assert gate.num_inside == 0 and sorted(crowd.order) == ["a", "a", "a", "b"]


def test_one_that_hangs_up_leaves_its_place_whenever_that_is():
    async def run() -> tuple[Gate, Crowd]:
        gate = Gate(max_running=1, max_waiting=9)
        crowd = Crowd(gate)
        await crowd.comes("a", "a", "b")
        await crowd.leaves(1)
        assert gate.num_inside == 2
        await crowd.leaves(0)
        await crowd.finish()
        return gate, crowd

    gate, crowd = asyncio.run(run())
    assert crowd.order == ["a", "b"] and gate.num_inside == 0


def test_a_client_may_ask_so_often_and_others_do_not_pay_for_it():
    now = [0.0]
    limit = RateLimit(60, clock=lambda: now[0])
    for _ in range(10):
        limit.check("a")
    with pytest.raises(Problem) as refused:
        limit.check("a")
    assert refused.value.status == 429 and refused.value.headers == {"Retry-After": "1"}
    limit.check("b")
    now[0] = 1.0
    limit.check("a")
    with pytest.raises(Problem):
        limit.check("a")
    now[0] = 3_600.0  # a long silence saves up no more than ten
    for _ in range(10):
        limit.check("a")
    with pytest.raises(Problem):
        limit.check("a")


def test_clients_that_are_silent_again_are_forgotten(monkeypatch):
    now = [0.0]
    limit = RateLimit(60, clock=lambda: now[0])
    monkeypatch.setattr("confp_jax.service.admission._MOST_CLIENTS", 100)
    for number in range(1000):
        now[0] += 1.0
        limit.check(str(number))
    assert len(limit._left) <= 101


def test_no_limit_counts_nothing():
    limit = RateLimit(0)
    for _ in range(1000):
        limit.check("a")
    assert not limit._left


def test_an_ipv6_subscriber_is_one_client():
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1") != client_of("2001:db8:0:1::1")
    assert client_of("192.0.2.1") == "192.0.2.1" and client_of("testclient") == "testclient"
