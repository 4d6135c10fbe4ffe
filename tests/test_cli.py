"""Scripts whose output goes into a closed pipe, onto a full disk, or nowhere. They need no TensorFlow."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
FULL = pathlib.Path("/dev/full")
# Prints more than Python holds back, or less, and leaves a file at its end.
SCRIPT = """
import sys, cli
def main(argv):
    for number in range({lines}):
        print("line", number)
    print("to stderr", file=sys.stderr)
    open(argv[1], "w").close()
    return 0
cli.run(main{options})
"""
LONG, SHORT = 100_000, 3
PROGRAMS = ["train.py", "evaluate.py", "predict.py", "export.py", "-m serving.client", "-m serving.check"]
PROGRAMS += ["-m training.launch", "-m data.serve"]


def in_bash(command: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)


def bash(
    pipeline: str, place: pathlib.Path, lines: int = SHORT, options: str = ""
) -> tuple[subprocess.CompletedProcess, bool]:
    """Runs the script as RUN in a shell; whether it has come to its end, too."""
    place.joinpath("script.py").write_text(SCRIPT.format(lines=lines, options=options))
    end = place / "end"
    run = f"PYTHONPATH={ROOT} {sys.executable} {place / 'script.py'} {end}"
    return in_bash(f"unset PYTHONUNBUFFERED; set -o pipefail; {pipeline.replace('RUN', run)}"), end.exists()


def test_a_closed_pipe_ends_a_script_quietly(tmp_path: pathlib.Path) -> None:
    done, ended = bash("RUN | head -1", tmp_path, LONG)
    assert (done.returncode, done.stdout, done.stderr, ended) == (141, "line 0\n", "", False)
    done, ended = bash("RUN | true", tmp_path, SHORT)
    assert (done.returncode, done.stdout, done.stderr, ended) == (141, "", "to stderr\n", True)


@pytest.mark.parametrize("unbuffered", ["A=1", "PYTHONUNBUFFERED=1"])
def test_a_closed_pipe_does_not_end_what_outlives_it(tmp_path: pathlib.Path, unbuffered: str) -> None:
    done, ended = bash(f"export {unbuffered}; RUN | head -1", tmp_path, LONG, ", outlives_output=True")
    assert (done.returncode, done.stdout, done.stderr, ended) == (0, "line 0\n", "to stderr\n", True)


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize(("lines", "ends"), [(LONG, False), (SHORT, True)])
def test_a_full_disk_is_one_sentence(tmp_path: pathlib.Path, lines: int, ends: bool) -> None:
    done, ended = bash("RUN >/dev/full", tmp_path, lines)
    assert (done.returncode, ended) == (2, ends)
    said = done.stderr.removeprefix("to stderr\n")
    assert (
        said.startswith("Standard output can't be written: No space left on device. Free some space")
        and said.count("\n") == 1
    )


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
def test_what_outlives_its_output_tells_of_a_full_disk_at_its_end(tmp_path: pathlib.Path) -> None:
    done, ended = bash("RUN >/dev/full", tmp_path, LONG, ", outlives_output=True")
    assert (done.returncode, ended) == (2, True)
    assert re.fullmatch("to stderr\nStandard output can't be written: No space .*\n", done.stderr)


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_harm_nothing(tmp_path: pathlib.Path, streams: str) -> None:
    done, ended = bash(f"RUN {streams}", tmp_path, LONG)
    assert (done.returncode, ended) == (0, True), done.stderr


def test_a_message_that_nobody_reads_keeps_its_exit_code() -> None:
    done = in_bash(f"{sys.executable} predict.py 2>&1 >/dev/null | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_help_and_a_version(program: str) -> None:
    done = in_bash(f"{sys.executable} {program} -h")
    assert (done.returncode, done.stderr) == (0, "") and "\n  --" in done.stdout
    done = in_bash(f"{sys.executable} {program} --version")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"darkroom {cli.VERSION}\n")


def test_help_into_a_closed_pipe() -> None:
    done = in_bash(f"{sys.executable} predict.py --help | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize(
    ("flag", "meant"), [("--model=ResNet50", "resnet50"), ("--model=resnet5", "resnet50"), ("--augment=Basic", "basic")]
)
def test_a_value_that_is_nearly_right_is_suggested(flag: str, meant: str) -> None:
    done = in_bash(f"{sys.executable} train.py {flag}")
    assert done.returncode == 2 and f"Did you mean {meant}?" in done.stderr
