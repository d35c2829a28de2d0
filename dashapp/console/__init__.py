"""The SQL console: one read-only query over the store's tables, its rows, and its files."""
