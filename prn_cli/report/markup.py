"""Text and numbers as they may stand in the page."""

from __future__ import annotations

import base64
import html
import math

MINUS = "−"
NONE = "–"


def text(value: object) -> str:
    """Any text, a file name of hostile characters included, as it may stand in HTML and in a quoted attribute."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in plain), quote=True)


def name(value: object) -> str:
    """A file's name: as `text`, set apart from the direction of the text around it."""
    return f"<bdi>{text(value)}</bdi>"


def number(value: float, digits: int = 4, *, sign: bool = False) -> str:
    """A number of so many digits after the point, with a true minus; a dash where there is none."""
    if not math.isfinite(value):
        return NONE
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", MINUS)


def points(value: float) -> str:
    """A difference of two shares in points, signed."""
    return number(100 * value, 2, sign=True)


def count(value: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def place(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def data_uri(data: bytes, kind: str) -> str:
    """A file as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def table(heading: list[str], rows: list[list[str]], *, caption: str) -> str:
    """A table of cells that are HTML already; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heading)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table><caption class="unseen">'
        f"{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def numbers(heading: list[str], rows: list[list[str]], *, caption: str) -> str:
    """The numbers of a chart, behind a control."""
    return f"<details><summary>Numbers</summary>{table(heading, rows, caption=caption)}</details>"
