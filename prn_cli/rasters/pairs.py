"""Inputs as a command line names them, and their partners (labels, validity masks), found by stem."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TextIO, TypeVar, overload

from prn_cli.errors import InputError, UsageError
from prn_cli.files.remote import as_path, gdal_name
from prn_cli.rasters.raster import IMAGE_SUFFIXES, SUFFIXES, VRT

_EXAMPLES = 3
_ROLE = re.compile(
    r"(?<=.)[_-](logits?|scores?|prob(abilitie)?s?|pred(iction)?s?|labels?|masks?|gt|image|img|valid)\Z", re.IGNORECASE
)
"""What people add to a stem to say what a file is: `x_logits.tif` belongs to `x.png`, and to `x_mask.png`."""
_UTF_16 = ("\udcff\udcfe", "\udcfe\udcff", "ÿþ", "þÿ")  # its byte order marks, read as UTF-8 or Latin-1
_MOST_LOOKED_FOR = 1000  # stems, among files of other suffixes
_FORMATS = (
    "jpg jpeg jp2 j2k jxl img nc h5 hdf5 hdf bmp gif webp avif heic asc bil bip bsq dat grd ecw sid pgm ppm pbm "
    "pfm exr tga mat pt pth pkl nii gz dcm gtiff geotiff btf"
)
_OTHERS = tuple(f".{name}" for name in _FORMATS.split())
"""Suffixes of rasters that are not read. Others, such as those of world files, are passed over without a word."""
_Path = str | os.PathLike[str]
T = TypeVar("T")


class Paths(Sequence[Path]):
    """Files by name: a path is made when it is asked for, since a name takes a fifth of its memory."""

    def __init__(self, names: Sequence[str], passed_over: Mapping[str, int] = MappingProxyType({})) -> None:
        self._names = names
        self.passed_over = passed_over
        """How many files beside them were passed over, by suffix."""

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [as_path(name) for name in self._names[index]]
        return as_path(self._names[index])

    def __iter__(self) -> Iterator[Path]:
        return map(as_path, self._names)

    def stems(self) -> Iterator[str]:
        """The stem of each, faster than by its path."""
        return map(_stem, self._names)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Files that belong together by stem.

    Attributes:
        matched: each input with its partner, in the order of the inputs.
        unmatched_inputs: inputs without a partner.
        unmatched_partners: files of the folder that no input pairs with.
        passed_over: files of the folder that would pair, but for their suffix.
    """

    matched: tuple[tuple[Path, Path], ...]
    unmatched_inputs: tuple[Path, ...]
    unmatched_partners: Paths
    passed_over: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Partners:
    """The validity masks, the images or the references of a set of maps.

    Attributes:
        noun: what messages call them.
        name: their role in a manifest.
        folder: where they are; None if no map has one.
        found: the partner of each map that has one.
    """

    noun: str
    name: str
    folder: Path | None = None
    found: Mapping[Path, Path] = field(default_factory=dict)

    def among(
        self,
        inputs: Sequence[Path],
        folder: _Path | None,
        part: Sequence[int] | None = None,
        suffixes: Sequence[str] = SUFFIXES,
        *,
        same_allowed: bool = False,
    ) -> Partners:
        """The partners of the inputs in a folder, see `pair_by_stem`; no input has one if there is no folder."""
        if folder is None:
            return self
        pairs = pair_by_stem(inputs, folder, same_allowed=same_allowed, suffixes=suffixes, part=part)
        return replace(self, folder=Path(folder), found=dict(pairs.matched))

    def of(self, path: Path) -> Path | None:
        """The partner of a map, which is refused if the folder has none for it; None if there is no folder."""
        if self.folder is not None and path not in self.found:
            others = [other.name for other in _of_other_suffixes(self.folder, [path.stem])]
            but = f", but {' and '.join(others)}, passed over by its suffix" if others else ""
            raise InputError(
                f"no {self.noun} with this stem in {self.folder}{but}",
                hint="add it, or leave this file out",
                path=path,
            )
        return self.found.get(path)

    def role(self, path: Path) -> dict[str, Path]:
        """`{name: partner}` of a map that has one, else nothing: its part of a manifest."""
        return {self.name: self.found[path]} if path in self.found else {}


def find_valid_masks(inputs: Sequence[Path], folder: _Path | None, part: Sequence[int] | None = None) -> Partners:
    """The validity masks in the folder of `--valid-mask`, see `pair_by_stem`."""
    return Partners("validity mask", "valid_mask").among(inputs, folder, part)


def find_images(inputs: Sequence[Path], folder: _Path | None, part: Sequence[int] | None = None) -> Partners:
    """The images in the folder of `--images`, JPEG among them, see `pair_by_stem`."""
    return Partners("image", "image").among(inputs, folder, part, IMAGE_SUFFIXES)


def find_references(inputs: Sequence[Path], place: _Path | None, part: Sequence[int] | None = None) -> Partners:
    """The georeferenced rasters of `--like`: one file for all maps, or those of a folder, see `pair_by_stem`."""
    partners = Partners("reference", "like")
    if place is None or Path(place).is_dir():
        return partners.among(inputs, place, part)
    path = as_path(place)
    return replace(partners, folder=path, found=dict.fromkeys(_part_of(inputs, part), path))


def image_files(folder: _Path) -> list[Path]:
    """All images of a folder, by name, and at least one; the file itself, if it is one."""
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    found = [Path(name) for name in _raster_names(folder, IMAGE_SUFFIXES)]
    if not found:
        raise InputError("holds no images", hint=f"expected {' '.join(IMAGE_SUFFIXES)}", path=folder)
    return found


def find_inputs(
    arguments: Sequence[str],
    *,
    stdin: TextIO | None = None,
    null: bool = False,
    recursive: bool = False,
    inside: str = "",
) -> Paths:
    """The files that the arguments of a command line name.

    Args:
        arguments: files; folders, for their raster files by name, without hidden files; globs that the shell has not
            expanded; addresses of remote files; `-` for paths on `stdin`, one per line.
        stdin: what `-` reads.
        null: paths on `stdin` end in NUL, not in a newline.
        recursive: take the files of subfolders, too.
        inside: the subfolder that stands for a folder without raster files of its own, such as `logits`.

    Returns:
        The paths in the order of the arguments, each once. A named file that is missing is among them, to fail on
        its own.

    Raises:
        InputError: a folder or glob without raster files, or nothing at all.
        UsageError: `-` twice, or without stdin.
    """
    if list(arguments).count("-") > 1:
        raise UsageError("'-' is given twice", hint="read paths from stdin once")
    passed_over = Counter[str]()

    def listed(folder: Path) -> list[str]:
        names = _raster_names(folder, recursive=recursive, passed_over=passed_over)
        return names or (_raster_names(folder / inside) if inside and (folder / inside).is_dir() else [])

    names = [name for argument in arguments for name in _expand(argument, listed, stdin, null, passed_over)]
    if not names:
        raise InputError("no input files", hint="name files or folders, or pipe paths into '-'")
    one_folder = len(arguments) == 1 and arguments[0] != "-" and Path(arguments[0]).is_dir()
    if not one_folder:  # whose files are there once
        found: dict[str, str] = {}
        for name in names:
            found.setdefault(gdal_name(name) or os.path.abspath(name), name)  # noqa: PTH100
        names = list(found.values())
    return Paths(names, passed_over)


def pair_by_stem(
    inputs: Sequence[Path],
    folder: _Path,
    *,
    same_allowed: bool = False,
    suffixes: Sequence[str] = SUFFIXES,
    part: Sequence[int] | None = None,
) -> Pairs:
    """Pair each input with the raster file of a folder that has the same stem: the name without its last suffix.

    Names in composed and decomposed Unicode are the same. Where no stem is equal, one that differs in case alone will
    do, or one that differs in what it says of the file (`x_logits`, `x_mask`, `x`), if there is only one.

    Args:
        inputs: the files.
        folder: where their partners are, in its subfolders if it holds none itself; with a single input, it may be the
            partner itself.
        same_allowed: a file may be its own partner, as a base model is when it is scored against itself.
        suffixes: of the partners.
        part: positions of the inputs to pair, all if None. Others cost a fraction of the time and memory of a pair.

    Raises:
        InputError: the folder is missing, a stem of those to pair occurs twice on one side, or no input has a partner.
    """
    folder = Path(folder)
    chosen = _part_of(inputs, part)
    if folder.is_file() and len(inputs) == 1:
        return Pairs(tuple((path, folder) for path in chosen), (), Paths(()))
    if not folder.is_dir():
        found = "is a file, expected a folder" if folder.exists() else "no such folder"
        raise InputError(found, hint="check the path", path=folder)
    partners = _raster_names(folder, suffixes) or _raster_names(folder, suffixes, recursive=True)
    wanted = _by_stem((_composed(path.stem), path) for path in chosen)
    stems = [_stem(name) for name in partners]
    offered = _by_stem((stem, Path(name)) for stem, name in zip(stems, partners, strict=True) if stem in wanted)
    if len(offered) < len(wanted):
        owned = {_composed(path.stem) for path in inputs}
        left = {stem: name for stem, name in zip(stems, partners, strict=True) if stem not in owned}
        missing = wanted.keys() - offered.keys()
        offered |= _alike(missing, missing, left, str.casefold)
        offered |= _alike(wanted.keys() - offered.keys(), owned, left, partial(_ROLE.sub, ""))
    matched = tuple((path, offered[stem]) for stem, path in wanted.items() if stem in offered)
    for path, partner in () if same_allowed else matched:
        if path == partner or (path.exists() and partner.exists() and path.samefile(partner)):
            raise InputError("pairs with itself", hint="keep inputs and their partners in two folders", path=path)
    unmatched = tuple(path for stem, path in wanted.items() if stem not in offered)
    passed_over = _of_other_suffixes(folder, [path.stem for path in unmatched], suffixes)
    if not matched and set(stems).isdisjoint(_composed(path.stem) for path in inputs):
        there = _examples(Paths(partners)) if partners else f"holds {_no_rasters(folder)}"
        raise InputError(
            f"nothing in it pairs with the inputs by stem: inputs {_examples(inputs)}; folder {there}",
            hint=_convert({path.suffix.lower() for path in passed_over}, suffixes)
            or "give partners the same name, but for the suffix",
            path=folder,
        )
    used = {str(partner) for _, partner in matched}
    others = [n for stem, n in zip(stems, partners, strict=True) if stem not in wanted and str(Path(n)) not in used]
    return Pairs(matched, unmatched, Paths(others), passed_over)


def spread(files: Sequence[T], most: int) -> list[T]:
    """At most so many of the files, evenly spread over them, the first and the last among them."""
    count = min(len(files), most)
    return [files[round(number * (len(files) - 1) / max(count - 1, 1))] for number in range(count)]


def check_stems(paths: Iterable[Path]) -> None:
    """Refuse files of one stem: their outputs could not be paired with anything."""
    _by_stem((_composed(path.stem), path) for path in paths)


def _of_other_suffixes(folder: Path, stems: Sequence[str], read: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files of some stems whose suffix is that of a raster, and not one that is read."""
    others = [suffix for suffix in _OTHERS if suffix not in read]
    places = (folder / f"{stem}{suffix}" for stem in stems[:_MOST_LOOKED_FOR] for suffix in others)
    return [place for place in places if place.is_file()]


def _no_rasters(folder: Path) -> str:
    """That there are none, and what there is instead."""
    names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file()]
    found = count_suffixes(Counter(os.path.splitext(name)[1].lower() or "without a suffix" for name in names))  # noqa: PTH122
    return "no raster files" + (f", but {found}" if found else "")


def count_suffixes(counts: Mapping[str, int]) -> str:
    """Numbers of files by suffix, in words: `3 .jpg, 1 .vrt`."""
    most = sorted(counts.items(), key=lambda found: (-found[1], found[0]))[:_EXAMPLES]
    return ", ".join(f"{count} {suffix}" for suffix, count in most) + (", …" if len(counts) > len(most) else "")


def _convert(found: Set[str], expected: Sequence[str]) -> str:
    """What to do about files of these suffixes; empty if there are none."""
    if not found:
        return ""
    jpeg = "JPEG blurs numbers: save them without loss" if found & set(IMAGE_SUFFIXES) else "convert them"
    return f"{jpeg}, as {' '.join(expected)}"


def _part_of(inputs: Sequence[Path], part: Sequence[int] | None) -> Sequence[Path]:
    return inputs if part is None else [inputs[number] for number in part]


def _stem(name: str) -> str:
    last = os.path.basename(name)  # noqa: PTH119
    dot = last.rfind(".")
    if ":/" in name or name.startswith("/vsi") or last.startswith(".") or not 0 < dot < len(last) - 1:
        return _composed(as_path(name).stem)
    return _composed(last[:dot])


def _composed(stem: str) -> str:
    """The stem in composed Unicode: macOS and some archives write it decomposed."""
    return stem if stem.isascii() else unicodedata.normalize("NFC", stem)


def _alike(
    missing: Set[str], inputs: Iterable[str], left: Mapping[str, str], key: Callable[[str], str]
) -> dict[str, Path]:
    """The partners of stems that have none, where one of the inputs and one of those left have the same key."""
    mine, theirs = _grouped(inputs, key), _grouped(left, key)
    pairs = ((stems, theirs.get(name, [])) for name, stems in mine.items())
    return {
        stems[0]: Path(left[others[0]])
        for stems, others in pairs
        if len(stems) == len(others) == 1 and stems[0] in missing
    }


def _grouped(stems: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stem in stems:
        found.setdefault(key(stem), []).append(stem)
    return found


def _expand(
    argument: str,
    listed: Callable[[Path], list[str]],
    stdin: TextIO | None,
    null: bool,
    passed_over: Counter[str],
) -> Iterator[str]:
    if argument == "-":
        if stdin is None:
            raise UsageError("'-' reads paths from stdin, and there is none", hint="name files or folders")
        yield from _read_paths(stdin, null)
        return
    path = as_path(argument)
    if gdal_name(argument) is not None:
        yield argument
    elif path.is_dir():
        files = listed(path)
        if not files:
            hint = _convert(passed_over.keys(), SUFFIXES) or f"expected files that end in {' '.join(SUFFIXES)}"
            hint = "add --recursive for its subfolders" if _raster_names(path, recursive=True) else hint
            raise InputError(f"holds {_no_rasters(path)}", hint=hint, path=path)
        yield from files
    elif path.exists() or not glob.has_magic(argument):
        if not path.exists() and path.suffix.lower() not in SUFFIXES:
            raise InputError("no such file or folder", hint="check the path", path=path)
        yield argument
    else:
        files = []
        for name in sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207 (Path.glob wants relative patterns)
            match = Path(name)
            if match.is_dir():
                files += listed(match)
            elif _is_raster_name(match.name, (*SUFFIXES, VRT)):
                files.append(name)
            else:
                passed_over.update([match.suffix.lower()] if match.suffix.lower() in _OTHERS else [])
        if not files:
            found = f", but {count_suffixes(passed_over)}" if passed_over else ""
            hint = _convert(passed_over.keys(), SUFFIXES) or "check the pattern"
            raise InputError(f"no raster file matches this pattern{found}", hint=hint, path=argument)
        yield from files


def _read_paths(stdin: TextIO, null: bool) -> Iterator[str]:
    try:
        text = stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"paths on stdin are not {error.encoding} text", hint="pipe in plain paths") from error
    if text.startswith(_UTF_16):
        raise InputError("paths on stdin are UTF-16 text", hint="pipe in UTF-8")
    if text.startswith('{"'):
        raise InputError("JSON on stdin, expected paths", hint="pipe in one key of each line, such as jq -r .mask")
    if not null and "\0" in text:
        raise UsageError("NUL in the paths on stdin", hint="add --null")
    for line in text.removeprefix("\ufeff").split("\0" if null else "\n"):
        name = line if null else line.removesuffix("\r")
        if name:
            yield name


def _raster_names(
    folder: Path,
    suffixes: Sequence[str] = SUFFIXES,
    *,
    recursive: bool = False,
    passed_over: Counter[str] | None = None,
) -> list[str]:
    start = os.path.join(folder, "")  # noqa: PTH118
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: os.path.normcase(entry.name))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        said = "no such folder" if missing else f"cannot be listed: {error.strerror}"
        raise InputError(said, hint="check the path" if missing else "check the folder", path=folder) from error
    names = []
    for entry in listed:
        if _is_raster_name(entry.name, suffixes):
            names += [start + entry.name] if _is_file(entry) else []
        elif passed_over is not None and _is_raster_name(entry.name, _OTHERS):
            passed_over[os.path.splitext(entry.name)[1].lower()] += 1  # noqa: PTH122
    for entry in listed if recursive else ():
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            names += _raster_names(Path(entry.path), suffixes, recursive=True, passed_over=passed_over)
    return names


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to one or to nothing, which fails later instead of being skipped."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)  # noqa: PTH110, PTH113
    return entry.is_file(follow_symlinks=False)


def _is_raster_name(name: str, suffixes: Sequence[str] = SUFFIXES) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes and not name.startswith((".", "~"))  # noqa: PTH122


def _by_stem(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stem, path in files:
        if stem in found:
            raise InputError(
                f"has the stem of {found[stem]}: files pair by stem, so each may occur once",
                hint="leave one of them out",
                path=path,
            )
        found[stem] = path
    return found


def _examples(paths: Sequence[Path]) -> str:
    names = ", ".join(f"'{path.stem}'" for path in paths[:_EXAMPLES])
    return f"{names}, … ({len(paths)})" if len(paths) > _EXAMPLES else names
