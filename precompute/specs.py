"""A model SPEC as text: what kind it is, and the name it is shown by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from store.errors import ModelError

FORMS = "a timm name, NAME@PATH, hf-hub:ORG/NAME or zoo:NAME"


@dataclass(frozen=True)
class Spec:
    """`kind` is timm, checkpoint, hub or zoo; `path` only for a checkpoint."""

    text: str
    kind: str
    name: str
    path: Path | None = None

    @property
    def absolute(self) -> str:
        """The SPEC with an absolute path, so that a later run finds it from anywhere."""
        return f"{self.name}@{self.path.absolute()}" if self.path else self.text

    def shown(self, image_h: int, image_w: int) -> str:
        """The default name: from the SPEC and the image size."""
        base = self.path.stem if self.path else self.name
        size = f"{image_h}px" if image_h == image_w else f"{image_h}x{image_w}px"
        return base if self.kind == "zoo" and size == "28px" else f"{base}-{size}"


def parse_spec(text: str) -> Spec:
    """Raises ModelError for what is no SPEC or names a checkpoint that is not there."""
    kind, _, rest = text.partition(":")
    if kind == "zoo":
        return Spec(text, "zoo", _named(rest, text))
    if kind == "hf-hub":
        if rest.count("/") != 1 or rest.startswith("/") or rest.endswith("/"):
            raise ModelError(f"model {text!r}: hf-hub: wants ORG/NAME, got {rest!r}")
        return Spec(text, "hub", rest)
    name, at, path = text.partition("@")
    if not at:
        return Spec(text, "timm", _named(text, text))
    file = Path(path).expanduser()
    if not path or not file.exists():
        raise ModelError(f"model {text!r}: no checkpoint at {path or '(empty path)'}")
    if not file.is_file():
        raise ModelError(f"model {text!r}: {path} is not a file")
    return Spec(text, "checkpoint", _named(name, text), file)


def _named(name: str, text: str) -> str:
    if not name:
        raise ModelError(f"model {text!r} has no name; a SPEC is {FORMS}")
    return name
