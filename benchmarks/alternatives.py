"""The obvious other ways to what one lasso changes, beside ours, over the same rows.

    python -m benchmarks.alternatives --store DIR [--rounds 5]

Two questions are asked of lassos around half the images: the mean of one measure per head, and all
numbers that the lasso changes on the page: means of an importance and of a strength measure per
head, hop profiles and histograms per model, counts in the cells of the map of patterns, and mean
probabilities per model. Each way answers from the numbers of the images in the lasso; ours are the
page's own queries of the tab of heads, figures not counted. All ways show all models of the store.

    pandas                    group-bys over tables in memory; `reading` them is timed apart
    DuckDB, one unsorted file group-bys with a semi-join over one Parquet file of the rows of images
                              and heads in random order (made beside the store, once)
    DuckDB, the store's rows  the same over the store's own Parquet files
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hand import HALF, ring
from dashapp import state
from dashapp.facts import Facts
from dashapp.views import VIEWS
from store import queries
from store.places import files_of
from store.queries import Ask
from store.reader import Store, open_store
from store.selection import Region, Selection

IMPORTANCE, STRENGTH, HOPS = "probability_drop", "hop_entropy", "hop_strength"
HEAD = ["model", "layer", "head"]
BINS = 36
THREADS, MEMORY = 2, "3GB"

_ROWS = f"""
SELECT s.model, s.image, s.layer, s.head, s.{IMPORTANCE}, t.{STRENGTH}, t.hop_strength, p.x, p.y
FROM head_scores s JOIN head_strength t USING (model, image, layer, head)
JOIN (SELECT * FROM head_patterns WHERE kind = 'patch') p USING (model, image, layer, head)
WHERE s.ablation = 'zero'"""

_KEPT = "image IN (SELECT unnest($images::INTEGER[]))"


def _questions(scores: str, strength: str, patterns: str, also: str = "") -> list[str]:
    """The SQL of all numbers, the mean of the importance per head first."""
    return [
        f"SELECT model, layer, head, avg({IMPORTANCE}) AS value FROM {scores} WHERE {_KEPT} "
        f"{also} GROUP BY ALL",
        f"SELECT model, layer, head, avg({STRENGTH}) FROM {strength} WHERE {_KEPT} GROUP BY ALL",
        f"SELECT model, hop, avg(v) FROM (SELECT model, unnest(hop_strength) AS v, "
        f"generate_subscripts(hop_strength, 1) AS hop FROM {strength} WHERE {_KEPT}) GROUP BY ALL",
        f"SELECT model, floor({STRENGTH} * {BINS} / 3)::INTEGER AS bin, count(*) FROM {strength} "
        f"WHERE {_KEPT} GROUP BY ALL",
        f"SELECT floor((x + 12) * 3)::INTEGER AS i, floor((y + 12) * 3)::INTEGER AS j, count(*) "
        f"FROM {patterns} WHERE {_KEPT} GROUP BY ALL",
        f"SELECT model, avg(probability) FROM predictions WHERE {_KEPT} GROUP BY ALL"]


class Ours:
    """The page's own queries, through its own store."""

    def __init__(self, store: Store) -> None:
        self._store, self._rng = store, np.random.default_rng(1)
        self._facts = Facts.read(store)
        self._models = self._facts.names

    def lasso(self) -> Selection:
        model = self._models[int(self._rng.integers(len(self._models)))]
        corners = ring(self._store, self._rng, model, HALF)
        return Selection().with_(Region(model, tuple((x, y) for x, y in corners)))

    def images(self, lasso: Selection) -> list[int]:
        return queries.inside(self._store, lasso.regions[0])

    def means(self, lasso: Selection) -> None:
        queries.head_values(Ask(self._store, self._models, lasso), IMPORTANCE).rows(self._store)

    def everything(self, lasso: Selection) -> None:
        now, _ = state.from_url("", self._facts)
        now = replace(now, models=self._models, selection=lasso, importance=IMPORTANCE,
                            strength=STRENGTH)
        ask = Ask(self._store, self._models, lasso)
        for view in VIEWS:
            if view.tab == now.tab and "selection" in view.reads:
                for query in view.ask(ask, now, self._facts).values():
                    query.rows(self._store)


class Pandas:
    """Everything that is asked about, in tables in memory."""

    def __init__(self, store: Path) -> None:
        self._scores = _frame(store, "head_scores", [*HEAD, "image", IMPORTANCE],
                              ("ablation", "=", "zero"))
        self._strength = _frame(store, "head_strength", [*HEAD, "image", STRENGTH, HOPS])
        self._hops = [name for name in self._strength.columns if name.startswith("hop_strength")]
        self._cells = _frame(store, "head_patterns", ["image", "x", "y"], ("kind", "=", "patch"))
        self._predictions = _frame(store, "predictions", ["model", "image", "probability"])

    def means(self, images: list[int]) -> None:
        self._scores[self._scores["image"].isin(images)].groupby(HEAD, observed=True)[
            IMPORTANCE].mean()

    def everything(self, images: list[int]) -> None:
        self.means(images)
        kept = self._strength[self._strength["image"].isin(images)]
        kept.groupby(HEAD, observed=True)[STRENGTH].mean()
        kept.groupby("model", observed=True)[self._hops].mean()
        bins = (kept[STRENGTH] * (BINS / 3)).astype(int)
        kept.groupby([kept["model"], bins], observed=True).size()
        cells = self._cells[self._cells["image"].isin(images)]
        i, j = (((cells[axis] + 12) * 3).astype(int) for axis in "xy")
        cells.groupby([i, j]).size()
        own = self._predictions[self._predictions["image"].isin(images)]
        own.groupby("model", observed=True)["probability"].mean()


def _frame(store: Path, table: str, columns: list[str], *only: tuple) -> Any:
    """A data frame of these columns; a list becomes a column for each place in it."""
    parts = [_spread(pq.read_table(file, columns=columns, filters=list(only) or None))
             for file in files_of(store, table)]
    return pa.concat_tables(part for part in parts if part.num_rows).to_pandas(
        strings_to_categorical=True)


def _spread(part: pa.Table) -> pa.Table:
    if HOPS not in part.column_names:
        return part
    flat = part[HOPS].combine_chunks().flatten().to_numpy().reshape(part.num_rows, -1)
    part = part.drop_columns(HOPS)
    for k in range(flat.shape[1]):
        part = part.append_column(f"{HOPS}_{k}", pa.array(np.ascontiguousarray(flat[:, k])))
    return part


class Sql:
    """A connection on which the questions can be asked."""

    def __init__(self, ask: Callable[[str, dict], object], questions: Sequence[str]) -> None:
        self._ask, self.questions = ask, questions

    def means(self, images: list[int]) -> None:
        self._ask(self.questions[0], {"images": images})

    def everything(self, images: list[int]) -> None:
        for sql in self.questions:
            self._ask(sql, {"images": images})


def unsorted(store: Path) -> Path:
    """The file of all rows in random order, beside the store; made if it is not there, or older."""
    file = store.with_name(f"{store.name}-unsorted.parquet")
    newest = max(f.stat().st_mtime for f in files_of(store, "head_scores"))
    if not file.exists() or file.stat().st_mtime < newest:
        opened = Store(store, {"memory_limit": MEMORY, "threads": THREADS})
        with opened.cursor() as cursor:
            cursor.execute(f"COPY ({_ROWS} ORDER BY hash(s.model, s.image, s.layer, s.head)) "
                           f"TO '{str(file).replace(chr(39), chr(39) * 2)}' (FORMAT parquet)")
    return file


def _over_one_file(store: Path, file: Path) -> Sql:
    connection = duckdb.connect(config={"threads": THREADS})
    connection.execute("SET GLOBAL parquet_metadata_cache = true")
    connection.read_parquet(str(file)).create_view("rows")
    connection.read_parquet([str(f) for f in files_of(store, "predictions")]
                            ).create_view("predictions")
    return Sql(lambda sql, params: connection.sql(sql, params=params).to_arrow_table(),
               _questions("rows", "rows", "rows"))


def over_the_store(store: Store) -> Sql:
    return Sql(store.query, _questions(
        "head_scores", "head_strength", "(FROM head_patterns WHERE kind = 'patch')",
        "AND ablation = 'zero'"))


@dataclass(frozen=True)
class Taken:
    """Seconds that a way takes, median over lassos, for each question. `reading`: before that."""

    way: str
    means: float
    everything: float
    reading: float | None = None


def compare(path: Path, rounds: int) -> list[Taken]:
    """Ours first. pandas is left out where it is not installed."""
    store = open_store(path)
    ours = Ours(store)
    file = unsorted(path)
    started = time.perf_counter()
    pandas = Pandas(path) if importlib.util.find_spec("pandas") else None
    reading = time.perf_counter() - started
    ways: dict[str, Any] = {
        "ours": ours, "DuckDB, one unsorted file": _over_one_file(path, file),
        "DuckDB, the store's rows": over_the_store(store)}
    if pandas:
        ways["pandas"] = pandas
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for question in ("means", "everything"):
            lasso = ours.lasso()
            images = ours.images(lasso)
            for name, way in ways.items():
                started = time.perf_counter()
                getattr(way, question)(lasso if way is ours else images)
                if turn:  # the first is to warm up
                    times[name, question].append(time.perf_counter() - started)
    return [Taken(name, *(statistics.median(times[name, q]) for q in ("means", "everything")),
                  reading if name == "pandas" else None) for name in ways]


def table(found: Sequence[Taken]) -> list[str]:
    ours = found[0]
    lines = [f"{'way':<28}{'mean of one measure':>22}{'x ours':>8}{'all numbers':>14}{'x ours':>8}"
             f"{'reading':>10}"]
    for one in found:
        reading = "" if one.reading is None else f"{one.reading:.1f} s"
        lines.append(f"{one.way:<28}{one.means * 1e3:>19.1f} ms{one.means / ours.means:>8.1f}"
                     f"{one.everything * 1e3:>11.1f} ms{one.everything / ours.everything:>8.1f}"
                     f"{reading:>10}")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    print("\n".join(table(compare(args.store, args.rounds))))
    if importlib.util.find_spec("pandas") is None:
        print("pandas is not installed: left out")


if __name__ == "__main__":
    main()
