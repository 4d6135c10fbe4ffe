from __future__ import annotations

import os
import pathlib
import time

import numpy as np
import pytest
import tensorflow as tf

from data import folder, load, validation
from data.dataset import Dataset
from data.decode import decode
from data.files import cache_folder
from data.validation import inspect
from errors import UserError
from tests.data import encoded
from training import examples
from training.config import TrainConfig
from training.resolve import resolved

GOOD = {
    "JPEG": (encoded.jpeg(), "a.jpg", ""),
    "progressive JPEG": (encoded.jpeg(progressive=True), "a.JPEG", ""),
    "gray JPEG": (encoded.jpeg("L"), "a.jpg", "gray"),
    "CMYK JPEG": (encoded.jpeg("CMYK"), "a.jpg", "CMYK"),
    "rotated by EXIF": (encoded.exif_rotated(6), "a.jpg", "EXIF orientation 6, which is ignored"),
    "upright by EXIF": (encoded.exif_rotated(1), "a.jpg", ""),
    "PNG": (encoded.png(), "a.png", ""),
    "gray PNG": (encoded.png("L"), "a.png", "gray"),
    "black and white PNG": (encoded.png("1"), "a.png", "gray"),
    "PNG with a palette": (encoded.png("P"), "a.png", ""),
    "RGBA": (encoded.png("RGBA"), "a.png", "with transparency, which is ignored"),
    "gray with alpha": (encoded.png("LA"), "a.png", "gray; with transparency, which is ignored"),
    "16 bit color": (encoded.png_16_bit(True), "a.png", "16 bit, reduced to 8"),
    "16 bit gray": (encoded.png_16_bit(False), "a.png", "gray; 16 bit, reduced to 8"),
    "GIF": (encoded.gif(), "a.gif", ""),
    "animated GIF": (encoded.gif(3), "a.gif", "animated, only the first frame counts"),
    "BMP": (encoded.bmp(), "a.bmp", ""),
    "gray BMP": (encoded.bmp("L"), "a.bmp", "gray"),
    "PNG called jpg": (encoded.png(), "a.jpg", "PNG named .jpg"),
    "JPEG without a suffix": (encoded.jpeg(), "a", "JPEG named without extension"),
    "one pixel": (encoded.save(encoded.Image.new("RGB", (1, 1)), "PNG"), "a.png", "one pixel wide or high"),
    "a line": (encoded.save(encoded.Image.new("RGB", (500, 1)), "JPEG"), "a.jpg", "one pixel wide or high"),
    "damaged EXIF": (encoded.exif_rotated(6).replace(b"Exif\0\0MM", b"Exif\0\0XX"), "a.jpg", ""),
}

BAD = {
    "empty": (b"", "empty file"),
    "text": (b"this is no image", "not an image"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "header only": (encoded.jpeg()[:20], "damaged or cut off"),
    "half a JPEG": (encoded.jpeg()[: len(encoded.jpeg()) // 2], "damaged or cut off"),
    "half a PNG": (encoded.png()[: len(encoded.png()) // 2], "damaged or cut off"),
    "half a GIF": (encoded.gif()[: len(encoded.gif()) // 2], "damaged or cut off"),
    "half a BMP": (encoded.bmp()[: len(encoded.bmp()) // 2], "damaged or cut off"),
    "flipped PNG data": (encoded.png()[:60] + b"\xff\xff" + encoded.png()[62:], "damaged or cut off"),
    "WebP": (encoded.save(encoded.Image.new("RGB", (8, 8)), "WEBP"), "unsupported format WEBP: convert it"),
    "TIFF": (encoded.save(encoded.Image.new("RGB", (8, 8)), "TIFF"), "unsupported format TIFF: convert it"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported format HEIC/AVIF: convert it"),
    "BMP with a palette": (encoded.bmp("P"), "unsupported kind of BMP"),
    "PNG bomb": (encoded.png_bomb(), "larger than 100 megapixels"),
    "PNG of 101 megapixels": (encoded.png_bomb(10_100, 10_000), "10100x10000 px is larger than 100 megapixels"),
    "GIF bomb": (encoded.gif_bomb(), "2000 frames of 1000x1000 px are together larger than 100 megapixels"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_images_and_what_is_odd_about_them(kind: str) -> None:
    content, name, notes = GOOD[kind]
    found = inspect(content, name)
    assert (found.problem, found.notes) == ("", notes)
    assert found.width > 0 and found.height > 0
    pixels = decode(tf.constant(content), 16, 3)
    assert pixels.shape == (16, 16, 3), "what the scan calls good, training can decode"


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_and_why(kind: str) -> None:
    content, problem = BAD[kind]
    assert inspect(content, "a.jpg").problem.startswith(problem)


def test_decoding_agrees_with_pillow_on_colors() -> None:
    """CMYK, palettes, alpha and 16 bit are easily taken for something else."""
    expected = encoded.pixels().astype(float)
    for kind in ("JPEG", "CMYK JPEG", "PNG", "RGBA", "BMP"):
        pixels = tf.io.decode_image(GOOD[kind][0], channels=3) if kind != "BMP" else tf.io.decode_bmp(GOOD[kind][0])
        assert abs(pixels.numpy().astype(float) - expected).mean() < 12, kind


def test_a_bomb_is_refused_without_its_memory() -> None:
    start = time.process_time()
    for _ in range(20):
        assert inspect(encoded.png_bomb()).problem and inspect(encoded.gif_bomb()).problem
    assert time.process_time() - start < 5


def test_real_odd_images(shared: pathlib.Path) -> None:
    expected = {
        "exif_orientation6_3024px.JPG": ("", "EXIF orientation 6, which is ignored"),
        "extreme_aspect_195x33.jpg": ("", ""),
        "gif_named_jpg.jpg": ("", "GIF named .jpg"),
        "grey_content_rgb_mode.jpg": ("", ""),
        "matlab_file_among_images.mat": ("not an image", ""),
        "png_rgba_named_jpg.jpg": ("", "with transparency, which is ignored; PNG named .jpg"),
        "tiny_41x50.jpg": ("", ""),
    }
    files = [file for file in sorted((shared / "data" / "odd").iterdir()) if file.is_file()]
    assert [file.name for file in files] == sorted(expected)
    for file in files:
        found = inspect(file.read_bytes(), file.name)
        assert (found.problem, found.notes) == expected[file.name], file.name


def snapshot(root: pathlib.Path) -> dict[str, tuple]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size, p.lstat().st_mode) for p in sorted(root.rglob("*"))}


@pytest.fixture
def mixed(image_folder: pathlib.Path) -> pathlib.Path:
    for number, (content, _) in enumerate(BAD.values()):
        (image_folder / "lying" / f"bad{number:02d}.jpg").write_bytes(content)
    for number, (content, name, _) in enumerate(GOOD.values()):
        (image_folder / "upright" / f"odd{number:02d}{pathlib.Path(name).suffix}").write_bytes(content)
    os.mkfifo(image_folder / "lying" / "pipe.jpg")
    os.symlink("nowhere.jpg", image_folder / "lying" / "dangling.jpg")
    return image_folder


def test_fail_lists_the_bad_ones_and_skip_leaves_them_out(mixed: pathlib.Path) -> None:
    before = snapshot(mixed)
    dataset = load(str(mixed))
    found = validation.scan(dataset)
    count = len(BAD) + 2
    with pytest.raises(
        UserError,
        match=rf"(?s){count} of {len(dataset)} can't be used.*bad00.jpg: empty file.*and {count - 10} more.*skip",
    ):
        validation.usable(dataset, found, "fail")
    good = validation.usable(dataset, found, "skip")
    assert len(good) == 40 + len(GOOD)
    problems = {a: i.problem for a, i in zip(dataset.addresses, found, strict=True)}
    assert problems["lying/pipe.jpg"].startswith("not a file")
    assert problems["lying/dangling.jpg"].startswith("can't be read")
    assert snapshot(mixed) == before, "nothing in the user's folder is ever changed"


def test_skipped_images_and_oddities_are_told(mixed: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    config = resolved(TrainConfig(model="lenet5", data=str(mixed), on_bad_image="skip"))
    gathered = examples.gather(config)
    assert dict(gathered.skipped)["lying/bad00.jpg"] == "empty file"
    assert len(gathered.skipped) == len(BAD) + 2
    told = capsys.readouterr().err
    assert "Training without 18 of" in told
    assert "1 CMYK, such as upright/odd" in told
    assert "copies of others" in told


def test_a_class_that_loses_all_its_images_is_an_error(image_folder: pathlib.Path) -> None:
    for file in (image_folder / "lying").iterdir():
        file.write_bytes(b"")
    dataset = load(str(image_folder))
    with pytest.raises(UserError, match="Received none for: lying"):
        validation.usable(dataset, validation.scan(dataset), "skip")


def test_an_unreadable_file_is_reported_and_not_remembered(
    image_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load(str(image_folder))
    really_read = type(dataset).encoded

    def refuse_the_first(self: object, index: int) -> bytes:
        if index == 0:
            raise PermissionError(13, "Permission denied")
        return really_read(self, index)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(dataset), "encoded", refuse_the_first)
        assert validation.scan(dataset)[0].problem.startswith("can't be read")
    assert validation.scan(dataset)[0].problem == ""


def test_a_film_in_the_folder_is_not_read(image_folder: pathlib.Path) -> None:
    with open(image_folder / "lying" / "film.jpg", "wb") as file:
        file.truncate(1 << 40)  # A hole: a terabyte that takes no room.
    dataset = load(str(image_folder))
    problems = [i.problem for i in validation.scan(dataset) if i.problem]
    assert problems == ["larger than 512 MiB"]


def test_only_what_has_changed_is_looked_at_again(image_folder: pathlib.Path) -> None:
    looked_at: list[int] = []

    class Watched(Dataset):
        def encoded(self, index: int) -> bytes:
            looked_at.append(index)
            return super().encoded(index)

    dataset = Watched(**vars(load(str(image_folder))))
    first = validation.scan(dataset)
    assert len(looked_at) == 40
    looked_at.clear()
    assert validation.scan(dataset) == first
    assert looked_at == []
    changed = image_folder / "lying" / "03.jpg"
    stamp = changed.stat()
    content = bytearray(changed.read_bytes())
    content[-3] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = validation.scan(dataset)
    assert looked_at == [3], "found though size and time of the last change are the same"
    assert again[3].digest != first[3].digest


@pytest.mark.parametrize("damage", [b"", b'\0\xff"\n"', b"lying/00.jpg,x\n", b"a,b,c,d,e,f,g\n" * 3])
def test_a_damaged_memory_is_forgotten(image_folder: pathlib.Path, damage: bytes) -> None:
    dataset = load(str(image_folder))
    first = validation.scan(dataset)
    files = list(pathlib.Path(cache_folder(), "scans").iterdir())
    assert len(files) == 1
    files[0].write_bytes(damage)
    assert validation.scan(dataset) == first


def test_without_a_cache_the_scan_works(image_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert len(validation.scan(load(str(image_folder)))) == 40


def test_an_interruption_does_not_wait_for_the_rest() -> None:
    started: list[int] = []

    def slow(item: int) -> None:
        started.append(item)
        if item == 0:
            raise KeyboardInterrupt
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        validation.in_parallel(slow, range(2000), "")
    assert len(started) < 1000


def test_identical_images_in_two_classes_are_told_and_stay_in_one_part(
    image_folder: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    (image_folder / "upright" / "copy.jpg").write_bytes((image_folder / "lying" / "00.jpg").read_bytes())
    (image_folder / "lying" / "copy.jpg").write_bytes((image_folder / "lying" / "01.jpg").read_bytes())
    gathered = examples.gather(resolved(TrainConfig(model="lenet5", data=str(image_folder))))
    split = dict(zip(gathered.dataset.addresses, gathered.splits, strict=True))
    assert split["upright/copy.jpg"] == split["lying/00.jpg"]
    assert split["lying/copy.jpg"] == split["lying/01.jpg"]
    told = capsys.readouterr().err
    assert "2 images are copies of others" in told
    assert "1 pair of identical images with different labels:\n  lying/00.jpg and upright/copy.jpg" in told


def test_images_that_are_all_identical_are_an_error(image_folder: pathlib.Path) -> None:
    content = (image_folder / "lying" / "00.jpg").read_bytes()
    for file in image_folder.rglob("*.jpg"):
        file.write_bytes(content)
    with pytest.raises(UserError, match="split must hold images.*39 are copies that stay"):
        examples.gather(resolved(TrainConfig(model="lenet5", data=str(image_folder))))


def test_images_in_memory_are_decoded_too() -> None:
    dataset = load("digits")
    records = dataset.records.copy()
    records[7] = records[7][:40]
    damaged = type(dataset)("digits", dataset.addresses, records, dataset.labels, dataset.class_names, False)
    found = validation.scan(damaged)
    assert [i for i, inspection in enumerate(found) if inspection.problem] == [7]
    assert found[0].width == 8


@pytest.mark.parametrize("seed", range(3))
def test_mutated_images_never_raise_anything_unexpected(seed: int) -> None:
    """And what the scan calls good decodes in training."""
    generator = np.random.default_rng(seed)
    kinds = list(GOOD.values())
    for _ in range(60):
        content = bytearray(kinds[generator.integers(len(kinds))][0])
        for place in generator.integers(0, len(content), generator.integers(1, 8)):
            content[place] = generator.integers(256)
        if not inspect(bytes(content)).problem:
            assert decode(tf.constant(bytes(content)), 8, 3).shape == (8, 8, 3)


@pytest.mark.slow
def test_ten_thousand_classes(tmp_path: pathlib.Path) -> None:
    content = encoded.save(encoded.Image.new("RGB", (2, 2)), "PNG")
    for number in range(10_000):
        place = tmp_path / f"class {number:05d}"
        place.mkdir()
        (place / "a.png").write_bytes(content)
    start = time.process_time()
    dataset = folder.load(str(tmp_path))
    assert len(dataset.class_names) == 10_000
    assert dataset.labels[-1] == 9_999
    assert len(validation.usable(dataset, validation.scan(dataset), "fail")) == 10_000
    with pytest.raises(UserError) as caught:
        examples.gather(resolved(TrainConfig(model="lenet5", data=str(tmp_path))))
    assert len(str(caught.value)) < 1000, "10,000 names in a message help nobody"
    assert time.process_time() - start < 60
