from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

import startup

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_tensorflow_is_imported_without_its_greeting() -> None:
    code = "import startup; startup.load_tensorflow(); import sys; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.stdout == "True\n"
    assert result.stderr == ""


def test_other_messages_are_shown(capsys: pytest.CaptureFixture) -> None:
    startup._show("I0000 port.cc:153] oneDNN custom operations are on.\nW0000 Cannot dlopen some GPU libraries.\n")
    assert capsys.readouterr().err == "W0000 Cannot dlopen some GPU libraries.\n"
