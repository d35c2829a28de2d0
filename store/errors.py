"""What a user can mend. Raised where it is noticed, translated once at the edge (one line, exit 2).

A message names the offending value and what was allowed.
"""


class AtlasError(Exception):
    """Anything a user can mend: one line on the command line, a message in the page."""


class StoreError(AtlasError):
    """A store that is not there, of another version, damaged, or at odds with what is asked."""


class QueryError(AtlasError):
    """SQL that the read-only door does not let through, or that fails or runs too long."""


class ImagesError(AtlasError):
    """Images or labels that cannot be used."""


class ModelError(AtlasError):
    """A model that cannot be loaded or analysed."""
