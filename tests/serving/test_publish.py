from __future__ import annotations

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tensorflow as tf

from errors import UserError
from models.saved_models import versions
from serving.publish import publish

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write(folder: str, content: str = "model") -> None:
    os.makedirs(os.path.join(folder, "variables"))
    for name in ("saved_model.pb", "variables/variables.index"):
        pathlib.Path(folder, name).write_text(content)


def test_versions_count_up_from_one(tmp_path: pathlib.Path) -> None:
    base = tmp_path / "new" / "export"
    assert [publish(write, str(base)) for _ in range(3)] == [str(base / str(i)) for i in (1, 2, 3)]
    assert versions(str(base)) == [1, 2, 3]
    assert sorted(path.name for path in base.iterdir()) == ["1", "2", "3"]


def test_a_gap_is_never_filled(tmp_path: pathlib.Path) -> None:
    for name in ("2", "10", "notes", ".part-elsewhere-1-abc"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("a file is no version")
    assert versions(str(tmp_path)) == [2, 10]
    assert publish(write, str(tmp_path), version=5) == str(tmp_path / "5")
    assert publish(write, str(tmp_path)) == str(tmp_path / "11")


def test_other_files_with_the_next_number_are_not_replaced(tmp_path: pathlib.Path) -> None:
    publish(write, str(tmp_path))
    with pytest.raises(UserError, match=r"must be at least 1 and not in .* yet.*\[1\].*Received: 1"):
        publish(write, str(tmp_path), version=1)
    with pytest.raises(UserError, match="Received: 0"):
        publish(write, str(tmp_path), version=0)


def test_only_the_highest_versions_are_kept(tmp_path: pathlib.Path) -> None:
    for _ in range(4):
        publish(write, str(tmp_path), keep_versions=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
    # A low number that was asked for stays, else the export would be gone at once.
    publish(write, str(tmp_path), version=1, keep_versions=2)
    assert versions(str(tmp_path)) == [1, 3, 4]
    with pytest.raises(UserError, match="Received: -1"):
        publish(write, str(tmp_path), keep_versions=-1)


def test_a_failure_leaves_nothing(tmp_path: pathlib.Path) -> None:
    def fail(folder: str) -> None:
        write(folder)
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        publish(fail, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_two_that_take_the_same_number_get_two(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(lambda folder: write(folder, "first"), str(tmp_path))
    really, asked = os.rename, []

    def overtaken(source: str, target: str) -> None:
        """Just before the first attempt another export takes the number."""
        asked.append(target)
        if len(asked) == 1:
            write(target, "second")
        really(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    assert publish(lambda folder: write(folder, "third"), str(tmp_path)) == str(tmp_path / "3")
    contents = [(tmp_path / name / "saved_model.pb").read_text() for name in ("1", "2", "3")]
    assert contents == ["first", "second", "third"]


def test_a_given_number_that_is_taken_meanwhile(tmp_path: pathlib.Path) -> None:
    def overtaken(folder: str) -> None:
        write(folder)
        write(str(tmp_path / "3"), "other")

    with pytest.raises(UserError, match="`version` 3 was taken"):
        publish(overtaken, str(tmp_path), version=3)
    assert (tmp_path / "3" / "saved_model.pb").read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def _publish_with_content(base: str, content: str) -> str:
    return publish(lambda folder: write(folder, content), base)


def test_many_at_once_each_get_a_whole_version(tmp_path: pathlib.Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda i: _publish_with_content(str(tmp_path), f"model {i}"), range(24)))
    assert versions(str(tmp_path)) == list(range(1, 25))
    assert [pathlib.Path(path, "saved_model.pb").read_text() for path in paths] == [f"model {i}" for i in range(24)]


def test_two_processes_at_once(tmp_path: pathlib.Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_publish_several, args=(str(tmp_path),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert versions(str(tmp_path)) == list(range(1, 21))


def _publish_several(base: str) -> None:
    for i in range(10):
        _publish_with_content(base, str(i))


def test_a_killed_export_leaves_no_version_and_the_next_one_cleans_up(tmp_path: pathlib.Path) -> None:
    script = (
        "import os, sys, time\n"
        "from serving.publish import publish\n"
        "def write(folder):\n"
        "    os.makedirs(folder + '/variables')\n"
        "    open(folder + '/saved_model.pb', 'w').write('half')\n"
        "    print('half-way', flush=True)\n"
        "    time.sleep(60)\n"
        f"publish(write, {str(tmp_path)!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half-way\n"
    (left,) = tmp_path.iterdir()
    # Another export at the same time leaves the unfinished one alone.
    publish(write, str(tmp_path))
    assert left.is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    assert versions(str(tmp_path)) == [1]
    publish(write, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_server_that_reads_all_the_time_never_sees_half_a_version(tmp_path: pathlib.Path) -> None:
    def slowly(folder: str) -> None:
        os.makedirs(os.path.join(folder, "variables"))
        pathlib.Path(folder, "saved_model.pb").write_text("model")
        time.sleep(0.02)
        pathlib.Path(folder, "variables", "variables.index").write_text("model")

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: [publish(slowly, str(tmp_path), keep_versions=2) for _ in range(15)])
        while not done.done():
            for number in versions(str(tmp_path)):
                files = [tmp_path / str(number) / name for name in ("saved_model.pb", "variables/variables.index")]
                is_whole = all(file.is_file() for file in files)
                # Pruned meanwhile, it is no version any more.
                assert is_whole or number not in versions(str(tmp_path))
    assert versions(str(tmp_path)) == [14, 15]


def test_places_that_do_not_work_are_explained(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="there is a file where a folder must be"):
        publish(write, str(tmp_path / "file"))


def test_versions_on_object_storage() -> None:
    base = "ram://published/export"
    for number in (1, 2, 3):
        assert publish(write, base, keep_versions=2) == f"{base}/{number}"
    assert versions(base) == [2, 3]
    assert tf.io.gfile.exists(f"{base}/3/variables/variables.index")
    with pytest.raises(UserError, match="Received: 3"):
        publish(write, base, version=3)
