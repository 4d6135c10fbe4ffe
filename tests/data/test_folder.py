from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from data import folder, load
from errors import UserError
from training import examples
from training.config import TrainConfig
from training.resolve import resolved
from training.run import Run


def write(root: pathlib.Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_litter_is_passed_over(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "cat/1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "cat/._1.jpg", "cat/desktop.ini", "dog/deep/2.jpg")
    write(tmp_path, "__MACOSX/cat/1.jpg", ".git/config", "dog/.cache/3.jpg", "dog/@eaDir/4.jpg", "README.txt")
    dataset = folder.load(str(tmp_path))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.addresses == ("cat/1.jpg", "dog/deep/2.jpg")


def test_a_slash_at_the_end_changes_nothing(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "cat/1.jpg", "dog/2.jpg")
    assert folder.load(f"{tmp_path}//").addresses == folder.load(str(tmp_path)).addresses


def test_links_are_followed_but_never_in_circles(tmp_path: pathlib.Path) -> None:
    root, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    write(root, "cat/1.jpg", "dog/2.jpg")
    write(elsewhere, "3.jpg", "deep/4.jpg")
    for place, target in {
        "loop": ".",
        "up": "..",
        "cat/self": ".",
        "cat/parent": "..",
        "cat/root": str(root),
        "cat/more": str(elsewhere),
        "cat/more too": str(elsewhere),
        "cat/dangling": "nowhere",
        "bird": str(elsewhere / "deep"),
    }.items():
        os.symlink(target, root / place)
    os.symlink(root / "dog", elsewhere / "deep" / "back")
    os.symlink(elsewhere, root / "dog" / "far")
    dataset = folder.load(str(root))
    assert dataset.class_names == ("bird", "cat", "dog")
    cats = [a for a in dataset.addresses if a.startswith("cat/")]
    assert cats[:2] == ["cat/1.jpg", "cat/dangling"], "a dangling link is for the scan to report"
    assert sum(a.endswith("3.jpg") for a in cats) == 1, "no image counts twice in a class"
    assert "cat/dog/2.jpg" not in cats and "cat/parent/dog/2.jpg" not in cats


def test_one_class_only(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "cat/1.jpg")
    with pytest.raises(UserError, match=r"at least two classes. Received 1: cat"):
        folder.load(str(tmp_path))


def test_no_class(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "1.jpg")
    with pytest.raises(UserError, match=r"Received 0: none.*photos/cat/"):
        folder.load(str(tmp_path))


def test_empty_class_folders_are_named(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "cat/1.jpg", "dog/.hidden")
    (tmp_path / "bird").mkdir()
    with pytest.raises(UserError, match=r"no file in: bird, dog\."):
        folder.load(str(tmp_path))


def test_parts_are_not_taken_for_classes(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "Test/cat/3.jpg")
    with pytest.raises(UserError, match=r"Received: Test, train, which are splits.*`data`, such as .*/Test"):
        folder.load(str(tmp_path))


def test_a_class_name_of_two_lines(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "cat\ndog/1.jpg", "bird/2.jpg")
    with pytest.raises(UserError, match=r"must be one line. Received: 'cat\\ndog'"):
        folder.load(str(tmp_path))


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root in a container one may read everything, so the refusal is put on."""
    write(tmp_path, "cat/1.jpg", "cat/locked/2.jpg", "dog/3.jpg")
    really = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        UserError, match=r"must be readable. Received: .*cat/locked, which is not \(Permission denied\)"
    ):
        folder.load(str(tmp_path))


def odd_names(image_folder: pathlib.Path) -> list[bytes]:
    """Renames images and a class to names of bytes that are no UTF-8, of other scripts, and of CSV's own signs."""
    root = os.fsencode(image_folder)
    names = [
        b"caf\xe9.jpg",
        "Größe – 写真.jpg".encode(),
        b'a,"b" c.jpg',
        b"new\nline.jpg",
        b"\xff\xfe\\x41.jpg",
        b" .jpg",
    ]
    for number, name in enumerate(names):
        os.rename(root + b"/lying/%02d.jpg" % number, root + b"/lying/" + name)
    os.rename(root + b"/upright", root + b"/d\xe9bout")
    return names


def test_names_that_are_not_utf8_go_all_the_way(
    image_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    """Through listing, scan, split, splits.csv, labels.txt, config.json, and back to the pixels."""
    from training.trainer import train

    names = odd_names(image_folder)
    (image_folder / "lying" / os.fsdecode(b"bad\xe9.jpg")).write_bytes(b"no image")
    settings = {"model": "lenet5", "image_size": 16, "epochs": 1, "on_bad_image": "skip", "batch_size": 8}
    config = resolved(TrainConfig(data=str(image_folder), run_dir=str(tmp_path / "run"), **settings))
    run = Run.open(train(config, command="").path)
    assert run.class_names == (os.fsdecode(b"d\xe9bout"), "lying")
    rows = run.splits()
    assert {os.fsencode(row.address) for row in rows} >= {b"lying/" + name for name in names}
    assert {row.label for row in rows} == set(run.class_names)
    dataset = load(str(image_folder))
    files = dict(zip(dataset.addresses, range(len(dataset)), strict=True))
    split = run.split("train")
    for i in range(len(split)):
        assert split.encoded(i) == dataset.encoded(files[split.addresses[i]])
    assert sum(len(batch) for batch in split.pixels(8)) == len(split)
    assert os.fsencode(run.details()["skipped_images"][0]["address"]) == b"lying/bad\xe9.jpg"
    assert r"lying/bad\xe9.jpg: not an image" in capsys.readouterr().err


def test_a_data_folder_whose_own_name_is_not_utf8(image_folder: pathlib.Path) -> None:
    place = image_folder.parent / os.fsdecode(b"\xe9t\xe9")
    image_folder.rename(place)
    gathered = examples.gather(resolved(TrainConfig(model="lenet5", data=str(place))))
    assert np.bincount(gathered.dataset.labels).tolist() == [20, 20]


@pytest.mark.parametrize("name", ["run\ud8e9", "a\nb", os.fsdecode(b"\xe9t\xe9")])
def test_a_run_folder_must_print(name: str) -> None:
    with pytest.raises(UserError, match="--run_dir must be printable UTF-8"):
        resolved(TrainConfig(model="lenet5", data="digits", run_dir=name))


def test_a_run_folder_among_the_images_is_refused(image_folder: pathlib.Path) -> None:
    for place in (image_folder, image_folder / "runs" / "1", image_folder / "cat" / ".." / "new"):
        with pytest.raises(UserError, match="--run_dir must lie outside the images"):
            resolved(TrainConfig(model="lenet5", data=str(image_folder), run_dir=str(place)))
