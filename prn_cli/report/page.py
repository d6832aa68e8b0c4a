"""The page around the sections: one file that asks nothing of the network, nor of any framework."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from prn_cli import __version__
from prn_cli.report.markup import name, text

MARKER = '<meta name="generator" content="prn '
"""Near the beginning of every page: tells a report from another file."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        key: its address in the page.
        title: its heading.
        body: HTML.
    """

    key: str
    title: str
    body: str


def render(
    title: str, lead: str, sections: Sequence[Section], *, failures: Sequence[tuple[str, str]] = (), notes: str = ""
) -> str:
    """Put a page together.

    Args:
        title: of the page, plain text.
        lead: what it is about, HTML.
        sections: its parts, in order; those without a body are left out.
        failures: files that are not in it, and why; plain text.
        notes: how the figures are made, HTML.
    """
    style, script = (resources.files("prn_cli.report").joinpath(f"page.{kind}").read_text("utf-8") for kind in _KINDS)
    # Even if a hostile name got through, the browser would run no script but this one, and load nothing.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    present = [section for section in sections if section.body]
    links = "".join(f'<li><a href="#{section.key}">{section.title}</a></li>' for section in present)
    parts = "".join(
        f'<section id="{s.key}" aria-labelledby="{s.key}-title"><h2 id="{s.key}-title">{s.title}</h2>{s.body}</section>'
        for s in present
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{MARKER}{__version__}">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the figures</a>\n'
        f"<header><div><h1>{text(title)}</h1>"
        '<button type="button" id="theme" hidden>Theme: <span>auto</span></button></div>'
        f'<div class="lead">{lead}</div><nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f'<main id="main" tabindex="-1">{parts}{_failed(failures)}</main>\n'
        f"<footer>{notes}<p>Made by prn {__version__}. This page is complete in itself.</p></footer>\n"
        f"{_DIALOG}<script>{script}</script>\n</body>\n</html>\n"
    )


_KINDS = ("css", "js")

_DIALOG = """<dialog id="viewer" aria-labelledby="viewer-title">
<div class="bar"><h2 id="viewer-title"></h2><button type="button" id="viewer-close">Close</button></div>
<p id="viewer-line"></p>
<div class="stage"><img id="viewer-image" alt=""></div>
<p id="viewer-legend"></p>
<div class="bar"><button type="button" data-step="-1,0" aria-label="Previous image">↑ image</button>
<button type="button" data-step="0,-1" aria-label="Previous panel">← panel</button>
<span id="viewer-place" aria-live="polite"></span>
<button type="button" data-step="0,1" aria-label="Next panel">panel →</button>
<button type="button" data-step="1,0" aria-label="Next image">image ↓</button></div>
</dialog>
"""


def _failed(failures: Sequence[tuple[str, str]]) -> str:
    if not failures:
        return ""
    rows = "".join(f"<li>{name(path)}: {text(cause)}</li>" for path, cause in failures)
    many = f"{len(failures)} file{'s' if len(failures) > 1 else ''} could not be used"
    return (
        f'<section id="failures" aria-labelledby="failures-title"><h2 id="failures-title">{many}</h2>'
        f"<ul>{rows}</ul></section>"
    )
