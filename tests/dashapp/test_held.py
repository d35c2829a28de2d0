"""What a page holds already is not sent again."""

from __future__ import annotations

import json

import numpy as np

from dashapp.chart import numbers
from dashapp.held import LONG, without_held


def figure() -> dict:
    many = numbers(np.arange(LONG, dtype=float))
    return {"data": [{"x": many, "y": numbers(np.arange(3.0)), "text": "a" * LONG,
                      "meta": {"dots": {"codes": "b" * LONG}}, "customdata": [[1, 2]]}],
            "layout": {"title": {"text": "t" * LONG}}}


def test_long_texts_are_sent_once_and_named_after_that():
    sent = without_held(figure(), ())
    texts = [sent["data"][0]["x"]["bdata"], sent["data"][0]["text"],
             sent["data"][0]["meta"]["dots"]["codes"]]
    named = [text.split(" ", 2) for text in texts]
    assert [words[0] for words in named] == ["\x01keep"] * 3
    assert [words[2] for words in named] == [
        figure()["data"][0]["x"]["bdata"], "a" * LONG, "b" * LONG]
    again = without_held(figure(), [words[1] for words in named])
    assert again["data"][0]["x"]["bdata"] == f"\x01held {named[0][1]}"
    assert len(json.dumps(again["data"])) < LONG
    assert again["layout"] == figure()["layout"]


def test_short_texts_and_lists_stay():
    sent = without_held(figure(), ())["data"][0]
    assert sent["y"] == figure()["data"][0]["y"]
    assert sent["customdata"] == [[1, 2]]


def test_a_changed_text_has_another_name():
    one, other = (without_held({"data": [{"x": letter * LONG}], "layout": {}}, ())
                  for letter in "ab")
    names = {figure["data"][0]["x"].split(" ")[1] for figure in (one, other)}
    assert len(names) == 2
