"""The tables of a synthetic store that say what attention looks like, and its pruning curves.

Heads fall into a cluster for each look. Latents are the head's own on every image: nothing that is
served reads them, and so they take little room.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmarks.synthetic_tables import grain, lists, of_rows, repeated
from benchmarks.synthetic_world import GRID, LOOKS, PREFIX, Nature, Numbers, Size
from precompute.curves import QUANTITIES
from precompute.orders import LEAST_FIRST, MOST_FIRST, RANDOM, fractions
from store.canon import CLASS, KINDS, NEAR_SIDE, PATCH, Kind, encode
from store.pattern_tables import AE_BETTER, AS_GOOD
from store.schema import RANKED
from store.writer import to_table

LATENT = 16
ORDERED = tuple(sorted(KINDS))
"""Kinds of pattern in the order of their rows."""

SPREAD = 12.0
"""Patterns lie within so much of the middle of the map; a sixth of it in the map of components."""

RANDOM_ORDERS = 20


class Looks:
    """What the heads of a model look like: mean patterns [head, size] by kind, and places."""

    def __init__(self, nature: Nature) -> None:
        self.nature = nature
        rng = nature.rng(1)
        self.mean = {"patch": _patch_patterns(nature, rng), "class": _class_patterns(nature, rng)}
        angle = 2 * np.pi * nature.look / len(LOOKS)
        centre = 8 * np.stack([np.cos(angle), np.sin(angle)], 1)
        self.places = {kind: centre + rng.normal(0, 0.8, centre.shape) for kind in ORDERED}
        self.latent = {kind: np.round(rng.normal(size=(len(angle), LATENT))) for kind in ORDERED}
        self.errors = {kind: rng.gamma(2, 0.02, len(angle)) for kind in ORDERED}

    def columns(self) -> dict[str, object]:
        """What `heads` says about patterns."""
        look, count = self.nature.look, len(self.nature.look)
        return {
            "pattern": np.array(LOOKS)[look], "pattern_score": self.nature.base[:, 0],
            "pattern_way": np.where(look == LOOKS.index("offset"), "1 right", None),
            "pattern_scores": [[{"name": name, "score": float(i == own), "needed": 0.2}
                                for i, name in enumerate(LOOKS)] for own in look.tolist()],
            "patch_pattern": lists(self.mean["patch"], pa.float32()),
            "class_pattern": lists(self.mean["class"], pa.float32()),
            "content_dependence": 0.3 * self.nature.base[:, 1],
            "content_images": np.full(count, 2), "cluster": look, "class_cluster": look}


def _patch_patterns(nature: Nature, rng: np.random.Generator) -> np.ndarray:
    """Offset kernels of 13 x 13, and the entropy of rows beside them."""
    down, right = np.mgrid[-1:1:PATCH.side * 1j, -1:1:PATCH.side * 1j]
    width = (nature.reach / 14)[:, None, None]
    shapes = {
        "local": lambda w: down ** 2 + right ** 2, "global": lambda w: 0.02 * down ** 2,
        "offset": lambda w: down ** 2 + (right - 0.15) ** 2, "row": lambda w: 4 * down ** 2,
        "column": lambda w: 4 * right ** 2, "sink": lambda w: (down - 0.5) ** 2 + right ** 2}
    far = np.stack([shapes[LOOKS[look]](width) for look in nature.look])
    kernel = np.exp(-far / width ** 2) * rng.uniform(0.9, 1.1, far.shape)
    kernel = kernel.reshape(len(kernel), -1)
    even = np.clip(nature.reach / 8, 0.05, 0.95)[:, None]
    return np.concatenate([kernel / kernel.sum(1, keepdims=True), even, 1 - even], 1)


def _class_patterns(nature: Nature, rng: np.random.Generator) -> np.ndarray:
    """A spot in the image for each head, and how much goes to patches, class and other tokens."""
    down, right = np.mgrid[0:1:CLASS.side * 1j, 0:1:CLASS.side * 1j]
    spot = rng.uniform(0.2, 0.8, (len(nature.look), 2, 1, 1))
    seen = np.exp(-((down - spot[:, 0]) ** 2 + (right - spot[:, 1]) ** 2) * 8)
    seen = seen.reshape(len(seen), -1)
    own = nature.base[:, 2:3]
    return np.concatenate([seen / seen.sum(1, keepdims=True), 1 - own, own, np.zeros_like(own)], 1)


def _laid_out(places: np.ndarray, latent: np.ndarray, error: np.ndarray) -> dict[str, object]:
    """Where patterns [row, 2] lie, in both spaces."""
    x, y = np.clip(places, -SPREAD, SPREAD).T.astype(np.float32)
    return {"latent": lists(latent, pa.float32()), "pca": lists(-latent, pa.float32()), "x": x,
            "y": y, "pca_x": y / 6, "pca_y": -x / 6, "error": error, "pca_error": 2 * error}


def head_places(looks: Looks) -> pa.Table:
    size = looks.nature.size
    both = [{"model": [looks.nature.name] * size.all_heads, "layer": size.layer_of,
             "head": size.head_of, "kind": [kind] * size.all_heads, "cluster": looks.nature.look,
             **_laid_out(looks.places[kind], looks.latent[kind], looks.errors[kind])}
            for kind in ORDERED]
    return pa.concat_tables([to_table("head_places", one) for one in both])


def head_patterns(looks: Looks, ids: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Rows in order of image, layer, head and kind."""
    count, kinds = len(ids), len(ORDERED)
    places, latent, error = (np.stack([found[kind] for kind in ORDERED], 1) for found in (
        looks.places, looks.latent, looks.errors))
    around = places + 0.7 * rng.standard_normal((count, *places.shape), np.float32)
    around[..., 0] += 0.3 * (looks.nature.world.label[ids] % 7 - 3)[:, None, None]
    wrong = error * (1 + np.abs(rng.standard_normal((count, *error.shape), np.float32)))
    rows = wrong.size
    same = {name: np.repeat(np.asarray(values), kinds)
            for name, values in grain(looks.nature, ids).items() if name != "model"}
    return to_table("head_patterns", {
        **same, "model": repeated(looks.nature.name, pa.string(), rows),
        "kind": np.tile(np.array(ORDERED), rows // kinds),
        **_laid_out(around.reshape(rows, 2),
                    np.broadcast_to(latent, (count, *latent.shape)).reshape(rows, LATENT),
                    wrong.ravel())})


def pattern_inputs(looks: Looks, ids: np.ndarray, found: Numbers) -> pa.Table:
    """Each head's mean patterns, a little different in every image."""
    rng = looks.nature.rng(2)

    def codes(kind: Kind) -> np.ndarray:
        mean = looks.mean[kind.name]
        shares = mean * rng.lognormal(0, 0.3, (len(ids), *mean.shape))
        for group in kind.groups:
            shares[..., group] /= shares[..., group].sum(-1, keepdims=True)
        return encode(shares.reshape(-1, kind.size))

    patch = codes(PATCH)
    middle = (PATCH.side - NEAR_SIDE) // 2 + np.arange(NEAR_SIDE)
    near = patch[:, (middle[:, None] * PATCH.side + middle).ravel()]
    masses = {name: found["patch_self"].ravel() / scale for name, scale in (
        ("self_mass", 1), ("local_mass", 2), ("row_mass", 3), ("column_mass", 4),
        ("diagonal_mass", 5), ("sink_mass", 6))}
    return to_table("pattern_inputs", {
        **grain(looks.nature, ids), "patch": lists(patch), "class": lists(codes(CLASS)),
        "near": lists(near), **masses})


def attention(nature: Nature, ids: np.ndarray) -> pa.Table:
    """Matrices in which weight falls with distance, as each head's reach has it."""
    row, column = np.divmod(np.arange(GRID ** 2), GRID)
    apart = np.maximum(np.abs(row[:, None] - row), np.abs(column[:, None] - column))
    apart = np.pad(apart, (PREFIX, 0), constant_values=4)
    rng, rows, tokens = nature.rng(3), [], len(apart)
    for image in ids.tolist():
        for layer, head, reach in zip(nature.size.layer_of.tolist(), nature.size.head_of.tolist(),
                                      nature.reach, strict=True):
            weights = np.exp(-apart / reach) * rng.uniform(0.5, 1.5, apart.shape)
            weights /= weights.sum(1, keepdims=True)
            tops = weights.max(1, keepdims=True)
            rows.append({
                "model": nature.name, "image": image, "layer": layer, "head": head, "windows": 1,
                "queries": tokens, "keys": tokens, "tops": tops[:, 0], "error": 0.001,
                "weights": np.rint(255 * np.sqrt(weights / tops)).astype(np.uint8).tobytes()})
    return of_rows("attention", rows)


def head_matches(nature: Nature) -> pa.Table:
    size, rng = nature.size, nature.rng(4)
    parts = []
    for other in (name for name in size.names if name != nature.name):
        assigned = rng.permutation(size.all_heads)
        alike = rng.beta(5, 2, size.all_heads)
        parts.append(to_table("head_matches", {
            "model": [nature.name] * size.all_heads, "layer": size.layer_of,
            "head": size.head_of, "other_model": [other] * size.all_heads,
            "other_layer": size.layer_of[assigned], "other_head": size.head_of[assigned],
            "similarity": alike, "p_value": 1 - alike, "matched": alike > 0.7}))
    return pa.concat_tables(parts) if parts else of_rows("head_matches", [])


def pattern_spaces(size: Size) -> pa.Table:
    """Without the fitted numbers, which nothing that is served reads."""
    ends = [-SPREAD, SPREAD] * 2
    return of_rows("pattern_spaces", [
        {"kind": kind, "space_id": "made up", "models": size.names,
         "patterns": size.images * size.all_heads, "latent": LATENT, "epochs": 60, "seed": 0,
         "bounds": ends, "pca_bounds": [end / 6 for end in ends], "weights": b"",
         "versions": "{}"} for kind in ORDERED])


def pattern_clusters(all_looks: list[Looks]) -> pa.Table:
    rows = []
    for kind in ORDERED:
        for cluster, name in enumerate(LOOKS):
            own = [(looks.nature.look == cluster, looks) for looks in all_looks]
            places, means = (np.concatenate([found[kind][mine] for mine, found in (
                (mine, getattr(looks, what)) for mine, looks in own)]) for what in (
                    "places", "mean"))
            if not len(places):
                continue
            x, y = places.mean(0)
            rows.append({"kind": kind, "cluster": cluster, "name": f"{name} 100 %",
                         "heads": len(places), "prototype": means.mean(0), "agreement": 0.9,
                         "x": x, "y": y})
    return of_rows("pattern_clusters", rows)


def pattern_evidence() -> pa.Table:
    return of_rows("pattern_evidence", [
        {"kind": kind, "space": space, "test": test, "detail": "", "value": value,
         "chance": chance, "better": better, "text": f"Made up, {test}: {verdict}."}
        for kind in ORDERED
        for test, values, chance, better, verdict in (
            ("held-out images", (0.01, 0.02), None, -1, AE_BETTER),
            ("same head on another image", (0.7, 0.7), 0.04, 1, AS_GOOD))
        for space, value in zip(("autoencoder", "pca"), values, strict=True)])


def pruning_curves(nature: Nature) -> pa.Table:
    """Curves that fall late where the heads that matter least go first."""
    rng, heads = nature.rng(5), nature.size.all_heads
    orders = [(m.name, order, bend) for m in RANKED
              for order, bend in ((LEAST_FIRST, 4.0), (MOST_FIRST, 0.5))]
    orders += [(RANDOM, str(i), 1.3) for i in range(RANDOM_ORDERS)]
    rows = []
    for measure, order, bend in orders:
        power = bend * rng.uniform(0.8, 1.25)
        for pruned in (0, *fractions(heads)):
            left = 1 - (pruned / heads) ** power
            healthy = dict.fromkeys(QUANTITIES, left) | {
                "accuracy": left * float(nature.correct.mean()),
                "probability": left * float(nature.probability.mean()),
                "embedding_l2": 1.2 * (1 - left)}
            rows.append({"model": nature.name, "measure": measure, "order": order,
                         "fraction": pruned / heads, "pruned": pruned, "images": 24,
                         "ranking_images": None if measure == RANDOM else 24, **healthy})
    return of_rows("pruning_curves", rows)
