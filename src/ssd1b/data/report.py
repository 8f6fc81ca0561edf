"""What ingestion found, as one page that opens offline: counts, reasons, sizes, buckets, pictures.

Small pictures of a few samples for each reason are read from the source again; what is too large or cannot be
decoded is shown by its name only. No scripts, nothing loaded from elsewhere, no dates: same manifest and
source, same page. Does not know how anything was decided.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from ssd1b.base.errors import UserError
from ssd1b.data import pictures
from ssd1b.data.kept import FOLDER as KEPT
from ssd1b.data.manifest import ACCEPTED, DUPLICATE, QUARANTINED, Manifest
from ssd1b.data.sources import Source, Spec, open_source
from ssd1b.data.sources.archives import read_member

REPORT = "report.html"
SHOWN, THUMB_PX = 8, 112
MEANINGS = {
    "exact duplicate": "the same file again; the first is kept",
    "near duplicate": "another file of the same picture; the larger is kept",
    "undecodable": "no picture, or damaged beyond reading",
    "truncated": "the file ends too early",
    "too many pixels": f"more than {pictures.LARGEST_PX >> 20} Mi pixels; never decoded",
    "animated": "several frames",
    "too small": "its shorter side is below the limit",
    "extreme aspect": "more than a quarter would be cut off",
    "no caption": "none, or an empty one",
    "broken caption": "not UTF-8, or not JSON",
    "missing": "named in a caption file, not there",
    "unreadable": "the system refuses to read it",
    "grid of four": "a Midjourney grid, not an upscale",
}


def write_report(ingested: Manifest, batch: int = 32) -> None:
    """Write `report.html` beside the manifest. `batch`: for which batch size leftovers are counted."""
    page = html(ingested, batch)
    ingested.place.write(REPORT, page.encode())


def html(ingested: Manifest, batch: int) -> str:
    """The whole page."""
    style = (files("ssd1b.data") / "report.css").read_text(encoding="utf-8")
    body = "\n".join(_sections(ingested, batch))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Pictures ingested</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _sections(ingested: Manifest, batch: int) -> Iterator[str]:
    counts = ingested.counts()
    told = json.loads(ingested.place.read("manifest.json"))["source"]
    spec = Spec(**told["spec"])
    yield f"<h1>{int(str(counts['accepted'])):,} pictures to train on</h1>"
    yield f'<p class="lead">{escape(spec.root)}, read as {escape(spec.kind)} ({escape(spec.layout)}).</p>'
    names = ("found", "accepted", "duplicates", "quarantined")
    tiles = "".join(f'<div class="tile"><b>{int(str(counts[n])):,}</b><span>{n}</span></div>' for n in names)
    yield f'<div class="tiles">{tiles}</div>'
    yield from _buckets(ingested, batch)
    yield from _histograms(ingested)
    reader = _Reader(ingested, open_source(spec))
    for status, title in ((QUARANTINED, "Quarantined"), (DUPLICATE, "Duplicates")):
        yield from _reasons(ingested, status, title, reader)
    yield "<h2>Accepted, a few</h2>" + _gallery(_rows(ingested, ACCEPTED, ""), reader)
    facts = json.dumps(told, indent=1)
    yield f"<h2>Settings</h2><pre>{escape(facts)}</pre><p>Manifest SHA-256 {ingested.digest}</p>"


def _buckets(ingested: Manifest, batch: int) -> Iterator[str]:
    yield "<h2>Buckets</h2><p>Each batch is of one size. What does not fill one waits for the next epoch.</p>"
    rows = []
    for name, numbers in ingested.by_bucket().items():
        cells = (len(numbers), len(numbers) // batch, len(numbers) % batch)
        rows.append(f"<tr><td>{name}</td>{''.join(f'<td>{n:,}</td>' for n in cells)}</tr>")
    head = f"<tr><th>size</th><th>pictures</th><th>batches of {batch}</th><th>waiting</th></tr>"
    yield f"<table>{head}{''.join(rows)}</table>"


def _histograms(ingested: Manifest) -> Iterator[str]:
    table = ingested.accepted
    if not table.num_rows:
        return
    width, height = (table[name].to_numpy().astype(float) for name in ("width", "height"))
    scale = np.maximum(table["resized_width"].to_numpy() / width, table["resized_height"].to_numpy() / height)
    yield "<h2>Sizes</h2><div class='plots'>"
    yield _bars("shorter side, px", np.minimum(width, height))
    yield _bars("width / height", width / height)
    yield _bars("enlarged by", scale)
    for name in ("aesthetic", "nsfw", "similarity"):
        known = table[name].drop_null().to_numpy()
        if len(known):
            yield _bars(name, known)
    yield "</div>"


def _bars(title: str, values: np.ndarray, bins: int = 24) -> str:
    counts, edges = np.histogram(values, bins=bins)
    tall = max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{n * 10}" y="{100 - 100 * c / tall:.1f}" width="9" height="{100 * c / tall:.1f}">'
        f"<title>{edges[n]:.4g} to {edges[n + 1]:.4g}: {c}</title></rect>"
        for n, c in enumerate(counts.tolist())
    )
    ends = f"<span>{edges[0]:.4g}</span><span>{edges[-1]:.4g}</span>"
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {bins * 10} 100"'
        f' preserveAspectRatio="none">{bars}</svg><div class="ends">{ends}</div></figure>'
    )


def _reasons(ingested: Manifest, status: str, title: str, reader: _Reader) -> Iterator[str]:
    chosen = ingested.table.filter(pc.equal(ingested.table["status"], status))
    found = {each["values"]: each["counts"] for each in pc.value_counts(chosen["reason"]).to_pylist()}
    yield f"<h2>{title}</h2>" + ("" if found else "<p>None.</p>")
    for reason in sorted(found, key=lambda name: (-found[name], name)):
        meaning = escape(MEANINGS.get(reason, ""))
        yield f"<h3>{escape(reason)}: {found[reason]:,}</h3><p class='note'>{meaning}</p>"
        yield _gallery(_rows(ingested, status, reason), reader)


def _rows(ingested: Manifest, status: str, reason: str) -> list[dict[str, Any]]:
    table = ingested.table
    chosen = pc.and_(pc.equal(table["status"], status), pc.equal(table["reason"], reason))
    rows: list[dict[str, Any]] = table.filter(chosen).slice(0, SHOWN).to_pylist()
    return rows


def _gallery(rows: Sequence[dict[str, Any]], reader: _Reader) -> str:
    cells = []
    for row in rows:
        shown = reader.thumbnail(row)
        picture = f'<img alt="" src="{shown}">' if shown else '<div class="none">not shown</div>'
        beside = row["detail"] if not row["same_as"] else f"{row['detail']} as {row['same_as']}"
        size = f"{row['width']} × {row['height']} " if row["width"] else ""
        cells.append(
            f"<figure>{picture}<figcaption>{escape(row['key'])}<small>{size}{escape(beside)}</small>"
            "</figcaption></figure>"
        )
    return f'<div class="gallery">{"".join(cells)}</div>'


class _Reader:
    """Small pictures of samples, as data URLs."""

    def __init__(self, ingested: Manifest, source: Source) -> None:
        self.ingested, self.source = ingested, source

    def thumbnail(self, row: dict[str, Any]) -> str:
        """A picture of a sample; "" where there is none to show."""
        if not row["id"] or row["reason"] == "too many pixels":
            return ""
        try:
            data = self._bytes(str(row["locator"]))
            image, _ = pictures.upright_rgb(data)
        except (pictures.Unfit, UserError, OSError):
            return ""
        image.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"

    def _bytes(self, locator: str) -> bytes:
        if self.source.streams and locator.startswith(f"{KEPT}/"):
            return read_member(self.ingested.place, locator)
        return self.source.read(locator)
