"""What the page shows, as one frozen value: URL query string <-> State <-> the page's store.

A state always holds valid, concrete values for a given store; whatever a URL asks for and the store
lacks is left out and said in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlencode

from dashapp.facts import Facts
from store import compare_queries
from store.partial_queries import QUANTITIES
from store.pattern_tables import KINDS, SPACES
from store.schema import IMPORTANCE, MODES, OUTCOMES, RANKED, STRENGTH, SUMMARISED
from store.selection import Clause, HeadKey, Heads, Labels, Region, Selection

MAX_URL = 60_000
SHOWN_AT_FIRST = 4
LONGEST_SQL = 8_000

COLOURS = {
    "label": "label",
    "correct": "correct or wrong",
    "probability": "probability of the top class",
    "agreement": "agreement between models",
    "effect": "effect of the chosen heads",
}
TABS = {"heads": "Heads", "compare": "Compare", "sql": "SQL"}
"""The tabs of the page."""

AXES = {"head": "head index", "depth": "relative depth"}
MARKS = {"dots": "dots", "thumbnails": "thumbnails"}
HOPS = {"hop": "patches", "side": "share of grid side"}

CLOUDS = {"density": "density", "scatter": "scatter plot"}
PAINTS = {"model": "model", "layer": "layer", "pattern": "pattern name", "cluster": "cluster",
          "importance": "importance"}
LOOKS = {"at": "where it looks", "from": "who looks at it"}
LINKS = {"0.1": "0.1 %", "1": "1 %", "5": "5 %", "20": "20 %"}
"""The share of links that is drawn, the largest weights, while no weights are brushed."""

ALONG = {"depth": "depth", "layer": "layer"}
BANDS = {"quartiles": "quartiles", "range": "min–max"}
SHADES = {"model": "model", "layer": "layer", "pattern": "pattern name",
          **{c.name: c.label for c in SUMMARISED}}
COEFFICIENTS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ-b"}
OVER = {"mean": "mean of models", "each": "each model"}
JUDGED = tuple(compare_queries.QUANTITIES)
"""What pruning curves can be of."""

CHOICES: dict[str, tuple[str, ...]] = {
    "tab": tuple(TABS),
    "importance": tuple(c.name for c in IMPORTANCE),
    "strength": tuple(c.name for c in STRENGTH),
    "colour": tuple(COLOURS),
    "axis": tuple(AXES),
    "marks": tuple(MARKS),
    "hops": tuple(HOPS),
    "kind": KINDS,
    "space": tuple(SPACES),
    "cloud": tuple(CLOUDS),
    "paint": tuple(PAINTS),
    "looks": tuple(LOOKS),
    "links": tuple(LINKS),
    "mode": tuple(MODES),
    "left": QUANTITIES,
    "compared": tuple(c.name for c in SUMMARISED),
    "along": tuple(ALONG),
    "band": tuple(BANDS),
    "across": tuple(c.name for c in SUMMARISED),
    "up": tuple(c.name for c in SUMMARISED),
    "shade": tuple(SHADES),
    "coefficient": tuple(COEFFICIENTS),
    "over": tuple(OVER),
    "ranked": tuple(c.name for c in OUTCOMES if c in RANKED),
    "pruned": tuple(c.name for c in RANKED),
    "judged": JUDGED,
}
"""The fields of a state that hold one of a few names, and these names."""


NOTHING = Selection()


@dataclass(frozen=True)
class State:
    """`focus`: the image in the small panel, or None. Of the head page: `head` is the one that was
    picked for it, `query` the token picked in it, `weights` the range of weights brushed. `pin`: a
    head that the opened one is compared with; `pair`: two models whose heads are compared. `sql`:
    what stands in the console; a link brings it back and does not run it.
    """

    models: tuple[str, ...] = ()
    selection: Selection = NOTHING
    focus: int | None = None
    tab: str = "heads"
    importance: str = "probability_drop"
    strength: str = "hop_entropy"
    colour: str = "label"
    axis: str = "head"
    marks: str = "dots"
    hops: str = "hop"
    kind: str = "patch"
    space: str = "autoencoder"
    cloud: str = "density"
    paint: str = "model"
    looks: str = "at"
    links: str = "1"
    mode: str = "head"
    left: str = "probability"
    compared: str = "distance"
    along: str = "depth"
    band: str = "quartiles"
    across: str = "hop_entropy"
    up: str = "embedding_l2"
    shade: str = "model"
    coefficient: str = "spearman"
    over: str = "mean"
    ranked: str = "embedding_l2"
    pruned: str = "embedding_l2"
    judged: str = "agreement"
    head: HeadKey | None = None
    query: int | None = None
    weights: tuple[float, float] | None = None
    pin: HeadKey | None = None
    pair: tuple[str, str] | None = None
    sql: str = ""

    @property
    def paired(self) -> tuple[str, str] | None:
        """The pair of models, else the first two on show; None with fewer."""
        if self.pair is not None and set(self.pair) <= set(self.models):
            return self.pair
        return (self.models[0], self.models[1]) if len(self.models) > 1 else None

    @property
    def opened(self) -> HeadKey | None:
        """The head that the head page is about: the picked one, else the one chosen last, else the
        first of the first model on show; None without a model."""
        chosen = [h for h in self.selection.heads if h[0] in self.models]
        if self.head is not None and self.head[0] in self.models:
            return self.head
        return chosen[-1] if chosen else (self.models[0], 0, 0) if self.models else None

    @property
    def passes(self) -> tuple[Clause, ...]:
        """The filters of images."""
        return self.selection.images.clauses

    @property
    def chosen(self) -> tuple[HeadKey, ...]:
        """The chosen heads."""
        return self.selection.heads

    @property
    def effect(self) -> tuple[str, tuple[HeadKey, ...]] | None:
        """What images are coloured by, where that is the effect of heads."""
        return (self.importance, self.chosen) if self.colour == "effect" else None

    def to_url(self, facts: Facts) -> str:
        """`?key=value&...`, without what is the default anyway; empty for the default state."""
        default = defaults(facts)
        pairs: list[tuple[str, str]] = []
        if self.models != default.models:
            pairs += [("model", m) for m in self.models] or [("model", "")]
        beside = defaults(facts, self.models)
        pairs += [(key, getattr(self, key)) for key in CHOICES
                  if getattr(self, key) != getattr(beside, key)]
        pairs += self.selection.to_url()
        if self.focus is not None:
            pairs.append(("image", str(self.focus)))
        pairs += [(key, Heads((head,)).to_url()[0][1])
                  for key, head in (("head", self.head), ("pin", self.pin)) if head is not None]
        pairs += [("pair", model) for model in self.pair or ()]
        if self.query is not None:
            pairs.append(("query", str(self.query)))
        if self.weights is not None:
            pairs.append(("weights", "{:.6g},{:.6g}".format(*self.weights)))
        if self.sql:
            pairs.append(("sql", self.sql))
        return "?" + urlencode(pairs) if pairs else ""


def defaults(facts: Facts, models: tuple[str, ...] | None = None) -> State:
    """The state of a bare URL, for these models (by default the first few of the store)."""
    names = facts.names[:SHOWN_AT_FIRST] if models is None else models
    shown = [facts.model(n) for n in names]
    classified = all(m.has_classifier for m in shown)
    return State(
        models=names,
        importance="probability_drop" if classified else "embedding_l2",
        left="probability" if classified else "embedding_l2",
        judged="agreement" if classified else "embedding_l2",
        colour="label" if facts.labels else "probability" if classified else "effect",
        hops="hop" if len({m.hops for m in shown}) <= 1 else "side")


def from_url(search: str, facts: Facts) -> tuple[State, list[str]]:
    """The state that a query string asks for, and what of it this store cannot show."""
    if len(search) > MAX_URL:
        return defaults(facts), [f"the link is longer than {MAX_URL} characters"]
    state, problems = _read(search, facts)
    return state, list(problems)


@lru_cache(32)
def _read(search: str, facts: Facts) -> tuple[State, tuple[str, ...]]:
    """Once for the callbacks of a gesture, which all ask for the same."""
    try:
        values = parse_qs(search.lstrip("?"), keep_blank_values=True, max_num_fields=2000)
    except ValueError:
        return defaults(facts), ("the link has too many parts",)
    problems: list[str] = []
    models = _models(values, facts, problems)
    state = defaults(facts, models)
    choices: dict[str, Any] = {}
    for key, allowed in CHOICES.items():
        wanted = values.get(key, [getattr(state, key)])[0]
        if wanted in allowed:
            choices[key] = wanted
        else:
            problems.append(f"{key} {short(wanted)} (one of {', '.join(allowed)})")
    state = replace(state, **choices)
    selection, unread = Selection.from_url({k: [v for v in vs if v] for k, vs in values.items()
                                            if k != "outcome" or vs[0]})
    problems += unread
    selection = _known(selection, facts, problems)
    state = replace(state, selection=selection, focus=_focus(values, facts, problems),
                    head=_head("head", values, facts, problems),
                    weights=_weights(values, problems), pin=_head("pin", values, facts, problems),
                    pair=_pair(values, facts, problems), sql=_sql(values, problems))
    return replace(state, query=_query(values, state, facts, problems)), tuple(problems)


def _models(values: Mapping[str, Sequence[str]], facts: Facts, problems: list[str]
            ) -> tuple[str, ...]:
    if "model" not in values:
        return defaults(facts).models
    wanted = [m for m in dict.fromkeys(values["model"]) if m]
    problems += [f"model {short(m)} (not in this store)" for m in wanted if m not in facts.names]
    known = tuple(m for m in facts.names if m in wanted)
    return known if known or not wanted else defaults(facts).models


def _known(selection: Selection, facts: Facts, problems: list[str]) -> Selection:
    """The selection without what the store does not hold."""
    labels = {label for label, _ in facts.labels}
    problems += [f"label {short(x)} (not in this store)" for x in selection.labels
                 if x not in labels]
    selection = selection.with_(Labels(tuple(x for x in selection.labels if x in labels)))
    for region in selection.regions:
        if region.model not in facts.names:
            problems.append(f"a lasso in model {short(region.model)} (not in this store)")
            selection = selection.with_(Region(region.model, ()))
    unknown = [h for h in selection.heads if not facts.has_head(h)]
    problems += [f"head {h[1]}.{h[2]} of {short(h[0])} (not in this store)" for h in unknown[:3]]
    return selection.with_(Heads(tuple(h for h in selection.heads if facts.has_head(h))))


def _focus(values: Mapping[str, Sequence[str]], facts: Facts, problems: list[str]) -> int | None:
    return _number("image", values, facts.images, problems)


def _query(values: Mapping[str, Sequence[str]], state: State, facts: Facts, problems: list[str]
           ) -> int | None:
    head = state.opened if values.get("query", [""])[0] else None
    return _number("query", values, facts.block(head).tokens if head else 0, problems)


def _number(key: str, values: Mapping[str, Sequence[str]], count: int, problems: list[str]
            ) -> int | None:
    text = values.get(key, [""])[0]
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < count:
        return int(text)
    problems.append(f"{key} {short(text)} (" + (f"0 to {count - 1})" if count else "none here)"))
    return None


def _head(key: str, values: Mapping[str, Sequence[str]], facts: Facts, problems: list[str]
          ) -> HeadKey | None:
    text = values.get(key, [""])[0]
    if not text:
        return None
    try:
        (head,) = Heads.from_url([text]).heads
    except ValueError:
        problems.append(f"{key} {short(text)} (LAYER.HEAD@MODEL)")
        return None
    if facts.has_head(head):
        return head
    problems.append(f"{key} {head[1]}.{head[2]} of {short(head[0])} (not in this store)")
    return None


def _pair(values: Mapping[str, Sequence[str]], facts: Facts, problems: list[str]
          ) -> tuple[str, str] | None:
    wanted = [name for name in values.get("pair", []) if name]
    if not wanted:
        return None
    one, other = (*wanted, "")[:2]
    if one != other and len(wanted) == 2 and {one, other} <= set(facts.names):
        return one, other
    problems.append(f"pair {short(' '.join(wanted))} (two models of this store)")
    return None


def _weights(values: Mapping[str, Sequence[str]], problems: list[str]
             ) -> tuple[float, float] | None:
    text = values.get("weights", [""])[0]
    if not text:
        return None
    try:
        low, high = (float(v) for v in text.split(","))
    except ValueError:
        low = high = math.nan
    if 0 <= low <= high <= 1:
        return low, high
    problems.append(f"weights {short(text)} (LOW,HIGH, from 0 to 1)")
    return None


def _sql(values: Mapping[str, Sequence[str]], problems: list[str]) -> str:
    text = values.get("sql", [""])[0]
    if len(text) <= LONGEST_SQL:
        return text
    problems.append(f"sql (longer than {LONGEST_SQL:,} characters)")
    return ""


def short(text: str) -> str:
    """Quoted, and cut where it is long."""
    return repr(text if len(text) <= 40 else text[:40] + "...")
