"""SIGKILL a run again and again at random moments; then its rows are those of an undisturbed one.

    python -m tests.precompute.kills [--kills 50] [--images 70] [--seed 0] [--workers 2]

The test suite does a short version of this.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from precompute.cli import SAMPLES
from store import places
from store.reader import open_store
from store.schema import TABLES
from tests.precompute.world import SOME, all_rows, make_checkpoint, make_labels, make_pictures


def command(store: Path, images: Path, labels: Path, *specs: str, names: Sequence[str] = (),
            workers: int = 1, samples: Mapping[str, int] = SOME) -> list[str]:
    """A run with every stage on, unless `samples` says otherwise."""
    options = [("--model", spec) for spec in specs] + [("--name", name) for name in names] + [
        ("--ablation", f"{name}={samples[name]}")
        for name in ("mean", "resample", "leave_one_in", "layer")] + [
        (f"--{option}", str(samples[name])) for name, option, _ in SAMPLES]
    return [sys.executable, "-m", "headatlas", "precompute", "--images", str(images), "--labels",
            str(labels), "--store", str(store), "--image-size", "32", "--workers", str(workers),
            *(part for option in options for part in option)]


def kill_after(asked: list[str], store: Path, more_files: int, seconds: float) -> bool:
    """Start a run and kill it so much later than so many more finished files; whether it lived
    until then. The store opens, whatever happened."""
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted = finished(store) + more_files
    while process.poll() is None and not (
            (store / places.MARKER).exists() and finished(store) >= wanted):
        time.sleep(0.002)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    if (store / places.MARKER).exists():
        all_rows(open_store(store))
    return killed


def finished(store: Path) -> int:
    """How many Parquet files are in their places."""
    return sum(len(list(store.glob(table.files))) for table in TABLES.values())


def differing(found: Path, wanted: Path) -> list[str]:
    """The tables whose rows differ."""
    rows, right = all_rows(open_store(found)), all_rows(open_store(wanted))
    return [table for table in TABLES if rows[table] != right[table]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("kills", 50), ("images", 70), ("seed", 0), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        images = make_pictures(home / "images", args.images)
        labels = make_labels(images, home / "labels.csv")
        specs = make_checkpoint(home / "a.safetensors", 3), make_checkpoint(home / "b.safetensors")
        killed = home / "killed"
        asked = command(killed, images, labels, *specs, workers=args.workers)
        kills = 0
        for attempt in range(args.kills):
            kills += kill_after(asked, killed, rng.choice((0, 0, 1, 1, 2)), rng.uniform(0, 0.3))
            print(f"attempt {attempt + 1}: {kills} kills, {finished(killed)} files", flush=True)
        subprocess.run(asked, check=True, stderr=subprocess.DEVNULL)
        subprocess.run(command(home / "whole", images, labels, *specs, workers=args.workers),
                       check=True, stderr=subprocess.DEVNULL)
        wrong = differing(killed, home / "whole")
        print(f"{kills} SIGKILLs; " + (f"rows differ in {', '.join(wrong)}" if wrong else
                                       f"all {len(TABLES)} tables as of an undisturbed run"))
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
