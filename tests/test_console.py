"""Scripts whose output goes into a closed pipe, onto a full disk, or nowhere. They need no TensorFlow."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

import errors

ROOT = pathlib.Path(__file__).resolve().parents[1]
FULL = pathlib.Path("/dev/full")
# Prints more than Python holds back, or less, and leaves a file at its end.
SCRIPT = """
import sys, errors
def main(argv):
    for number in range({lines}):
        print("line", number)
    print("to stderr", file=sys.stderr)
    open(argv[1], "w").close()
    return 0
errors.run(main{options})
"""
LONG, SHORT = 100_000, 3
PROGRAMS = ["train.py", "evaluate.py", "predict.py", "export.py", "-m serving.client", "-m serving.check"]
PROGRAMS += ["-m training.launch", "-m data.serve"]


def bash(
    pipeline: str, place: pathlib.Path, lines: int = SHORT, options: str = ""
) -> tuple[subprocess.CompletedProcess, bool]:
    """Runs the script as `$RUN` in a shell; whether it has come to its end, too."""
    place.joinpath("script.py").write_text(SCRIPT.format(lines=lines, options=options))
    end = place / "end"
    run = f"PYTHONPATH={ROOT} {sys.executable} {place / 'script.py'} {end}"
    command = ["bash", "-c", f"set -o pipefail; {pipeline.replace('$RUN', run)}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60), end.exists()


def test_a_closed_pipe_ends_a_script_quietly(tmp_path: pathlib.Path) -> None:
    done, ended = bash("$RUN | head -1", tmp_path, LONG)
    assert (done.returncode, done.stdout, done.stderr, ended) == (141, "line 0\n", "", False)
    done, ended = bash("$RUN | true", tmp_path, SHORT)
    assert (done.returncode, done.stdout, done.stderr, ended) == (141, "", "to stderr\n", True)


@pytest.mark.parametrize("unbuffered", ["", "PYTHONUNBUFFERED=1 "])
def test_a_closed_pipe_does_not_end_what_outlives_it(tmp_path: pathlib.Path, unbuffered: str) -> None:
    done, ended = bash(f"{unbuffered}$RUN | head -1", tmp_path, LONG, ", outlives_output=True")
    assert (done.returncode, done.stdout, done.stderr, ended) == (0, "line 0\n", "to stderr\n", True)


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize(("lines", "ends"), [(LONG, False), (SHORT, True)])
def test_a_full_disk_is_one_sentence(tmp_path: pathlib.Path, lines: int, ends: bool) -> None:
    done, ended = bash("$RUN >/dev/full", tmp_path, lines)
    assert (done.returncode, ended) == (2, ends)
    said = done.stderr.removeprefix("to stderr\n")
    assert (
        said.startswith("Standard output can't be written: No space left on device. Make room")
        and said.count("\n") == 1
    )


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
def test_what_outlives_its_output_tells_of_a_full_disk_at_its_end(tmp_path: pathlib.Path) -> None:
    done, ended = bash("$RUN >/dev/full", tmp_path, LONG, ", outlives_output=True")
    assert (done.returncode, ended) == (2, True)
    assert re.fullmatch("to stderr\nStandard output can't be written: No space .*\n", done.stderr)


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_harm_nothing(tmp_path: pathlib.Path, streams: str) -> None:
    done, ended = bash(f"$RUN {streams}", tmp_path, LONG)
    assert (done.returncode, ended) == (0, True), done.stderr


def test_a_message_that_nobody_reads_keeps_its_exit_code(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(f"{sys.executable} predict.py 2>&1 >/dev/null | true; echo ${{PIPESTATUS[0]}}", **SHELL)
    assert (done.stdout, done.stderr) == ("2\n", "")


SHELL: dict = {"shell": True, "executable": "/bin/bash", "cwd": ROOT, "capture_output": True, "text": True}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_help_and_a_version(program: str) -> None:
    for flags, expected in (
        ("-h", "  --[no]") if program == "evaluate.py" else ("-h", "  --"),
        ("--version", "darkroom"),
    ):
        done = subprocess.run(
            [sys.executable, *program.split(), flags], **{**SHELL, "shell": False, "executable": None}
        )
        assert (done.returncode, done.stderr) == (0, ""), program
        assert expected in done.stdout
    assert done.stdout == f"darkroom {errors.VERSION}\n"


def test_help_into_a_closed_pipe(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(f"{sys.executable} train.py --helpfull | head -1; echo ${{PIPESTATUS[0]}}", **SHELL)
    assert (done.stdout.splitlines()[1:], done.stderr) in ((["141"], ""), (["1"], ""))


def test_a_value_that_is_nearly_right_is_suggested() -> None:
    for flag, meant in (
        ("--model=ResNet50", "resnet50"),
        ("--model=resnet5", "resnet50"),
        ("--augment=Basic", "basic"),
    ):
        done = subprocess.run([sys.executable, "train.py", flag], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and f"Did you mean {meant}?" in done.stderr
