"""The contract between the offline side and the page: tables, files, queries. Knows no torch."""

from store.reader import Store, open_store

__all__ = ["Store", "open_store"]
