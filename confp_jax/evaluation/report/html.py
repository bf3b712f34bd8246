"""One self-contained HTML file: tables beside the paper's, figures, failures, environment and
command. No network, no script.
"""

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence

from confp_jax.evaluation.report.tables import Table

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.5rem;
border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem; }
.caption { font-weight: 600; margin: 1.5rem 0 .25rem; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
white-space: nowrap; }
td:last-child { white-space: normal; min-width: 6rem; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
tbody tr:nth-child(odd) { background: var(--soft); }
td:first-child, th:first-child { position: sticky; left: 0; background: Canvas; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; background: white; }
figcaption { font-size: .9rem; } code,
pre { font-size: .85rem; overflow-wrap: anywhere; white-space: pre-wrap; }
nav a { margin-right: .8rem; }
@media (max-width: 40rem) { body { padding: .6rem; } th,
td { padding: .2rem .35rem; font-size: .75rem; } }
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG with the words below it."""

    png: bytes
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, words, and what follows them."""

    title: str
    text: str = ""
    parts: Sequence[Table | Picture] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Returns the whole page."""
    links = "".join(f'<a href="#{_anchor(s.title)}">{html.escape(s.title)}</a> ' for s in sections)
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(lead)}</p>\n<nav>{links}</nav>\n"
        f"{body}\n</body></html>\n"
    )


def _section(section: Section) -> str:
    lines = [f'<section id="{_anchor(section.title)}"><h2>{html.escape(section.title)}</h2>']
    if section.text:
        lines.append(f"<p>{html.escape(section.text)}</p>")
    lines += [_table(part) if isinstance(part, Table) else _picture(part) for part in section.parts]
    if section.facts:
        facts = ((html.escape(name), html.escape(value)) for name, value in section.facts.items())
        cells = "".join(
            f"<dt><b>{name}</b></dt><dd><code>{value}</code></dd>" for name, value in facts
        )
        lines.append(f"<dl>{cells}</dl>")
    return "\n".join([*lines, "</section>"])


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    caption = html.escape(
        table.caption
    )  # outside: what scrolls sideways on a phone must not take it along
    inside = f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody>"
    return (
        f'<p class="caption">{caption}</p><div class="wide"><table '
        f'aria-label="{caption}">{inside}</table></div>'
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    caption = html.escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" '
        f'src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())
