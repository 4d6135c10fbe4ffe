"""What a file says of its image: format, size, oddities, and whether decoding it is safe to try."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

# The largest image that validation, training, prediction, the exported graph and its client accept. A decoded image
# takes up to 200 times its file; this bounds what a hostile header can make the program allocate.
LARGEST_PIXELS = 100_000_000
# More than an uncompressed image of that size takes; a video in the folder should not be read into memory.
LARGEST_BYTES = 512 << 20

TOO_MANY_PIXELS = f"larger than {LARGEST_PIXELS // 10**6} megapixels"
TOO_MANY_BYTES = f"larger than {LARGEST_BYTES >> 20} MiB"

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
_HEIF_BRANDS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1", b"ftypavif")
_EXIF_ORIENTATION = 0x0112
_PNG_BIT_DEPTH = 24  # Its offset: IHDR must be the first chunk.
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C
_CONVERT = "convert it to JPEG or PNG"

# `warnings.catch_warnings` replaces a list of the whole process, which two threads must not do at once.
_WARNINGS_LOCK = threading.Lock()


@dataclass(frozen=True)
class Header:
    """What a file says of its image, without decoding it.

    Attributes:
        format: `JPEG`, `PNG`, ...; empty when unknown.
        width: in px; 0 when unknown.
        height: in px; 0 when unknown.
        problem: why it must not be decoded; empty when it may be.
        notes: what is unusual about it.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    notes: tuple[str, ...] = ()


def read_header(encoded: bytes) -> Header:
    """Reads format and size; `problem` reports what TensorFlow can't decode and what is too large to try."""
    if not encoded:
        return Header(problem="empty file")
    if len(encoded) > LARGEST_BYTES:
        return Header(problem=TOO_MANY_BYTES)
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings():
            # Pillow warns from 89 and refuses from 179 megapixels; our limit replaces both.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                return _describe(image, encoded)
    except Image.DecompressionBombError:
        return Header(problem=TOO_MANY_PIXELS)
    # Pillow's parsers can raise anything on hostile bytes; the file is then no image we can read.
    except Exception:
        return Header(problem=_what_else(encoded))


def note_on_suffix(form: str, name: str) -> list[str]:
    """A note if the extension of the file `name` doesn't fit the format `form`."""
    suffix = os.path.splitext(name)[1].lower()
    if not name or suffix in _SUFFIXES[form]:
        return []
    return [f"{form} named {suffix or 'without extension'}"]


def _describe(image: Image.Image, encoded: bytes) -> Header:
    width, height = image.size
    form = image.format or ""
    problem = _problem(image, form, encoded)
    return Header(form, width, height, problem, () if problem else tuple(_notes(image, encoded)))


def _problem(image: Image.Image, form: str, encoded: bytes) -> str:
    width, height = image.size
    if form not in _SUFFIXES:
        return f"unsupported format {form}: {_CONVERT}"
    if width * height > LARGEST_PIXELS:
        return f"{width}x{height} px is {TOO_MANY_PIXELS}"
    # TensorFlow reads palette indices as gray values, and compressed rows as pixels.
    if form == "BMP" and (image.mode == "P" or image.info.get("compression", 0) in (1, 2)):
        return f"unsupported kind of BMP (palette or compressed): {_CONVERT}"
    if form == "GIF":
        # TensorFlow alone decodes all frames, each at the size of the canvas.
        areas = [max(w * h, width * height) for w, h in _gif_frames(encoded)]
        if len(areas) == 1 and areas[0] > LARGEST_PIXELS:
            return f"its frame is {TOO_MANY_PIXELS}"
        if sum(areas) > LARGEST_PIXELS:
            return f"{len(areas)} frames of {width}x{height} px are together {TOO_MANY_PIXELS}: keep the first"
    return ""


def _notes(image: Image.Image, encoded: bytes) -> Iterator[str]:
    if image.mode in ("L", "1", "LA") or image.mode.startswith("I"):
        yield "gray"
    if image.mode == "CMYK":
        yield "CMYK"
    if image.format == "PNG" and encoded[_PNG_BIT_DEPTH] == 16:
        yield "16 bit, reduced to 8"
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        yield "with transparency, which is ignored"
    is_animated = len(list(_gif_frames(encoded))) > 1 if image.format == "GIF" else "loop" in image.info
    if is_animated:
        yield "animated, only the first frame counts"
    if min(image.size) == 1:
        yield "one pixel wide or high"
    orientation = _orientation(image)
    if orientation not in (0, 1):
        yield f"EXIF orientation {orientation}, which is ignored"


def _orientation(image: Image.Image) -> int:
    # For a PNG without EXIF, Pillow would decode all of it to look for EXIF after the pixels.
    if image.format not in ("JPEG", "MPO"):
        return 1
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # Damaged EXIF doesn't damage the pixels, and Pillow's reader can raise anything on it.
        return 1


def _gif_frames(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Width and height of each frame, without decompressing any; stops at the end of the file."""
    position = 13 + _color_table_bytes(encoded[10])
    while position < len(encoded) and encoded[position] in (_GIF_EXTENSION, _GIF_IMAGE):
        if encoded[position] == _GIF_EXTENSION:
            position += 2
        else:
            place = encoded[position + 5 : position + 10]
            if len(place) < 5:
                return
            yield int.from_bytes(place[:2], "little"), int.from_bytes(place[2:4], "little")
            position += 11 + _color_table_bytes(place[4])
        while position < len(encoded) and encoded[position]:
            position += 1 + encoded[position]
        position += 1


def _color_table_bytes(flags: int) -> int:
    """Three bytes for each of 2 to 256 colors; bit 7 says whether there is a table, bits 0-2 its size."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _what_else(encoded: bytes) -> str:
    if encoded[4:12] in _HEIF_BRANDS:
        return f"unsupported format HEIC/AVIF: {_CONVERT}"
    return "damaged or cut off" if encoded.startswith(_SIGNATURES) else "not an image"
