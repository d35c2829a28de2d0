"""The page: views over a store, cross-filtered. Knows no torch."""
