from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance

from data.dataset import Dataset, as_records
from evaluation import duplicates
from training.run import Split


def photograph(seed: int) -> Image.Image:
    """Something with large and small structure, unlike its neighbours."""
    generator = np.random.default_rng(seed)
    blocks = Image.fromarray(generator.integers(0, 256, (7, 9, 3), np.uint8))
    coarse = blocks.resize((240, 180), Image.Resampling.BICUBIC)
    grain = generator.normal(0, 6, (180, 240, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def split(images: list[Image.Image], quality: int = 90) -> Split:
    files = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
    names = tuple(str(i) for i in range(len(files)))
    return Split(Dataset("x", names, as_records(files), np.zeros(len(files), np.int64), ("a", "b"), False), 32, 3)


def pairs(test: list[Image.Image], train: list[Image.Image], typical_px: float = 240) -> list[tuple[int, int]]:
    return [(i, j) for i, j, _ in duplicates.compare(split(test, 40), split(train), typical_px)]


def test_changed_copies_are_found_and_other_images_are_not() -> None:
    train = [photograph(seed) for seed in range(12)]
    changed = [
        train[3],
        train[4].resize((120, 90)),
        train[5].transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        ImageEnhance.Brightness(train[6]).enhance(0.8),
        train[7].convert("L").convert("RGB"),
    ]
    strangers = [photograph(seed) for seed in range(100, 112)]
    assert sorted(pairs(strangers + changed, train)) == [(12 + i, 3 + i) for i in range(5)]


def test_the_most_similar_pair_comes_first() -> None:
    train = [photograph(1), photograph(2)]
    noisy = Image.blend(train[0], photograph(9), 0.08)
    assert pairs([noisy, train[1]], train) == [(1, 1), (0, 0)]


def test_images_of_one_color_resemble_nothing() -> None:
    plain = [Image.new("RGB", (64, 64), color) for color in ("red", "red", "black")]
    assert pairs(plain, plain) == []


def test_small_drawings_must_agree_more_closely() -> None:
    train = [photograph(1)]
    similar = [Image.blend(train[0], photograph(9), 0.12)]
    assert pairs(similar, train) == [(0, 0)]
    assert pairs(similar, train, typical_px=28) == []
