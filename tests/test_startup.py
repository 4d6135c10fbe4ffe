from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np

from tests.conftest import encode

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(code: str) -> subprocess.CompletedProcess:
    code = f"import os, startup; startup.load_tensorflow(); {code}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_tensorflow_is_imported_without_its_greeting() -> None:
    result = run("import sys; print('tensorflow' in sys.modules)")
    assert result.stdout == "True\n"
    assert result.stderr == ""


def test_other_messages_are_shown_even_of_a_process_that_crashes() -> None:
    result = run(
        r"""os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on.\nW0000 Cannot dlopen some libraries.\n")
os.write(2, b"F0000 Check failed: no end of line"); os.abort()"""
    )
    assert result.stderr == "W0000 Cannot dlopen some libraries.\nF0000 Check failed: no end of line"


def test_libjpeg_is_silent_about_files_that_it_does_not_name(tmp_path: pathlib.Path) -> None:
    whole = encode(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    half = whole[: len(whole) // 2]
    ended, more = half + b"\xff\xd9", whole[:-2] + b"abc" * 30 + b"\xff\xd9"
    for name, content in (("half.jpg", half), ("ended.jpg", ended), ("more.jpg", more)):
        (tmp_path / name).write_bytes(content)
    result = run(
        f"""
import pathlib
from data.validation import inspect
for path in sorted(pathlib.Path({str(tmp_path)!r}).iterdir()): print(path.name, inspect(path.read_bytes()).problem)
"""
    )
    assert result.stdout == "ended.jpg \nhalf.jpg damaged or cut off\nmore.jpg \n"
    assert result.stderr == ""
