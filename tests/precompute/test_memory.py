"""What workers have asked for stays with them, in large pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from precompute.memory import keep_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

kept = keep_memory() if sys.argv[1] == "asked" else None
before = resident()
np.ones(48 << 20, np.uint8)
print(kept, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_memory_stays_where_it_is_asked_to() -> None:
    (kept, more), (_, less) = (
        subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True,
                       text=True).stdout.split() for how in ("asked", "unasked"))
    assert kept in ("True", "False"), "False: a system without large pages"
    assert int(less) < 20e6 < 48e6 <= int(more)
