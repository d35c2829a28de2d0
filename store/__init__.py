"""The contract between the offline side and the page: tables, files, queries. Knows no torch."""

from store.atlas import Atlas, open_store
from store.reader import Store

__all__ = ["Atlas", "Store", "open_store"]
