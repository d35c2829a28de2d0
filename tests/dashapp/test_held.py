"""What a page holds already is not sent again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dashapp.chart import LONG, Held, HeldList, numbers
from dashapp.held import packed


def figure() -> dict:
    return {"data": [{"x": numbers(np.arange(LONG)), "y": numbers(np.arange(3.0)),
                      "text": HeldList(["a", "b"]), "meta": {"dots": {"codes": Held("b" * LONG)}},
                      "customdata": [[1, 2]]}],
            "layout": {"title": {"text": "t" * LONG}}}


def sent(figure: dict, held=()) -> dict:
    return json.loads(packed(figure, held))


def texts(figure: dict) -> list[str]:
    trace = figure["data"][0]
    return [trace["x"]["bdata"], trace["text"], trace["meta"]["dots"]["codes"]]


def test_what_can_be_held_is_sent_once_and_named_after_that():
    first = sent(figure())
    named = [text.split(" ", 2) for text in texts(first)]
    assert [words[0] for words in named] == ["\x01keep"] * 3
    assert [words[2] for words in named] == [
        figure()["data"][0]["x"]["bdata"], '\x02["a","b"]', "b" * LONG]
    again = sent(figure(), [words[1] for words in named])
    assert texts(again) == [f"\x01held {words[1]}" for words in named]
    assert again["layout"] == first["layout"] == figure()["layout"]


def test_what_is_in_a_figure_twice_is_sent_once():
    trace = figure()["data"][0]
    data = sent({"data": [trace, trace], "layout": {}})["data"]
    assert all(text.startswith("\x01held") for text in texts({"data": data[1:]}))


def test_short_texts_and_lists_stay():
    trace = sent(figure())["data"][0]
    assert trace["y"] == figure()["data"][0]["y"]
    assert trace["customdata"] == [[1, 2]]


def test_a_changed_text_has_another_name():
    assert Held("a" * LONG).name != Held("b" * LONG).name
    assert HeldList(["a", "b"]).json.name != HeldList(["a,b"]).json.name


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError):
        packed({"data": [{"x": {1, 2}}], "layout": {}}, ())
