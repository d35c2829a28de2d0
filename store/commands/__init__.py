"""The commands that need nothing but a store."""
