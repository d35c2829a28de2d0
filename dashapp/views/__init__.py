"""The views, in the order of the page. A new view is one file and one entry here."""

from dashapp.views import importance, overview, strength
from dashapp.views.base import View

VIEWS: tuple[View, ...] = (overview.VIEW, importance.MATRIX, importance.LINE, strength.LAYERS,
                           strength.HOPS, strength.DISTRIBUTION)

__all__ = ["VIEWS", "View"]
