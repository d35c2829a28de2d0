"""Measure the bundled weights anew: on all 10,000 test images, and on the PNGs as they lie here."""

import argparse
import csv
import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from precompute.zoo import IMAGES, LABELS, card, fashion, load, names
from precompute.zoo.publish import accuracy


def read_bundle() -> tuple[fashion.Pixels, fashion.Labels]:
    with LABELS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pixels = np.stack([np.asarray(Image.open(IMAGES / row["image"])) for row in rows])
    return torch.tensor(pixels), torch.tensor([fashion.CLASSES.index(r["label"]) for r in rows])


def verify(data: Path) -> None:
    test, bundle = fashion.read_split(data, "t10k"), read_bundle()
    print(f"{'model':14} test {len(test[1])}  bundled {len(bundle[1])}  card    bytes  sha256")
    for name in names():
        model, said = load(name), card(name)
        weights = (LABELS.parent / "weights" / f"{name}.safetensors").read_bytes()
        same = hashlib.sha256(weights).hexdigest() == said["weights_sha256"]
        print(
            f"{name:14} {accuracy(model, *test):.4f}      {accuracy(model, *bundle):.4f}"
            f"       {said['accuracy_test']:.4f}  {len(weights)}  {'same' if same else 'DIFFERS'}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four IDX files")
    verify(parser.parse_args().data)
