"""Write the bundled images: the first 40 of each class, in test order, and their labels."""

import argparse
import csv
from collections import Counter
from pathlib import Path

from PIL import Image

from precompute.zoo import IMAGES, LABELS, fashion

PER_CLASS = 40


def chosen(labels: list[int]) -> list[int]:
    """Test indices of the first PER_CLASS images of each class."""
    seen: Counter[int] = Counter()
    indices = []
    for index, label in enumerate(labels):
        seen[label] += 1
        if seen[label] <= PER_CLASS:
            indices.append(index)
    return indices


def bundle(data: Path) -> None:
    pixels, labels = fashion.read_split(data, "t10k")
    IMAGES.mkdir(exist_ok=True)
    with LABELS.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "label"])
        for index in chosen(labels.tolist()):
            name = f"{index:04}.png"
            Image.fromarray(pixels[index].numpy()).save(IMAGES / name, optimize=True)
            rows.writerow([name, fashion.CLASSES[labels[index]]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four IDX files")
    bundle(parser.parse_args().data)
