"""`headatlas similar`: the heads of other models most like one head."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from store import places
from store.commands.sql import FORMATS
from store.reader import Store
from store.similar import alike


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=places.at, required=True,
                        help="the store's folder or URL")
    parser.add_argument("of", metavar="MODEL", help="the head's model, as `info` names it")
    parser.add_argument("layer", metavar="LAYER", type=_whole(0), help="its block, from 0")
    parser.add_argument("head", metavar="HEAD", type=_whole(0), help="it within its block, from 0")
    parser.add_argument("--model", dest="models", action="append", metavar="OTHER",
                        help="only heads of this model, which may be MODEL itself; can be repeated "
                             "(default: of all other models)")
    parser.add_argument("--count", type=_whole(1), default=10, metavar="N",
                        help="how many heads (default: 10)")
    parser.add_argument("--format", choices=sorted(FORMATS), default="table")


def run(args: argparse.Namespace) -> None:
    store = Store(args.store, tables=("models", "heads", "head_matches"))
    rows = alike(store, args.of, args.layer, args.head, args.count, models=args.models)
    print(FORMATS[args.format](rows))


def _whole(least: int) -> Callable[[str], int]:
    """Reads a whole number that is `least` or more."""
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least}")
        return int(text)
    return read
