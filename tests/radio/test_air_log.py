"""The log of plays: once each, whatever instant the program is killed at."""

import csv
import dataclasses
import json

import pytest

from confp_jax.database import DatabaseError
from confp_jax.library.clock import iso
from confp_jax.library.searcher import Match
from confp_jax.radio import reports
from confp_jax.radio.air_log import AirLog, read_events
from confp_jax.radio.plays import Plays, Sighting
from confp_jax.radio.plays import read_plays as plays_of
from confp_jax.radio.reports import Service, read_plays, write_reports

AT_S = 1_764_500_000.0  # 2025-11-30
DAY = iso(AT_S)[:10]
TRACK = dict.fromkeys(("title", "artist", "album", "album_artist", "label", "isrc"), "") | {
    "id": 7,
    "track": "seven",
}


def play(number: int, **changes) -> dict:
    at_s = AT_S + 300 * number
    times = {"at_s": at_s, "ended_s": at_s + 180.0, "first_s": 1.0, "last_s": 181.0}
    heard = {"played_s": 180.0, "gaps_s": [], "tempo": 1.0, "score": 0.5, "confidence": 0.9}
    return {"event": "play", "play": f"one {number}"} | TRACK | times | heard | changes


def test_an_event_is_written_once_also_by_the_next_start(tmp_path):
    log = AirLog(tmp_path)
    assert len(log.write("one", [play(0), play(0)])) == 1
    again = AirLog(tmp_path)
    assert again.write("one", [play(0)]) == []
    assert len(again.write("two", [play(0)])) == 1
    assert [event["station"] for event in read_events(tmp_path / f"{DAY}.jsonl")] == ["one", "two"]


def test_half_a_line_is_what_a_kill_left_and_is_written_again(tmp_path):
    AirLog(tmp_path).write("one", [play(0), play(1)])
    path = tmp_path / f"{DAY}.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    log = AirLog(tmp_path)
    assert log.write("one", [play(0)]) == [] and len(log.write("one", [play(1)])) == 1
    assert [event["play"] for event in read_events(path)] == ["one 0", "one 1"]


def test_what_is_under_way_is_kept(tmp_path):
    log = AirLog(tmp_path)
    log.save("Rädio / 1", {"state": "playing"})
    assert AirLog(tmp_path).load("Rädio / 1") == {"state": "playing"}
    assert log.load("other") == {}


def test_names_that_look_alike_in_a_file_s_name_are_kept_apart(tmp_path):
    log = AirLog(tmp_path)
    names = ["Radio 1", "Radio_1", "Radio 1!", "!", "?", "радио"]
    for number, name in enumerate(names):
        log.save(name, {"station": name, "number": number})
    assert [log.load(name)["number"] for name in names] == list(range(6))


def test_the_reports(tmp_path):
    log = AirLog(tmp_path)
    named = {"title": "A | B", "artist": "C", "label": "L", "isrc": "DEABC9400001", "album": "D^E"}
    log.write("one", [play(0, **named), play(1, **named), play(2, id=8, track="eight")])
    log.write("two", [play(0)])
    written = write_reports(tmp_path, DAY, tmp_path / "out", Service("My Radio", "A"))
    assert {path.name for path in written} == {
        f"{DAY}-{name}" for name in
        ("plays.csv", "gema.csv", "prs.csv", "sums.csv", "soundexchange.txt", "one.cue", "two.cue")
    }  # fmt: skip

    def table(name: str) -> list[dict]:
        with open(tmp_path / "out" / f"{DAY}-{name}.csv", newline="") as file:
            return list(csv.DictReader(file))

    assert [row["track"] for row in table("plays")] == ["seven", "seven", "eight", "seven"]
    assert table("gema")[0]["Spieldauer"] == "00:03:00" and table("gema")[0]["Titel"] == "A | B"
    year, month, day = DAY.split("-")
    assert table("gema")[0]["Sendedatum"] == f"{day}.{month}.{year}"
    first, second = (row["Sendezeit"].split(":") for row in table("gema")[:2])
    assert (int(second[1]) - int(first[1])) % 60 == 5, "five minutes later"
    assert table("prs")[0]["NUMBER OF PLAYS"] == "2" and table("prs")[0]["DURATION"] == "00:03:00"
    assert [(r["station"], r["plays"], r["played_s"]) for r in table("sums")] == [
        ("one", "2", "360.0"), ("one", "1", "180.0"), ("two", "1", "180.0")
    ]  # fmt: skip
    rou = (tmp_path / "out" / f"{DAY}-soundexchange.txt").read_text().splitlines()
    assert rou[0].startswith("NAME_OF_SERVICE|TRANSMISSION_CATEGORY|FEATURED_ARTIST|")
    assert rou[1] == "^My Radio^|^A^|^C^|^A / B^|^DEABC9400001^|^D'E^|^L^|||^one^|2"
    cue = (tmp_path / "out" / f"{DAY}-one.cue").read_text()
    assert cue.count("INDEX 01") == 3 and "ISRC DEABC9400001" in cue


def test_a_day_without_a_log(tmp_path):
    AirLog(tmp_path)
    with pytest.raises(DatabaseError, match="has no log of 2025-01-01"):
        read_plays(tmp_path, "2025-01-01")


def test_a_play_that_a_kill_left_under_way_is_in_the_report(tmp_path):
    plays = Plays("one", agreeing=1)
    found = Match("t", "", 0.0, 0.5, 0.9, 0.0, 30.0, 1.0, 3, "", "", "")
    (told, *_) = plays.hear(AT_S + 30.0, playing=[Sighting(found, AT_S, AT_S + 30.0)])
    log = AirLog(tmp_path)
    log.write("one", [told])
    log.save("one", {"station": "one", "plays": [dataclasses.asdict(p) for p in plays.open]})
    assert [play["played_s"] for play in read_plays(tmp_path, DAY)] == [30.0]
    log.write("one", plays.end())  # killed before its state was saved
    assert [play["played_s"] for play in read_plays(tmp_path, DAY)] == [30.0]


def test_the_artist_is_the_albums_where_the_track_has_none(tmp_path):
    log = AirLog(tmp_path)
    log.write("one", [play(0, album_artist="Various")])
    write_reports(tmp_path, DAY, tmp_path / "out", Service("S"))
    with open(tmp_path / "out" / f"{DAY}-gema.csv", newline="") as file:
        assert [row["Interpret"] for row in csv.DictReader(file)] == ["Various"]


@pytest.mark.parametrize(
    ("clock", "band"),
    [
        ("00:00", "00:00-05:59"),
        ("05:59", "00:00-05:59"),
        ("06:00", "06:00-11:59"),
        ("17:59", "12:00-17:59"),
        ("18:00", "18:00-23:59"),
    ],
)
def test_the_band_of_the_day(clock, band):
    event = play(0) | {"station": "one", "at": f"{DAY}T{clock}:00.000+01:00"}
    ((_, _, found, *_),) = reports._prs_rows([event])
    assert found == band


def test_a_line_that_is_no_event_is_passed_over(tmp_path):
    AirLog(tmp_path).write("one", [play(0)])
    path = tmp_path / f"{DAY}.jsonl"
    path.write_text("rubbish\n" + json.dumps([1]) + "\n" + path.read_text())
    assert len(read_plays(tmp_path, DAY)) == 1
    path.write_text('{"event": "play", "station": "one", "at": 5}\n' + path.read_text())
    path.write_text('{"event": "play", "station": "one", "at": "2025-11-30"}\n' + path.read_text())
    assert len(read_plays(tmp_path, DAY)) == 1


def test_a_damaged_state_costs_itself_alone(tmp_path):
    log = AirLog(tmp_path)
    log.write("one", [play(0)])
    for station, text in (("a", b"[1]"), ("b", b"\xff"), ("c", b'{"station": "c", "plays": [3]}')):
        (tmp_path / "under way" / f"{station}.json").write_bytes(text)
    assert log.load("a") == log.load("b") == {}
    assert plays_of(log.load("c")["plays"]) == []
    assert len(read_plays(tmp_path, DAY)) == 1


def test_names_that_are_no_utf_8_or_steer(tmp_path):
    log = AirLog(tmp_path / "log")
    log.save("one", {"station": "one", "path": "caf\udce9"})
    log.write("one", [play(0, title="\u202etxt\x1b[31m", artist="caf\udce9")])
    written = write_reports(tmp_path / "log", DAY, tmp_path / "out", Service("S"))
    assert any("caf" in path.read_text() for path in written)
    for path in written:
        assert not {"\u202e", "\x1b", "\udce9"} & set(path.read_text())


def test_a_sheet_holds_99_tracks(tmp_path):
    log = AirLog(tmp_path / "log")
    log.write("one", [play(number) for number in range(100)])
    written = write_reports(tmp_path / "log", DAY[:7], tmp_path / "out", Service("S"))
    counts = {p.name: p.read_text().count("TRACK ") for p in written if p.suffix == ".cue"}
    assert counts == {f"{DAY[:7]}-one.cue": 99, f"{DAY[:7]}-one.2.cue": 1}
