"""The report's own parts: numbers as text, tables as Markdown and HTML, pictures."""

import base64
import re
from html.parser import HTMLParser

import pytest

from confp_jax.evaluation.measure.summary import Share
from confp_jax.evaluation.report import figures
from confp_jax.evaluation.report.html import Picture, Section, render
from confp_jax.evaluation.report.tables import Table, percent, with_interval

TABLE = Table("caption <1>", ("a|b", "<c>"), (("1 & 2", "x"), ("y|z", "")))


class Read(HTMLParser):
    """Collects cells, ids, links and images; fails where a tag is closed that is not open."""

    def __init__(self, page: str):
        super().__init__()
        self.open = []
        self.cells = []
        self.ids = []
        self.links = []
        self.images = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "section":
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0.983, 1, "98.3"), (0.0, 1, "0.0"), (1.0, 0, "100"), (0.00056, 2, "0.06")],
)
def test_percent(share, digits, text):
    assert percent(share, digits) == text


def test_an_interval_without_width_is_wilsons():
    assert with_interval(Share(0.9, (0.8, 0.95), (0.85, 0.94))) == "90.0 (85.0-94.0)"
    assert with_interval(Share(1.0, (0.97, 1.0), (1.0, 1.0))) == "100.0 (97.0-100.0)"


def test_a_table_as_markdown():
    """Every line has as many cells as there are columns, also where a cell holds a bar."""
    caption, empty, *lines = TABLE.markdown().splitlines()
    assert (caption, empty) == ("**caption <1>**", "")
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert [len(row) for row in cells] == [2, 2, 2, 2]
    assert [cell.strip().replace("\\|", "|") for cell in cells[3]] == ["y|z", ""]


def test_a_page_holds_what_it_was_given():
    """Signs that mean something in HTML are text again when they are read."""
    picture = Picture(b"\x89PNG...", 'a "picture"')
    sections = [Section("One & two", "text", [TABLE, picture], {"key": "<value>"}), Section("Last")]
    page = render("<title>", "lead", sections)
    read = Read(page)
    assert read.open == []
    assert read.cells == ["a|b", "<c>", "1 & 2", "x", "y|z", ""]
    assert read.links == [f"#{name}" for name in read.ids] and len(set(read.ids)) == 2
    (image,) = read.images
    assert image["alt"] == 'a "picture"'
    assert base64.b64decode(image["src"].split(",")[1]) == picture.png
    assert "&lt;value&gt;" in page and "<value>" not in page
    assert "http" not in page.replace("http-equiv", ""), "the page loads nothing from elsewhere"


def test_a_figure_is_the_same_bytes_again():
    def draw(figure, *, height):
        figure.add_subplot().bar(["a"], [height])

    first = figures.png(draw, height=1.0, size=(2, 2))
    assert first.startswith(b"\x89PNG") and first == figures.png(draw, height=1.0, size=(2, 2))
    assert first != figures.png(draw, height=2.0, size=(3, 2))
