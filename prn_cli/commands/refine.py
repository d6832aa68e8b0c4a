"""`prn refine`: logit maps to better masks, by the folder."""

from __future__ import annotations

from prn_cli.commands import console
from prn_cli.commands.from_options import command
from prn_cli.workflows.refine import RefineOptions


def _refine(options: RefineOptions, *, json: bool) -> None:
    """Refine logit maps into better masks.

    Maps may have any size. A mask is kept if it was made from the same input with the same settings, so a stopped run
    continues where it stopped. Files that prn did not write are not replaced without --overwrite.
    """
    from prn_cli.workflows.refine import refine

    result = refine(options, console.Terminal(json=json))
    if options.dry_run:
        console.show_plan(result.plan, result.summary, json=json)
    console.end(result.verdict)


refine = command(RefineOptions, _refine)
