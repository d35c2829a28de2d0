"""How long the page takes to answer, what it sends and what it holds, on a large store.

    python -m benchmarks.serving --store DIR [--make] [--rounds 20] [--seconds 240]
                                 [--pandas DIR] [--profile "lasso, half"]

With --make a synthetic store is made there, if there is none (`benchmarks.synthetic_store`, whose
sizes can be given too). All models of the store are on show. Measured in one run:

1. `headatlas serve` as a process: from its start until it is healthy, the layout is there, and the
   views of the first tab are (files are in the system's cache).
2. Over HTTP, every gesture of `benchmarks.hand.ROUND`, round after round: the time from each
   request to its answer, added up over the callback that makes the state and all that listen to
   it, one after the other; br and this machine's own network included, the browser not. The
   first round is cold and told apart. At least MEASURED gestures follow, until each was done
   `--rounds` times or `--seconds` are over. Then the process's memory is read.
3. What the same questions take in pandas and in plain DuckDB (`benchmarks.alternatives`, in a
   process of its own). --pandas: a folder that pandas is installed in (pip install --target), so
   that the served process is as users have it.

`pace`: milliseconds that a loop of a million additions takes, before the gestures and after them.
On a machine that others use it moves by a factor of two or more, and all figures with it.
--profile shows where the time of a gesture goes, in this process.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import math
import os
import pstats
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hand import ROUND, Act, Hand
from benchmarks.page import Gesture, InProcess, OverHttp, Page
from benchmarks.synthetic_store import add_size, make_store, size_of
from dashapp.app import create_app
from store.places import MARKER
from store.reader import open_store

ROOT = Path(__file__).parents[1]
MEASURED, PACE_LOOPS = 60, 1_000_000
TARGET_MS, TARGET_KB, TARGET_PAGE, TARGET_MB = 100, 500, 2.0, 600
PROFILED, TOP = 5, 25
OURS = r"/(dashapp|store)/|duckdb|flask_compress|json/|orjson"
"""What a profile shows: not the layers of the frameworks, which all hold the same seconds."""

Done = dict[str, list[Gesture]]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of the values are not above."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def play(hand: Hand) -> Iterator[tuple[str, Gesture]]:
    for name, act in ROUND:
        yield name, act(hand)


def gestures(hand: Hand, rounds: int, seconds: float) -> tuple[Done, Done]:
    """The first round, and those after it."""
    hand.show_all()
    cold, warm = defaultdict(list), defaultdict(list)
    for name, done in play(hand):
        cold[name].append(done)
    until = time.perf_counter() + seconds
    following = itertools.chain.from_iterable(play(hand) for _ in range(rounds))
    for count, (name, done) in enumerate(following, 1):
        warm[name].append(done)
        if time.perf_counter() > until and count >= MEASURED:
            break
    return cold, warm


def gesture_table(cold: Done, warm: Done) -> list[str]:
    """A line for each kind of gesture, and one for all."""
    lines = [f"{'':<28}{'':>6}{'milliseconds':>27}{'most kB, all':>16}{'in one answer':>16}",
             f"{'gesture':<28}{'times':>6}{'cold':>9}{'p50':>9}{'p95':>9}"
             + f"{'br':>8}{'raw':>8}" * 2]
    every = [one for done in warm.values() for one in done]
    for name, done in [*warm.items(), ("all", every)]:
        first = cold.get(name, [])
        slow = f"{first[0].seconds * 1e3:.0f}" if first else ""
        took = [g.seconds * 1e3 for g in done]
        largest = [g.largest for g in done]
        sizes = [max(g.sent for g in done), max(g.raw for g in done),
                 max(a.sent for a in largest), max(a.raw for a in largest)]
        lines.append(f"{name:<28}{len(done):>6}{slow:>9}{statistics.median(took):>9.1f}"
                     f"{percentile(took, 0.95):>9.1f}"
                     + "".join(f"{size / 1e3:>8.0f}" for size in sizes))
    return lines


@dataclass(frozen=True)
class Served:
    """Seconds from the start of the process, and its memory in MB by what /proc calls it.

    `tab`: when the callback that draws most of the first page had answered; `all`: when all had.
    `pace`: before the gestures and after them.
    """

    healthy: float
    layout: float
    tab: float
    all: float
    memory: dict[str, float]
    cold: Done
    warm: Done
    pace: tuple[float, float]


@contextmanager
def serving(store: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """`headatlas serve` on a free port, just started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "headatlas.py"), "serve", "--store", str(store),
         "--port", str(port)], stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        yield process, port
    finally:
        process.terminate()
        process.wait(timeout=20)


def pace() -> float:
    """Milliseconds of a loop that does nothing but add."""
    started, total = time.perf_counter(), 0
    for number in range(PACE_LOOPS):
        total += number
    return (time.perf_counter() - started) * 1e3


def serve(store: Path, rounds: int, seconds: float) -> Served:
    started = time.perf_counter()
    with serving(store) as (process, port), closing(OverHttp(port)) as server:
        healthy = _until(lambda: server.ask("/healthz").status == 200, process) - started
        server.ask("/")
        page, workers = Page(server), _children(process.pid)
        layout, answered = time.perf_counter() - started, []
        for answer in page.open():
            answered.append((answer.raw, time.perf_counter() - started))
        hand = Hand(open_store(store), page, seed=2)
        before = pace()
        cold, warm = gestures(hand, rounds, seconds)
        if _children(process.pid) != workers:
            raise RuntimeError("a worker of headatlas serve died")
        return Served(healthy, layout, max(answered)[1], answered[-1][1], _memory(workers), cold,
                      warm, (before, pace()))


def _until(ready: Callable[[], bool], process: subprocess.Popen) -> float:
    """When it was ready. RuntimeError where the process ended before."""
    while process.poll() is None:
        try:
            if ready():
                return time.perf_counter()
        except OSError:
            time.sleep(0.01)
    raise RuntimeError(f"headatlas serve ended with {process.returncode}")


def _children(parent: int) -> list[int]:
    """gunicorn's workers."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _memory(workers: Sequence[int]) -> dict[str, float]:
    """MB of the worker, which holds the store; of the largest, of several."""
    return max(map(_status, workers), key=lambda one: one["VmRSS"])


def _status(pid: int) -> dict[str, float]:
    rows = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    wanted = ("VmRSS:", "VmHWM:", "RssAnon:", "RssFile:")
    return {row[0].rstrip(":"): int(row[1]) / 1e3 for row in rows if row[0] in wanted}


def verdicts(served: Served) -> list[str]:
    """Each figure of the target beside what was measured."""
    warm = served.warm
    every = [one for done in warm.values() for one in done]
    slow = percentile([one.seconds * 1e3 for one in every], 0.95)
    worst = max((percentile([g.seconds * 1e3 for g in done], 0.95), name)
                for name, done in warm.items())
    largest = max(one.sent for one in every) / 1e3
    rows = [
        ("p95 of all gestures", f"{slow:.0f} ms", f"{TARGET_MS} ms", slow <= TARGET_MS),
        (f"p95 of the slowest kind ({worst[1]})", f"{worst[0]:.0f} ms", f"{TARGET_MS} ms",
         worst[0] <= TARGET_MS),
        ("most that a gesture sent, br", f"{largest:.0f} kB", f"{TARGET_KB} kB",
         largest <= TARGET_KB),
        ("first page after the start of serve", f"{served.all:.2f} s", f"{TARGET_PAGE:.0f} s",
         served.all <= TARGET_PAGE),
        ("memory of the serving process", f"{served.memory['VmRSS']:.0f} MB", f"{TARGET_MB} MB",
         served.memory["VmRSS"] <= TARGET_MB)]
    return [f"{'figure':<62}{'measured':>10}{'target':>10}{'':>5}"] + [
        f"{name:<62}{measured:>10}{target:>10}{'yes' if held else 'NO':>5}"
        for name, measured, target, held in rows]


def profile(hand: Hand, name: str, act: Act) -> None:
    """Where the time of one kind of gesture goes, filters cleared in between."""
    profiler = cProfile.Profile()
    for _ in range(PROFILED):
        hand.clear()
        profiler.enable()
        act(hand)
        profiler.disable()
    print(f"\n{PROFILED} times: {name}")
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(OURS, TOP)


def alternatives(store: Path, pandas: Path | None) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), str(pandas or ""),
                                         os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run([sys.executable, "-m", "benchmarks.alternatives", "--store", str(store)],
                          capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": path})
    return done.stdout if done.returncode == 0 else f"failed: {done.stderr.strip()[-500:]}"


def report(store: Path, rounds: int, seconds: float, pandas: Path | None, profiled: Sequence[str]
           ) -> None:
    atlas = open_store(store)
    (size,) = atlas.query("SELECT count(*) AS heads, count(DISTINCT model) AS models, (SELECT "
                          "count(*) FROM head_scores WHERE ablation = 'zero') AS rows, (SELECT "
                          "count(*) FROM images) AS images FROM heads").to_pylist()
    print(f"{size['models']} models, {size['heads']:,} heads, {size['images']:,} images, "
          f"{size['rows']:,} rows of heads and images; {len(os.sched_getaffinity(0))} cores, load "
          f"{os.getloadavg()[0]:.1f}", flush=True)
    served = serve(store, rounds, seconds)
    before, after = served.pace
    print(f"\nserve: healthy after {served.healthy:.2f} s, layout {served.layout:.2f} s, first tab "
          f"{served.tab:.2f} s, all of the first page {served.all:.2f} s; pace {before:.0f} and "
          f"{after:.0f} ms\nmemory after the gestures, MB: "
          + ", ".join(f"{name} {mb:.0f}" for name, mb in served.memory.items()), flush=True)
    print("\n".join(["", *gesture_table(served.cold, served.warm)]), flush=True)
    if any(one.failed for done in (*served.cold.values(), *served.warm.values()) for one in done):
        print("SOME VIEWS FAILED: these figures are not of a whole page")
    if profiled:
        hand = Hand(atlas, Page(InProcess(create_app(store).server)))
        list(hand.page.open())
        hand.show_all()
        for name in profiled:
            profile(hand, name, dict(ROUND)[name])
    print(f"\n{alternatives(store, pandas)}")
    print("\n".join(verdicts(served)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--make", action="store_true", help="make a synthetic store if none is "
                        "there")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--pandas", type=Path, help="a folder that pandas is installed in")
    parser.add_argument("--profile", action="append", default=[], choices=list(dict(ROUND)),
                        metavar="GESTURE", help="one of: " + "; ".join(
                            name.replace("%", "%%") for name in dict(ROUND)))
    add_size(parser)
    args = parser.parse_args(argv)
    if args.make and not (args.store / MARKER).exists():
        make_store(args.store, size_of(args), lambda text: print(text, flush=True))
    report(args.store, args.rounds, args.seconds, args.pandas, args.profile)


if __name__ == "__main__":
    main()
