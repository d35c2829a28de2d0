"""The views, in the order of the page. A new view is one file and one entry here."""

from dashapp.views import head, importance, overview, patterns, strength
from dashapp.views.base import View

VIEWS: tuple[View, ...] = (overview.VIEW, importance.MATRIX, importance.LINE, strength.LAYERS,
                           strength.HOPS, strength.DISTRIBUTION, patterns.MAP,
                           patterns.PROTOTYPES, patterns.EVIDENCE, head.CARD, head.LOOK,
                           head.LINES, head.ATTENTION, head.WEIGHTS, head.ALIKE)

__all__ = ["VIEWS", "View"]
