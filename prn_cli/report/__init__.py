"""One page a run, complete in itself: figures with intervals, pictures, maps and curves.

Pure functions from figures and small pictures to HTML. An image is looked at once, band by band (`Viewer`), and leaves
a `Glimpse`: pictures of 256 px and counts. `Totals` gathers them, and `score_page` and `headroom_page` make the page.

- `shrinking`: maps made small while they pass by
- `glimpses`, `totals`: what is kept of an image, and of a set
- `colours`, `charts`, `markup`: numbers to colours, to SVG, to text
- `gallery`, `curves`: parts of a page
- `scored`, `headroom`, `page`: the pages
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
