"""What of a run was done before: outputs that are kept, made anew, or not touched because they are someone's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prn_cli.errors import OutputError

if TYPE_CHECKING:
    from prn_cli.files.manifest import Job, Manifest


def finished(manifest: Manifest, job: Job, *, overwrite: bool) -> dict[str, Any] | None:
    """The entry of a job whose outputs are kept; None if they are to be made.

    Raises:
        OutputError: an output was replaced by another whole raster.
    """
    if overwrite:
        return None
    entry = manifest.finished(job)
    if entry is None:
        _refuse_edited(manifest, job)
    return entry


def why(manifest: Manifest, job: Job, *, overwrite: bool) -> str:
    """Why the outputs of a job are to be made, in a few words; empty if they are kept.

    Raises:
        OutputError: as `finished`.
    """
    reason = manifest.why(job)
    if overwrite:
        return reason or "--overwrite"
    if reason:
        _refuse_edited(manifest, job)
    return reason


def _refuse_edited(manifest: Manifest, job: Job) -> None:
    """Check that no output was replaced by another whole raster; what is cut off may be written anew."""
    from prn_cli.rasters import is_whole

    for path in manifest.changed(job):
        if is_whole(path):
            raise OutputError("was changed since prn wrote it", hint="move it away, or --overwrite", path=path)
