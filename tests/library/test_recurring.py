import csv
import json
import pathlib

import numpy as np
import pytest
import soundfile

from confp_jax.database import Database, DatabaseError, ModelId
from confp_jax.library.recurring import (
    known_groups,
    opened_sources,
    recurring_messages,
    recurring_parts,
)

RATE = 16_000


@pytest.fixture
def season(music, tmp_path) -> pathlib.Path:
    """Three recordings with one opening of 6 s, in one of them after 3 s; and one without."""
    folder = tmp_path / "season"
    folder.mkdir()
    intro = music[: 6 * RATE]
    for number, lead_s in enumerate((0, 3, 0)):
        lead = music[(26 - lead_s) * RATE : 26 * RATE]
        rest = music[(8 + 4 * number) * RATE : (12 + 4 * number) * RATE]
        soundfile.write(folder / f"{number}.wav", np.concatenate([lead, intro, rest]), RATE)
    soundfile.write(folder / "other.wav", music[20 * RATE : 26 * RATE], RATE)
    return folder


def opened(sources, keep, checkpoint):
    return opened_sources(
        sources, keep=keep, model=str(checkpoint), report=lambda added, total: None
    )


def test_messages_are_grouped_and_kept(season, checkpoint, tmp_path):
    keep = tmp_path / "calls.db"
    with opened([season], keep, checkpoint) as (database, embedder, num_failed):
        (group,) = recurring_messages(database, embedder)
        assert (group.size, num_failed) == (3, 0)
        assert [pathlib.Path(place.path).name for place in group.places] == [
            "0.wav",
            "1.wav",
            "2.wav",
        ]
        asked = []
        again = recurring_messages(
            database, embedder, report=lambda done, total: asked.append(total)
        )
        assert (again, asked) == ([group], [])


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "7",
        "null",
        "{}",
        "[" * 100_000,
        '{"groups": 3, "last_id": 1}',
        '{"groups": [["a"]], "last_id": 1}',
        '{"groups": [[1, 2], [2]], "last_id": 9}',
        '{"groups": [], "last_id": NaN}',
    ],
)
def test_damaged_groups_are_found_again(text, tmp_path, caplog):
    database = Database.create(tmp_path / "db", ModelId("m", "0" * 16, 0.3))
    database.set_setting("recurring", text)
    assert known_groups(database) == ([], 0)
    assert caplog.text.count("all recordings are searched for again") == 1
    database.set_setting("recurring", '{"groups": [[1, 2], [5]], "last_id": 9}')
    assert known_groups(database) == ([[1, 2], [5]], 9)


def test_sections_have_their_places(season, checkpoint, tmp_path):
    with opened([season], None, checkpoint) as (database, embedder, _):
        groups = recurring_parts(database, embedder, shortest_s=4, longest_s=8)
        assert recurring_parts(database, embedder, shortest_s=9, longest_s=20) == []
    places = max(groups, key=lambda group: group.size).places
    assert [place.track for place in places] == ["0", "1", "2"]
    for place, begin_s in zip(places, (0, 3, 0), strict=True):
        assert (place.begin_s, place.end_s) == pytest.approx((begin_s, begin_s + 6), abs=1.5)


def test_a_database_among_folders_is_refused(db, season, checkpoint):
    with (
        pytest.raises(DatabaseError, match="name it alone"),
        opened([db.folder, season], None, checkpoint),
    ):
        pass


def test_the_command_writes_tables_and_lists(confp, season, checkpoint, tmp_path):
    out = tmp_path / "out"
    outputs = ("--edl", out, "--chapters", out, "--jellyfin", out, "--csv", tmp_path / "a.csv")
    lengths = ("--shortest", 4, "--longest", 8)
    status, groups, _ = confp(
        "recurring", season, "--model", checkpoint, *lengths, *outputs, "--json"
    )
    assert status == 0 and groups[0]["size"] == 3
    with open(tmp_path / "a.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["track"] for row in table if row["group"] == "1"] == ["0", "1", "2"]
    begin_s, end_s, action = (out / "1.edl").read_text().splitlines()[0].split("\t")
    assert (float(begin_s), float(end_s)) == pytest.approx((3, 9), abs=1.5)
    assert action == "3"
    assert (out / "1.chapters.txt").read_text().startswith(";FFMETADATA1\n[CHAPTER]\n")
    segments = json.loads((out / "0.segments.json").read_text())
    assert segments[0]["EndTicks"] == pytest.approx(6e7, abs=2e7)
