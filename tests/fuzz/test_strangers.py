"""The fuzz is short here; for half an hour: python tests/fuzz/strangers.py --minutes 30."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc are Linux's")


@linux
def test_some_seconds_of_files_do_nothing_that_they_must_not(tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "strangers.py", "--minutes", "0.2", "--out", tmp_path],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and ", 0 at fault" in done.stdout, done.stdout + done.stderr


# What a file might bring about, and how the fuzz must say it.
FAULTS = {
    "os.system('true')": 'forbidden: ["os.system',
    "open(os.devnull, 'w').close()": "forbidden: [\"open ('/dev/null', 'w'",
    "raise KeyError('x')": "KeyError: 'x'",
    "raise ValueError('a\\nb')": "no single line",
    "bytearray(200_000_000)": "bytes of memory for",
    "time.sleep(5)": "takes more than 1 seconds",
}
DRIVER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import strangers

real, left, sound = strangers.taken, sys.argv[2:], []

def taken(kind, path):
    sound.append(kind)
    if len(sound) <= len(files):  # those that are not watched
        return real(kind, path)
    exec(faults.pop(0))

def kept(found, seed, kind, data, fault):
    print(fault)
    if not faults:
        sys.exit()

files = strangers.sound()
faults = [compile(code, "fault", "exec") for code in left]
strangers.FORBIDDEN = tuple(name for name in strangers.FORBIDDEN if name != "exec")
strangers.SECONDS, strangers.PIXELS, strangers.taken, strangers.keep = 1, 0, taken, kept
strangers.child(1, time.time() + 100, strangers.Path("."))
"""


@linux
def test_what_must_not_happen_is_noticed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, HERE, *FAULTS],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert len(said) == len(FAULTS), done.stdout + done.stderr
    for line, wanted in zip(said, FAULTS.values(), strict=True):
        assert wanted in line
