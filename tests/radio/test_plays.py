"""Plays from answers: each once, whatever flickers, breaks off or starts again."""

import dataclasses

import pytest

from confp_jax.library.searcher import Match
from confp_jax.radio.plays import Plays, Sighting

STEP_S = 3.6


def seen(track: int, begin_s: float, end_s: float, offset_s: float = 0.0) -> Sighting:
    found = Match(
        f"track {track}", "", offset_s, 0.5, 0.9, 0.0, end_s - begin_s, 1.0, track, "", "", ""
    )
    return Sighting(found, begin_s, end_s)


def of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["event"] == kind]


class Heard:
    """A station that is heard step by step."""

    def __init__(self, agreeing: int = 2):
        self.plays = Plays("one", agreeing=agreeing)
        self.events: list[dict] = []
        self.now_s = 1_000.0

    def nothing(self, length_s: float, *, is_silent: bool = False) -> None:
        for _ in range(round(length_s / STEP_S)):
            self.now_s += STEP_S
            self.events += self.plays.hear(self.now_s, playing=[], is_silent=is_silent)

    def track(self, track: int, length_s: float, offset_s: float = 0.0) -> None:
        begin_s = self.now_s
        for _ in range(round(length_s / STEP_S)):
            self.now_s += STEP_S
            sight = seen(track, begin_s, self.now_s, offset_s)
            self.events += self.plays.hear(self.now_s, playing=[sight])


def test_a_play_is_told_when_answers_agree_and_when_it_is_over():
    heard = Heard()
    heard.track(1, 36.0, offset_s=7.0)
    assert [event["id"] for event in of(heard.events, "playing")] == [1]
    assert not of(heard.events, "play")
    heard.nothing(130.0)
    (play,) = of(heard.events, "play")
    assert play["at_s"] == 1_000.0 and play["played_s"] == pytest.approx(36.0)
    assert (play["first_s"], play["last_s"]) == pytest.approx((7.0, 43.0))
    assert play["gaps_s"] == [] and [e["event"] for e in heard.events][-2:] == ["unknown", "play"]


def test_one_answer_alone_changes_nothing():
    heard = Heard(agreeing=3)
    heard.track(1, 36.0)
    heard.track(2, 2 * STEP_S)
    heard.track(1, 36.0, offset_s=36.0 + 2 * STEP_S)
    heard.nothing(130.0)
    (play,) = of(heard.events, "play")
    assert play["id"] == 1 and play["gaps_s"] == [[36.0, 7.2]]
    assert play["played_s"] == pytest.approx(72.0)


def test_the_same_track_again_is_another_play():
    heard = Heard()
    heard.track(1, 36.0)
    heard.track(1, 36.0)
    heard.nothing(130.0)
    assert [event["at_s"] for event in of(heard.events, "play")] == pytest.approx(
        [1_000.0, 1_036.0]
    )


@pytest.mark.parametrize(("first_s", "then_s"), [(7.5, 3.6), (8.1, 1.5)])
def test_music_that_repeats_itself_is_one_play(first_s, then_s):
    heard = Heard()
    heard.track(1, 21.6, offset_s=first_s)
    heard.track(1, 10.8, offset_s=then_s)
    heard.nothing(130.0)
    (play,) = of(heard.events, "play")
    assert play["played_s"] == pytest.approx(32.4)


def test_a_passage_that_is_not_recognised_is_a_gap():
    heard = Heard()
    heard.track(1, 36.0)
    heard.nothing(79.2)
    heard.track(1, 36.0, offset_s=115.2)
    heard.nothing(130.0)
    (play,) = of(heard.events, "play")
    assert play["gaps_s"] == [[36.0, 79.2]] and play["played_s"] == pytest.approx(72.0)


def test_a_play_that_another_follows_is_over_sooner():
    heard = Heard()
    heard.track(1, 36.0)
    heard.track(2, 36.0)
    (play,) = of(heard.events, "play")
    assert play["id"] == 1


def test_a_beginning_that_is_heard_twice_at_once_is_one_play():
    """Its first bars repeat: two lines run through them at the same time."""
    heard = Heard()
    begin_s = heard.now_s
    for length_s in (8.0, 12.0, 36.0):
        heard.now_s = begin_s + length_s
        lines = [seen(1, begin_s + 4.0, begin_s + 8.0, 0.4)]
        lines += [seen(1, begin_s - 4.0, heard.now_s, 0.0)] if length_s > 8.0 else []
        heard.events += heard.plays.hear(heard.now_s, playing=lines)
    heard.nothing(130.0)
    (play,) = of(heard.events, "play")
    assert play["played_s"] == pytest.approx(40.0)


def test_a_beginning_that_is_heard_later_again_is_one_play():
    """The same with the longer line first."""
    heard = Heard()
    begin_s = heard.now_s
    for length_s in (8.0, 12.0, 36.0):
        heard.now_s = begin_s + length_s
        lines = [seen(1, begin_s - 4.0, begin_s + length_s, 0.0)]
        lines += [seen(1, begin_s + 5.0, begin_s + 8.0, 0.4)] if length_s == 8.0 else []
        heard.events += heard.plays.hear(heard.now_s, playing=lines)
    heard.nothing(130.0)
    assert len(of(heard.events, "play")) == 1


def test_silence_is_a_state():
    heard = Heard()
    heard.nothing(20.0)
    heard.nothing(20.0, is_silent=True)
    heard.track(1, 20.0)
    states = [event["event"] for event in heard.events]
    assert states == ["unknown", "silence", "playing"]
    first_s = [1_000.0 + STEP_S, 1_000.0 + 7 * STEP_S]  # of the answers that agree
    assert [event["at_s"] for event in heard.events[:2]] == pytest.approx(first_s)


def test_a_play_goes_on_after_the_stream_broke_off():
    heard = Heard()
    heard.track(1, 36.0)
    heard.now_s += 90.0  # nothing is heard, and no answer is given
    heard.plays.resume(heard.now_s)
    heard.nothing(14.4)
    heard.track(1, 36.0, offset_s=36.0 + 90.0 + 14.4)
    heard.nothing(130.0)
    (play,) = of(heard.events, "play")
    assert play["played_s"] == pytest.approx(72.0) and play["gaps_s"] == [[36.0, 104.4]]


def test_another_part_of_the_track_after_a_while_is_another_play():
    heard = Heard()
    heard.track(1, 36.0)
    heard.now_s += 40.0
    heard.plays.resume(heard.now_s)
    heard.track(1, 36.0, offset_s=200.0)
    heard.nothing(130.0)
    assert [event["first_s"] for event in of(heard.events, "play")] == pytest.approx([0.0, 200.0])


def test_a_play_has_its_best_score():
    plays = Plays("one", agreeing=1)
    for begin_s, score in ((0.0, 0.7), (STEP_S, 0.4)):
        sight = seen(1, begin_s, begin_s + STEP_S, begin_s)
        found = dataclasses.replace(sight.found, score=score, confidence=score)
        plays.hear(begin_s + STEP_S, playing=[dataclasses.replace(sight, found=found)])
    (play,) = plays.open
    assert (play.score, play.confidence) == (0.7, 0.7)


def test_another_play_after_the_stream_broke_off():
    heard = Heard()
    heard.track(1, 36.0)
    heard.now_s += 90.0
    heard.plays.resume(heard.now_s)
    heard.track(2, 36.0)
    heard.nothing(130.0)
    assert [event["id"] for event in of(heard.events, "play")] == [1, 2]
