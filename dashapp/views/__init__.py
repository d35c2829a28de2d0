"""The views, in the order of the page. A new view is one file and one entry here."""

from dashapp.views import (
    agreement,
    compare,
    head,
    importance,
    overview,
    partial,
    patterns,
    strength,
)
from dashapp.views.base import View

VIEWS: tuple[View, ...] = (overview.VIEW, importance.MATRIX, importance.LINE, partial.MODES,
                           partial.PREDICTIONS, strength.LAYERS,
                           strength.HOPS, strength.DISTRIBUTION, patterns.MAP,
                           patterns.PROTOTYPES, patterns.EVIDENCE, head.CARD, head.LOOK,
                           head.LINES, head.ATTENTION, head.WEIGHTS, head.ALIKE,
                           compare.TRENDS, compare.AGAINST, compare.PINNED, compare.MATCHED,
                           compare.PAIRS, agreement.AGREEMENT, agreement.ABLATED,
                           agreement.CURVES)

__all__ = ["VIEWS", "View"]
