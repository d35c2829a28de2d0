"""Coders, maps and clusters: each against what they are by definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from precompute.space import clusters as clustering
from precompute.space.autoencoder import (
    BATCH,
    PASSES,
    STEPS,
    Network,
    epochs,
    fit_autoencoder,
)
from precompute.space.clusters import fit_clusters
from precompute.space.coders import divergence, fit_components, fit_mean, normalised, roots
from precompute.space.fitting import fit
from precompute.space.inputs import Means, Single
from precompute.space.maps import Map, fit_map
from precompute.space.space import from_bytes
from store.canon import CLASS, PATCH, Kind
from tests.precompute.patterns_store import shares as made_up

BOTH = pytest.mark.parametrize("kind", [PATCH, CLASS], ids=lambda kind: kind.name)


def _shares(kind: Kind, images: int = 20, heads: int = 9) -> np.ndarray:
    return made_up(kind, images, heads).reshape(-1, kind.size).astype(np.float32)


@BOTH
def test_roots_are_lengths_that_tell_hellinger_distances(kind: Kind) -> None:
    x = _shares(kind)
    found = roots(kind, x)
    for group in kind.groups:
        size = group.stop - group.start
        assert np.allclose((found[:, group] ** 2).sum(1), size, rtol=1e-4)
        overlap = np.sqrt(x[0, group] * x[1, group]).sum()
        assert np.isclose(((found[0, group] - found[1, group]) ** 2).sum(),
                          2 * size * (1 - overlap), rtol=1e-3, atol=1e-3)
    uniform = np.concatenate([np.full(g.stop - g.start, 1 / (g.stop - g.start))
                              for g in kind.groups])[None]
    assert np.allclose(roots(kind, uniform), 1)


@BOTH
def test_divergence_is_the_sum_of_the_groups_own(kind: Kind) -> None:
    p, q = _shares(kind)[:5], _shares(kind)[5:10]
    wanted = []
    for one, other in zip(p.astype(float), q.astype(float), strict=True):
        wanted.append(sum(one[i] * (np.log(one[i]) - np.log(other[i]))
                          for group in kind.groups for i in range(group.start, group.stop)))
    assert np.allclose(divergence(kind, p, q), wanted, atol=1e-3)
    assert np.allclose(divergence(kind, p, p), 0, atol=1e-4)


@BOTH
def test_components_are_those_of_the_roots(kind: Kind) -> None:
    x = _shares(kind)
    found, wanted = fit_components(kind, x, 6), PCA(6).fit(roots(kind, x).astype(float))
    assert np.allclose(np.abs(found.encode(x)), np.abs(wanted.transform(roots(kind, x))), atol=1e-2)
    assert (found.axes[range(6), np.abs(found.axes).argmax(1)] > 0).all()


@BOTH
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_components_that_the_patterns_do_not_have_are_zero(kind: Kind, rows: int) -> None:
    x = _shares(kind)[:rows]
    found = fit_components(kind, x, 8)
    assert np.abs(found.axes[rows - 1:]).max() == 0
    assert (divergence(kind, x, found.decode(found.encode(x))) < 0.1).all()


@BOTH
def test_every_coder_decodes_to_patterns(kind: Kind) -> None:
    x = _shares(kind)
    for coder in (fit_mean(kind, x), fit_components(kind, x, 4),
                  fit_autoencoder(kind, x, 4, steps=20)):
        decoded = coder.decode(coder.encode(x))
        assert decoded.shape == x.shape and (decoded > 0).all()
        for group in kind.groups:
            assert np.allclose(decoded[:, group].sum(1), 1, atol=1e-5)


@BOTH
def test_no_other_pattern_is_nearer_to_all_than_their_mean(kind: Kind) -> None:
    x = _shares(kind)
    coder = fit_mean(kind, x)
    least = divergence(kind, x, coder.decode(coder.encode(x))).mean()
    for other in x[:10]:
        mixed = normalised(kind, (0.9 * coder.mean + 0.1 * other)[None])
        assert divergence(kind, x, np.repeat(mixed, len(x), 0)).mean() > least


@BOTH
def test_before_training_the_network_knows_the_mean_and_its_loss_is_cross_entropy(
        kind: Kind) -> None:
    x = torch.as_tensor(_shares(kind))
    torch.manual_seed(0)
    network = Network(kind, 3)
    network.begin(x)
    log_shares = network.decode(network.encode(x)).double()
    wanted = -sum((x[i].double() * log_shares[i]).sum() for i in range(len(x))) / len(x)
    assert torch.allclose(network.loss(x).double(), wanted, rtol=1e-4)
    wrong = divergence(kind, x.mean(0)[None].numpy(),
                       network.decode(torch.zeros(1, 3)).exp().detach().numpy())
    assert wrong < 0.1 < divergence(kind, x.numpy(), x.mean(0).expand(x.shape).numpy()).mean()


def test_training_beats_components_of_the_same_size_on_images_unseen() -> None:
    x = made_up(PATCH, 60, 12).astype(np.float32)
    seen, unseen = (part.reshape(-1, PATCH.size) for part in (x[:40], x[40:]))
    errors = {}
    for name, coder in (("mean", fit_mean(PATCH, seen)), ("pca", fit_components(PATCH, seen, 4)),
                        ("autoencoder", fit_autoencoder(PATCH, seen, 4))):
        errors[name] = divergence(PATCH, unseen, coder.decode(coder.encode(unseen))).mean()
    assert errors["autoencoder"] < errors["pca"] < errors["mean"]


def test_a_fit_depends_on_its_seed_and_on_nothing_else() -> None:
    x = _shares(PATCH)
    torch.manual_seed(5)
    one = fit_autoencoder(PATCH, x, 4, seed=1, steps=8).encode(x)
    after = torch.rand(3)
    two = fit_autoencoder(PATCH, x, 4, seed=1, steps=8).encode(x)
    other = fit_autoencoder(PATCH, x, 4, seed=2, steps=8).encode(x)
    assert np.array_equal(one, two) and not np.allclose(one, other)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))  # nor does it disturb anything else


@pytest.mark.parametrize(("patterns", "wanted"), [
    (1, PASSES), (BATCH * 10, PASSES), (BATCH * 300, STEPS // 300), (BATCH * 10 * STEPS, 1)])
def test_large_fits_take_fewer_passes(patterns: int, wanted: int) -> None:
    assert epochs(patterns) == wanted


def test_an_anchor_lies_where_it_was_laid_and_others_beside_those_like_them() -> None:
    rng = np.random.default_rng(0)
    map_ = Map(rng.normal(size=(30, 5)).astype(np.float32),
               rng.normal(size=(30, 2)).astype(np.float32))
    assert np.allclose(map_.place(map_.anchors), map_.places, atol=1e-4)
    found = map_.place(rng.normal(size=(50, 5)).astype(np.float32))
    assert (found >= map_.places.min(0)).all() and (found <= map_.places.max(0)).all()
    beside = map_.place(map_.anchors + np.float32(1e-3))
    assert np.allclose(beside, map_.places, atol=1e-2)


def test_places_are_weighted_means_of_the_nearest_anchors() -> None:
    rng = np.random.default_rng(1)
    map_ = Map(rng.normal(size=(12, 3)).astype(np.float32),
               rng.normal(size=(12, 2)).astype(np.float32))
    points = rng.normal(size=(7, 3)).astype(np.float32)
    for point, found in zip(points, map_.place(points), strict=True):
        far = np.sqrt(((map_.anchors - point) ** 2).sum(1))
        near = np.argsort(far)[:5]
        weight = 1 / far[near] ** 4
        wanted = (weight[:, None] * map_.places[near]).sum(0) / weight.sum()
        assert np.allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("heads", [1, 2, 3, 5])
def test_few_heads_are_laid_out_too(heads: int) -> None:
    latents = np.random.default_rng(2).normal(size=(heads, 4)).astype(np.float32)
    assert np.isfinite(fit_map(latents).place(latents)).all()
    assert np.isfinite(fit_map(latents[[0] * heads]).place(latents)).all()


def test_clusters_are_found_whatever_the_seed_and_the_largest_is_first() -> None:
    rng = np.random.default_rng(3)
    truth = np.repeat(np.arange(6), [20, 5, 12, 8, 9, 7])
    rows = (rng.normal(size=(6, 4))[truth] * 5 + rng.normal(size=(len(truth), 4)) / 4).astype(
        np.float32)
    for seed in (0, 1, 2):
        found = fit_clusters(rows, seed)
        labels = found.assign(rows)
        assert adjusted_rand_score(truth, labels) > 0.85
        sizes = np.bincount(labels)
        assert (np.diff(sizes) <= 0).all() and ((found.agreement > 0.5).all())
    assert adjusted_rand_score(truth, fit_clusters(rows, 0, 6).assign(rows)) == 1


def test_agreement_is_the_share_of_runs_that_saw_both() -> None:
    labels = np.array([[0, 0, 1, -1], [1, 0, 1, 1], [0, 0, -1, 1]])
    found = clustering._agreement(labels)
    for i in range(4):
        for j in range(4):
            both = [(run[i], run[j]) for run in labels if run[i] >= 0 and run[j] >= 0]
            assert found[i, j] == pytest.approx(np.mean([a == b for a, b in both]))


@pytest.mark.parametrize("heads", [1, 2, 4, 5])
def test_few_heads_are_few_clusters(heads: int) -> None:
    rows = np.random.default_rng(4).normal(size=(heads, 3)).astype(np.float32)
    found = fit_clusters(rows)
    assert len(found.centres) == len(found.agreement) == min(heads, 4)
    assert len(fit_clusters(rows[[0] * heads]).centres) == 1


@BOTH
def test_a_space_comes_back_from_its_bytes(kind: Kind) -> None:
    x = made_up(kind, 6, 9).astype(np.float32)
    names = np.array(["m"] * 54, object)
    head = np.tile(np.arange(9), 6)
    single = Single(kind, names, head * 0, head, x.reshape(-1, kind.size), np.repeat(range(6), 9))
    means = Means(kind, names[:9], head[:9] * 0, head[:9], x.mean(0), names[:9],
                  np.empty((9, 0)))
    space = fit(single, means, 5)
    again = from_bytes(kind.name, space.to_bytes())
    assert again.space_id == space.space_id and again.to_bytes() == space.to_bytes()
    assert again.latent == 5
    for name, values in space.columns(single.shares).items():
        assert np.array_equal(np.asarray(values), np.asarray(again.columns(single.shares)[name]))
    other = dataclasses.replace(space, pca=dataclasses.replace(space.pca, axes=space.pca.axes * 2))
    assert other.space_id != space.space_id
