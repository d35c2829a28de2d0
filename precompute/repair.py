"""What was damaged is set aside, so that it counts as missing and is made again."""

from __future__ import annotations

from pathlib import Path

from precompute.progress import say
from precompute.register import mend_images
from precompute.stages import SAMPLED
from store import sums
from store.writer import StoreWriter

RESTS_ON = {
    "reference.json": ("reference.npz", "mean", "resample"),
    **{f"samples/{stage}.json": (stage,) for stage in SAMPLED},
}
"""In a model's folder: what is of no use without a file that cannot be made again as it was."""


def repair(writer: StoreWriter, folder: Path) -> None:
    """Compare every file with its checksum and move what differs to `damaged/`.

    Parts of the images table are made again at once, from `folder` or where they were first
    found: everything else goes by them. Raises ImagesError where an image of theirs is gone.
    """
    with writer.lock():
        for damage in sums.find_damage(writer.path):
            say(f"damaged: {damage.file.relative_to(writer.path)} {damage.why}; set aside, to be "
                "made again")
            for place in (damage.place, *_resting_on(damage.place)):
                if place.exists():
                    writer.set_aside(place)
        mend_images(writer, folder)


def _resting_on(place: Path) -> list[Path]:
    found = []
    for name, others in RESTS_ON.items():
        if place.match(f"models/*/{name}"):
            home = place.parents[name.count("/")]
            found += [home / other for other in others]
    return found
