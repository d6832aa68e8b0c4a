"""One HTML page a run, complete in itself: figures with intervals, pictures, maps and curves.

`ScoreReport` and `HeadroomReport` look at the maps of a run and write the page. An image is looked at band by band
(`Viewer`), and leaves a `Glimpse`: pictures of 256 px and counts. `Totals` gathers them. When all are there, the images
that are shown at first are opened once more, for crops where most pixels changed (`zoom`).

- `builder`: files to a page
- `shrinking`, `glimpses`, `class_glimpses`, `totals`: what is kept of an image, and of a set
- `crops`: which parts of an image are shown at full resolution
- `gallery`, `curves`, `charts`, `colours`: the parts of a page, ready to be drawn
- `scored`, `headroom`: the two pages
- `page`, `templates`: values to HTML
"""

from __future__ import annotations

from prn_cli.report.builder import HeadroomReport, ScoreReport
from prn_cli.report.glimpses import Glimpse, Prediction, Viewer
from prn_cli.report.headroom import Choice, Searched, headroom_page
from prn_cli.report.scored import Scored, score_page
from prn_cli.report.totals import Totals

__all__ = [
    "Choice",
    "Glimpse",
    "HeadroomReport",
    "Prediction",
    "ScoreReport",
    "Scored",
    "Searched",
    "Totals",
    "Viewer",
    "headroom_page",
    "score_page",
]
