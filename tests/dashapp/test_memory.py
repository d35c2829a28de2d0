"""What is forgotten goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from dashapp.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

give_back() if sys.argv[1] == "asked" else None
before, pins = resident(), []
for _ in range(2):
    arrays = []
    for _ in range(20):
        arrays.append(np.ones(6 << 20, np.uint8))
        pins.append(b"." * 100_000)
    del arrays
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_large_arrays_that_are_forgotten_leave_nothing_behind() -> None:
    held = {how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True,
                                    capture_output=True, text=True).stdout)
            for how in ("asked", "unasked")}
    assert held["asked"] < 20e6 < held["unasked"]
