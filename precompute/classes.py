"""Labels as classes: what a person wrote in the CSV against what a classifier calls its classes."""

from __future__ import annotations

from collections.abc import Sequence


def class_of_labels(labels: Sequence[str | None], names: Sequence[Sequence[str]] | None,
                    ) -> dict[str, int]:
    """Map each label to a class, by any of the class's names (case ignored) or by its number.

    Names win over numbers; a name that several classes share maps to none of them. Labels that
    are no class of the classifier are left out: their true-class measures are NULL.
    """
    if names is None:
        return {}
    known: dict[str, set[int]] = {}
    for index, aliases in enumerate(names):
        for alias in aliases:
            known.setdefault(alias.strip().lower(), set()).add(index)
    found = {}
    for label in sorted({label for label in labels if label is not None}):
        matches = known.get(label.strip().lower(), set())
        if len(matches) == 1:
            found[label] = next(iter(matches))
        elif not matches and label.isdecimal() and int(label) < len(names):
            found[label] = int(label)
    return found
