"""Bytes of image files of all kinds, sound and not, made without any file."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def pixels(height: int = 20, width: int = 24, channels: int = 3) -> np.ndarray:
    """Smooth colors, so that JPEG keeps them."""
    rows, columns = np.mgrid[:height, :width]
    planes = [rows * 9 % 256, columns * 8 % 256, (rows + columns) * 4 % 256, rows * 0 + 200]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def save(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    return save(Image.fromarray(pixels()).convert(mode), "JPEG", **options)


def png(mode: str = "RGB", **options: object) -> bytes:
    return save(Image.fromarray(pixels()).convert(mode), "PNG", **options)


def gif(frames: int = 1) -> bytes:
    images = [Image.fromarray(np.roll(pixels(), i, axis=0)).convert("P") for i in range(frames)]
    return save(images[0], "GIF", save_all=True, append_images=images[1:])


def bmp(mode: str = "RGB") -> bytes:
    return save(Image.fromarray(pixels()).convert(mode), "BMP")


def png_16_bit(color: bool) -> bytes:
    """Pillow can't write three channels of 16 bit."""
    channels = 3 if color else 1
    rows = pixels(4, 5, channels).astype(">u2") * 257
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 5, 4, 16, 2 if color else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A small file whose header asks for gigabytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def gif_bomb(frames: int = 2000, side: int = 1000) -> bytes:
    """A file of 50 kilobytes with gigapixels in its frames."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    table = bytes(12)
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x81, 0, 0) + table + frame * frames + b"\x3b"


def exif_rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
