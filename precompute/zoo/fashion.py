"""Fashion-MNIST from its four gzipped IDX files, and the augmentation used in training."""

import gzip
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN, STD = 0.2860, 0.3530  # of the training pixels, scaled to 0..1
HELD_OUT = 5_000  # the last images of the training set: they choose, the test set only judges

Pixels = UInt8[Tensor, "image row column"]
Labels = Int[Tensor, "image"]
Batch = Float[Tensor, "image channel row column"]


def read_idx(path: Path) -> np.ndarray:
    """One IDX file: two zero bytes, a type byte (8: unsigned), the rank, the sides, the data."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an IDX file of unsigned bytes (starts {data[:3]!r})")
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_split(folder: Path, split: str) -> tuple[Pixels, Labels]:
    """Images and labels of `split`: "train" (60,000) or "t10k" (10,000)."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    return torch.tensor(images), torch.tensor(labels).long()


def read_training(folder: Path) -> tuple[tuple[Pixels, Labels], tuple[Pixels, Labels]]:
    """The training set in two: what is learned from, and the HELD_OUT images at its end."""
    pixels, labels = read_split(folder, "train")
    return (pixels[:-HELD_OUT], labels[:-HELD_OUT]), (pixels[-HELD_OUT:], labels[-HELD_OUT:])


def normalise(pixels: Pixels) -> Batch:
    return ((pixels.float() / 255 - MEAN) / STD).unsqueeze(1)


def augment(pixels: Pixels, shift: int, generator: torch.Generator) -> Pixels:
    """Each image flipped left-right with probability 1/2 and moved by up to `shift` pixels."""
    images, side, _ = pixels.shape
    padded = torch.nn.functional.pad(pixels, (shift,) * 4)
    corner = torch.randint(0, 2 * shift + 1, (2, images, 1), generator=generator)
    rows, columns = corner + torch.arange(side)
    flipped = torch.rand(images, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    return padded[torch.arange(images)[:, None, None], rows[:, :, None], columns[:, None, :]]
