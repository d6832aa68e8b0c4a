"""The page: templates, and how text and numbers look in them.

A template may print any text, such as a file name of hostile characters: Jinja escapes it, and characters that cannot
be shown are replaced. Floats are printed as coordinates of charts, with two digits; figures go through a filter.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_cli import __version__
from prn_cli.errors import percent
from prn_cli.metrics.intervals import Estimate
from prn_cli.report.charts import Axis, axis_around, path
from prn_cli.report.colours import gradient

if TYPE_CHECKING:
    from jinja2 import Environment

MARKER = '<meta name="generator" content="prn '
"""Near the beginning of every page: tells a report from another file."""

MINUS = "−"
NONE = "–"


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package, see `templates/`."""
    style, script = (_resource(f"page.{kind}") for kind in ("css", "js"))
    # Even if a hostile name got through, the browser would run no script but this one, and load nothing.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment().get_template(template).render(values, style=style, script=script, digest=digest)


@cache
def environment() -> Environment:
    """What templates have besides their values."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only reports need it

    made = Environment(
        loader=PackageLoader("prn_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "points": points, "percent": percent, "count": count, "interval": interval}
    made.filters |= {"data_uri": data_uri, "path": path, "place": place, "unplaced": unplaced}
    made.tests["finite"] = math.isfinite
    made.globals |= {"axis": Axis, "axis_around": axis_around, "gradient": gradient, "version": __version__}
    return made


def number(value: float, digits: int = 4, *, sign: bool = False) -> str:
    """A number with this many decimals and a true minus; a dash if there is none."""
    if not math.isfinite(value):
        return NONE
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def points(value: float) -> str:
    """A difference of two shares in percentage points, signed."""
    return number(100 * value, 2, sign=True)


def count(value: float) -> str:
    """A whole number with thin spaces between thousands."""
    from markupsafe import Markup  # among the characters that `_shown` replaces

    return Markup(f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}"))


def interval(estimate: Estimate, look: str = "number") -> str:
    """The bounds of an estimate as a plain `number`, a `signed` one or `points`; a dash if it has none."""
    if not math.isfinite(estimate.low):
        return NONE
    low, high = (points(b) if look == "points" else number(b, sign=look == "signed") for b in estimate[1:])
    return f"{low} to {high}"


def place(path: str) -> str:
    """A file or folder as others may see it: from the working folder, or its last two names if it lies elsewhere."""
    whole = Path(path)
    if not whole.is_absolute():
        return path
    if whole.is_relative_to(Path.cwd()):
        return str(whole.relative_to(Path.cwd()))
    return str(Path("…", *whole.parts[-2:]))


def unplaced(text: str) -> str:
    """A message in which files keep their names, but not their absolute paths."""
    return re.sub(r"(?<![^\s:;,('\"])(?:[A-Za-z]:)?[/\\](?:[^/\\\n:;]+[/\\])+", "", text)


def data_uri(data: bytes, kind: str) -> str:
    """A file as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    plain = value.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in plain)


def _resource(name: str) -> str:
    return resources.files("prn_cli.report").joinpath(name).read_text("utf-8")
