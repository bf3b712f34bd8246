"""stations.yaml: what is wrong is named with its line and its field."""

import pytest

from confp_jax.database import DatabaseError
from confp_jax.radio.stations import read_stations

GOOD = """\
database: music.db
stations:
  - name: One
    source: http://localhost:8000/one.mp3
  - name: Two
    source: recordings/two.flac
    begins: 2026-11-30T06:00:00+01:00
  - name: Three
    device: default
"""


def test_a_file(tmp_path):
    (tmp_path / "s.yaml").write_text(GOOD)
    radio = read_stations(tmp_path / "s.yaml")
    one, two, three = radio.stations
    assert radio.database == tmp_path / "music.db" and radio.log == tmp_path / "airplay"
    assert (one.is_file, two.is_file, three.is_file) == (False, True, False)
    assert two.source == str(tmp_path / "recordings/two.flac") and two.begins_s == 1_796_014_800.0


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("name: Two", "nam: Two", r"line 5: stations\[2\]\.nam: is no field; did you mean 'name'"),
        ("name: Two", "name: One", r"line 5: stations\[2\]\.name: 'One' is there twice"),
        ("name: Two", "name:", r"line 5: stations\[2\]\.name: expected a text"),
        ("    device: default\n", "", r"line 8: stations\[3\]\.source: give a `source` or a `dev"),
        ("2026-11-30T06:00:00+01:00", "soon", r"line 7: stations\[2\]\.begins: 'soon' is no date"),
        ("device: default", "silence_db: loud", r"line 9: .*silence_db: expected decibels below"),
        ("device: default", "silence_db: 3", r"line 9: .*silence_db: expected decibels from -120"),
        ("http:", "gopher:", r"line 4: stations\[1\]\.source: 'gopher://.*' is no address"),
        ("database: music.db\n", "", "line 1: database: is missing"),
        ("database: music.db", "database: music.db\ndatabase: x", "line 2: database: is there tw"),
        ("stations:\n", "agreeing: 0\nstations:\n", "line 2: agreeing: expected a whole number"),
        ("  - name: One", "  - name: [One", "line 3.*is no YAML|line 4.*is no YAML"),
        (GOOD, "[" * 20_000, "is no YAML"),
        (GOOD, "stations: none\ndatabase: x", "line 1: stations: expected a list of stations"),
        (GOOD, "just text", "line 1: the file: expected fields with values"),
        (GOOD, "", "is empty; it needs"),
    ],
)
def test_a_mistake(tmp_path, before, after, reason):
    (tmp_path / "s.yaml").write_text(GOOD.replace(before, after))
    with pytest.raises(DatabaseError, match=reason):
        read_stations(tmp_path / "s.yaml")


def test_a_missing_file_and_one_that_is_no_text(tmp_path):
    with pytest.raises(DatabaseError, match="cannot be read"):
        read_stations(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatabaseError, match="no UTF-8"):
        read_stations(tmp_path / "s.yaml")
