"""Means and donors: what heads put out on other images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from precompute.batches import Batch
from precompute.reference import Reference, build, from_bytes, to_bytes, with_donors
from tests.precompute import slow
from tests.precompute.vits import as_vit, built, images, untouched

NAMES = ["class token", "norms everywhere", "parallel things", "Swin", "SAM", "PiT", "CaiT"]


def _batches(model: nn.Module, numbers: list[int], size: int) -> list[Batch]:
    """These images, so many at a time; an image is the same whatever batch it is in."""
    pixels = images(model, 8, seed=3)[numbers]
    return [Batch(numbers[i:i + size], [None] * len(numbers[i:i + size]), pixels[i:i + size])
            for i in range(0, len(numbers), size)]


def _heads(model: nn.Module, number: int, layer: int) -> torch.Tensor:
    """A layer's heads side by side on one image, windows one after the other."""
    grab = slow.grabbed(model, images(model, 8, seed=3)[[number]])
    found = [grab[head] for head in slow.heads_of(model) if head[0] == layer]
    return torch.cat([one.reshape(-1, one.shape[-1]) for one in found], dim=-1)


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_is_the_plain_mean_however_images_are_batched(name: str) -> None:
    model = built(name)
    vit = as_vit(model)
    numbers = [5, 0, 3, 6, 1]
    with untouched(model):
        whole, parts = (build(vit, _batches(model, numbers, size)) for size in (5, 2))
    assert whole.images == parts.images == tuple(numbers)
    for layer in range(vit.anatomy.depth):
        wanted = torch.stack([_heads(model, n, layer) for n in numbers]).double().mean(0).float()
        for found in (whole, parts):
            torch.testing.assert_close(found.mean[layer], wanted, rtol=1e-4, atol=1e-5)


def test_a_mean_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        build(as_vit(built("class token")), [])


@pytest.mark.parametrize("name", ["class token", "Swin", "parallel things"])
def test_donors_give_their_own_head_outputs(name: str) -> None:
    model = built(name)
    vit = as_vit(model)
    donors = [4, 2, 7]
    found = with_donors(build(vit, _batches(model, [0], 1)), vit, _batches(model, donors, 2))
    assert found.donors == tuple(donors)
    for layer in range(vit.anatomy.depth):
        given = found.instead_of(layer, [0, 1, 2, 3], 0)
        own = [_heads(model, n, layer) for n in donors]
        chosen = [min(range(3), key=lambda i, g=g, own=own: (g - own[i]).norm().item())
                  for g in given]
        for one, i in zip(given, chosen, strict=True):
            torch.testing.assert_close(one, own[i], rtol=1e-4, atol=1e-5)


def _numbered(donors: list[int], draws: int = 1) -> Reference:
    """Donors whose heads all put out the donor's number."""
    values = torch.tensor(donors, dtype=torch.float32)[:, None, None].expand(-1, 5, 6)
    return Reference((0,), (torch.zeros(5, 6),) * 2, tuple(donors), (values,) * 2, draws)


def _chosen(reference: Reference, image: int, draws: int, layer: int = 0) -> list[int]:
    return [int(reference.instead_of(layer, [image], draw)[0, 0, 0]) for draw in range(draws)]


@pytest.mark.parametrize("donors", [[0, 1], [3, 1, 2], list(range(10)), [9, 100, 4, 0]], ids=str)
def test_no_image_is_its_own_donor(donors: list[int]) -> None:
    reference = _numbered(donors)
    for image in range(12):
        chosen = _chosen(reference, image, 30)
        assert image not in chosen and set(chosen) == set(donors) - {image}


def test_draws_are_different_donors_while_there_are_any() -> None:
    reference = _numbered(list(range(8)))
    for image in (0, 5, 70):
        others = 8 - (image < 8)
        assert len(set(_chosen(reference, image, others))) == others


def test_an_image_that_is_the_only_donor_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match="image 3 has no other image"):
        _numbered([3]).instead_of(0, [1, 3], 0)


def test_donors_depend_on_the_image_alone() -> None:
    """Not on its batch, the layer, or who asks; and differ between images."""
    reference, again = _numbered(list(range(9))), _numbered(list(range(9)))
    together = reference.instead_of(0, [4, 8, 20, 21], 1)[:, 0, 0].tolist()
    assert together == [_chosen(again, image, 2, layer=1)[1] for image in (4, 8, 20, 21)]
    assert len({tuple(_chosen(reference, image, 8)) for image in range(20, 30)}) > 5


def test_a_mean_is_read_back_as_it_was_written() -> None:
    model = built("PiT")
    reference = build(as_vit(model), _batches(model, [2, 6], 2))
    content = to_bytes(reference)
    found = from_bytes(content, torch.device("cpu"))
    assert found.images == (2, 6) and (found.donors, found.draws) == ((), 1)
    assert len(found.mean) == len(reference.mean)
    assert all(torch.equal(a, b) for a, b in zip(found.mean, reference.mean, strict=True))


def test_layers_are_read_back_in_order_beyond_ten() -> None:
    reference = Reference((1,), tuple(torch.full((2, 3), float(i)) for i in range(120)))
    found = from_bytes(to_bytes(reference), torch.device("cpu"))
    assert [int(mean[0, 0]) for mean in found.mean] == list(range(120))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"], ids=repr)
def test_what_is_no_mean_is_refused(content: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        from_bytes(content, torch.device("cpu"))


def test_a_pickle_is_not_opened() -> None:
    content = np.array([{"a": 1}], dtype=object).dumps()
    with pytest.raises((ValueError, OSError)):
        from_bytes(content, torch.device("cpu"))
