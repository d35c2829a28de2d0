"""Where there is nothing to show, each view says why, and what to do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from plotly.utils import PlotlyJSONEncoder

from dashapp.callbacks import draw_if_it_can
from dashapp.facts import Facts
from dashapp.state import from_url
from dashapp.views import VIEWS
from precompute.series import line_up
from store.reader import Store, open_store
from store.writer import StoreWriter
from tests.dashapp.test_state import HOSTILE
from tests.synthetic import make_store

NOTHING_PASSES = "?lasso=900,900,901,900,900,901%40alpha"
NO_CLASSIFIER = "?model=gamma&importance=probability_drop&left=probability&judged=accuracy"
STATES = ["?model=", NOTHING_PASSES, NO_CLASSIFIER, "?model=alpha&image=30",
          "?model=beta&kind=class", *(search for search, _ in HOSTILE)]
LACKING = {"partial": "*/partial", "attention": "*/attention", "curves": "*/curves",
           "patterns": "../patterns"}
"""Parts of a store that a run may leave out, and where they are."""

WORDS = re.compile(r'"(?:children|text|label)": "([^"]{12,})"')


def said(view, drawn) -> str:
    """The sentences in what a view shows, and its caption."""
    whole = [drawn.content] if view.form == "panel" and isinstance(drawn.content, str) else \
        WORDS.findall(json.dumps(content(view, drawn), cls=PlotlyJSONEncoder))
    return " ".join([*whole, drawn.caption]).replace("<br>", " ")


def content(view, drawn):
    """What a view shows, read where it travels as JSON."""
    return json.loads(drawn.content) if view.form == "plot" and isinstance(drawn.content, str) \
        else drawn.content


def has_data(view, drawn) -> bool:
    shown = content(view, drawn)
    return bool(shown["data"]) if view.form == "plot" else "title" in str(shown)


def look_at(store: Store, search: str) -> dict[str, str]:
    """What every view says that has nothing to show; "" where it says nothing."""
    facts = Facts.read(store)
    state, _ = from_url(search, facts)
    mute = {}
    for view in VIEWS:
        drawn = draw_if_it_can(view, store, state, facts)
        words = said(view, drawn)
        assert "Something went wrong" not in words, view.id
        if not has_data(view, drawn):
            mute[view.id] = words
    return mute


@pytest.mark.parametrize("search", STATES, ids=lambda x: x[:40])
def test_no_view_is_blank(search, store):
    assert [view for view, words in look_at(store, search).items() if len(words) < 15] == []


def test_without_a_model_every_view_says_to_choose_one(store):
    silent = {view: words for view, words in look_at(store, "?model=").items()
              if "Choose a model" not in words}
    assert silent == {}


@pytest.mark.parametrize("part", LACKING)
def test_a_store_that_lacks_a_part_says_how_to_get_it(part, tmp_path):
    path = make_store(tmp_path / "atlas", 16)
    gone = list((path / "models").glob(LACKING[part]))
    assert gone
    for folder in gone:
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    _also_derived(path, part)
    line_up(StoreWriter(path))
    mute = look_at(open_store(path), "?model=alpha&model=gamma")
    assert any("headatlas precompute" in words for words in mute.values())
    assert [view for view, words in mute.items() if len(words) < 15] == []


def _also_derived(path: Path, part: str) -> None:
    names = {"curves": ("pruning_curves", "pruning_areas"),
             "patterns": ("head_places", "head_matches")}.get(part, ())
    for name in names:
        for file in path.glob(f"models/*/{name}.parquet*"):
            file.unlink()
