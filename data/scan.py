"""Looks at every picture before training: which can't be decoded, which are odd, and which are the same."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields

import numpy as np
import tensorflow as tf
from PIL import Image

from data.files import cache_folder, read_text, write_text
from data.progress import progress
from data.source import Source
from errors import UserError

# A picture decoded is up to 200 times its file; this bounds what one hostile header can make the program allocate.
LARGEST_PIXELS = 100_000_000

_SUPPORTED = ("JPEG", "MPO", "PNG", "GIF", "BMP")
_SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",), "GIF": (".gif",), "BMP": (".bmp",)}
_EXIF_ORIENTATION = 0x0112
_LISTED = 10


@dataclass(frozen=True)
class Inspection:
    """What one picture's file turned out to be.

    Attributes:
        digest: SHA-256 of the bytes, hexadecimal; empty when the file can't be read.
        problem: why it can't be trained on; empty for a good picture.
        notes: what is unusual about a good picture, such as `CMYK` or `EXIF orientation 6`; `; ` between two.
        width: in px; 0 when unknown.
        height: in px; 0 when unknown.
    """

    digest: str
    problem: str = ""
    notes: str = ""
    width: int = 0
    height: int = 0


def inspect(encoded: bytes, name: str = "") -> Inspection:
    """Decodes one picture really, after its header has shown that it is small enough.

    Args:
        encoded: the file's bytes.
        name: the file's name, to compare its extension; may be empty.
    """
    digest = hashlib.sha256(encoded).hexdigest()
    header = read_header(encoded)
    if header.problem:
        return Inspection(digest, header.problem, width=header.width, height=header.height)
    try:
        _decode_fully(encoded)
    except tf.errors.OpError:
        return Inspection(digest, "damaged or cut off", "", header.width, header.height)
    notes = [*header.notes, *_note_on_suffix(header.format, name)]
    return Inspection(digest, "", "; ".join(notes), header.width, header.height)


@dataclass(frozen=True)
class Header:
    """What a picture's first bytes say, without decoding it; `problem` is empty when it may be decoded."""

    format: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    notes: tuple[str, ...] = ()


def read_header(encoded: bytes) -> Header:
    """Reads the format and the size, and refuses what TensorFlow can't decode and what is too large to try."""
    if not encoded:
        return Header(problem="empty file")
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 and refuses from 179 megapixels; our own limit below says more.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as picture:
                return _describe(picture)
    except Image.DecompressionBombError:
        return Header(problem=f"larger than {LARGEST_PIXELS // 10**6} megapixels")
    # Pillow's parsers raise these and others on hostile bytes; whichever it is, the file is no picture we can read.
    except Exception:
        return Header(problem=_what_else(encoded))


def scan(source: Source) -> list[Inspection]:
    """Inspects every picture of `source` in parallel; files that haven't changed since the last scan are remembered.

    Pictures in memory come from a builder that has decoded them, so they are only hashed.
    """
    if not source.holds_paths:
        return [Inspection(hashlib.sha256(record).hexdigest()) for record in source.records]
    remembered = _Remembered(source.name)
    stamps = _in_parallel(_stamp, source.records, "looking at files")
    known = [remembered.get(address, stamp) for address, stamp in zip(source.addresses, stamps, strict=True)]
    missing = [i for i, inspection in enumerate(known) if inspection is None]
    fresh = _in_parallel(lambda i: _inspect_file(source, i), missing, "scanning pictures")
    for i, inspection in zip(missing, fresh, strict=True):
        known[i] = inspection
    inspections = [inspection for inspection in known if inspection is not None]
    if missing:
        remembered.keep(source.addresses, stamps, inspections)
    return inspections


def usable(source: Source, inspections: list[Inspection], on_bad_image: str) -> np.ndarray:
    """The indices of the pictures that can be trained on.

    Args:
        source: the pictures.
        inspections: what `scan` said of them.
        on_bad_image: `fail` to stop at a bad picture, `skip` to go on without it.

    Raises:
        UserError: a picture is bad and `on_bad_image` is `fail`, or no picture of a class is left.
    """
    bad = [i for i, inspection in enumerate(inspections) if inspection.problem]
    if bad and on_bad_image == "fail":
        raise UserError(
            f"Every picture in {source.name} must be a whole JPEG, PNG, GIF or BMP of at most "
            f"{LARGEST_PIXELS // 10**6} megapixels. {len(bad)} of {len(source)} can't be used:\n"
            f"{list_bad(source, inspections)}\n"
            "Mend or remove them, or pass --on_bad_image=skip to train without them."
        )
    good = np.setdiff1d(np.arange(len(source)), bad)
    counts = np.bincount(source.labels[good], minlength=len(source.class_names))
    lost = [name for name, count in zip(source.class_names, counts, strict=True) if count == 0]
    if lost:
        raise UserError(f"Each class must have a picture that can be used. Received none for: {', '.join(lost)}.")
    return good


def list_bad(source: Source, inspections: list[Inspection]) -> str:
    """The first bad pictures, one a line with the reason, and how many more there are."""
    lines = [f"  {a}: {i.problem}" for a, i in zip(source.addresses, inspections, strict=True) if i.problem]
    more = [f"  ... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return printable("\n".join(lines[:_LISTED] + more))


def printable(text: str) -> str:
    """`text` with the bytes of file names that aren't UTF-8 shown as `\\xNN`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _describe(picture: Image.Image) -> Header:
    width, height = picture.size
    form = picture.format or ""
    if form not in _SUPPORTED:
        return Header(form, width, height, f"unsupported format {form}: convert it to JPEG or PNG")
    if width * height > LARGEST_PIXELS:
        size = f"{width}x{height} px is larger than {LARGEST_PIXELS // 10**6} megapixels"
        return Header(form, width, height, size)
    return Header(form, width, height, notes=tuple(_notes(picture)))


def _notes(picture: Image.Image) -> Iterable[str]:
    if picture.mode in ("L", "1", "LA"):
        yield "grey"
    if picture.mode == "CMYK":
        yield "CMYK"
    if picture.mode.startswith("I"):
        yield "16 bit"
    if picture.mode in ("RGBA", "LA", "PA"):
        yield "with transparency, which is ignored"
    if getattr(picture, "n_frames", 1) > 1 and picture.format == "GIF":
        yield "animated, only the first frame counts"
    if min(picture.size) == 1:
        yield "one pixel wide or high"
    orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation not in (0, 1):
        yield f"EXIF orientation {orientation}, which is ignored"


def _note_on_suffix(form: str, name: str) -> list[str]:
    suffix = os.path.splitext(name)[1].lower()
    if not name or suffix in _SUFFIXES[form]:
        return []
    return [f"a {form} named {suffix or 'without extension'}"]


def _what_else(encoded: bytes) -> str:
    if encoded[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "unsupported format HEIC/AVIF: convert it to JPEG or PNG"
    return "not a picture"


def _decode_fully(encoded: bytes) -> None:
    if encoded.startswith(b"\xff\xd8\xff"):
        # At an eighth of the size all of the compressed data is still read, in a third of the time.
        tf.io.decode_jpeg(encoded, channels=3, ratio=8)
    elif encoded.startswith(b"BM"):
        tf.io.decode_bmp(encoded)
    else:
        tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _inspect_file(source: Source, index: int) -> Inspection:
    try:
        return inspect(source.encoded(index), source.addresses[index])
    except (OSError, tf.errors.OpError):
        return Inspection("", "can't be read: check that it exists and its permissions")


def _stamp(path: bytes) -> str:
    """Size and time of the last change, which tell whether a file is still the one that was scanned."""
    try:
        status = tf.io.gfile.stat(path)
    except (OSError, tf.errors.OpError):
        return ""
    return f"{status.length}-{status.mtime_nsec}"


def _in_parallel(function: Callable, items: Iterable, title: str) -> list:
    items = list(items)
    with ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1))) as pool:
        return list(progress(pool.map(function, items), len(items), title))


class _Remembered:
    """The last scan of a folder, kept in the user's cache folder, never beside the pictures."""

    def __init__(self, name: str) -> None:
        key = hashlib.sha256(os.fsencode(os.path.abspath(name))).hexdigest()[:16]
        self._path = os.path.join(cache_folder(), "scans", f"{key}.csv")
        self._rows = dict(self._read())

    def get(self, address: str, stamp: str) -> Inspection | None:
        known = self._rows.get(address)
        return known[1] if known and stamp and known[0] == stamp else None

    def keep(self, addresses: tuple[str, ...], stamps: list[str], inspections: list[Inspection]) -> None:
        table = io.StringIO()
        writer = csv.writer(table)
        for address, stamp, inspection in zip(addresses, stamps, inspections, strict=True):
            writer.writerow([address, stamp, *astuple(inspection)])
        try:
            tf.io.gfile.makedirs(os.path.dirname(self._path))
            write_text(self._path, table.getvalue())
        except (UserError, OSError, tf.errors.OpError):
            return  # Without a cache the next run scans again; that is no reason to stop this one.

    def _read(self) -> Iterable[tuple[str, tuple[str, Inspection]]]:
        if not os.path.exists(self._path):
            return
        for row in csv.reader(io.StringIO(read_text(self._path))):
            if len(row) == 2 + len(fields(Inspection)):
                address, stamp, digest, problem, notes, width, height = row
                yield address, (stamp, Inspection(digest, problem, notes, int(width), int(height)))
