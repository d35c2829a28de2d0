"""The tables of attention patterns: what heads look like, and which heads are alike."""

from __future__ import annotations

import pyarrow as pa

from store.canon import KINDS as _KINDS
from store.measures import BOOL, FLOAT, PROFILE, Column
from store.series_tables import BOUND_COLUMNS
from store.table import HEAD, IMAGE, INT, LAYER, MODEL, SMALL, TEXT, Table

CODES = pa.list_(pa.uint8())
SCORES = pa.list_(pa.struct([("name", TEXT), ("score", FLOAT), ("needed", FLOAT)]))

KINDS: tuple[str, ...] = tuple(_KINDS)
"""Of patterns: patch and class attention have spaces of their own."""

SPACES: dict[str, str] = {
    "autoencoder": "latents of an autoencoder with softmax decoder, trained with cross-entropy",
    "pca": "principal components of the square roots of the shares, as many as the autoencoder has",
}
"""How patterns are laid out; both stand side by side wherever patterns are shown."""

AE_BETTER, AS_GOOD, PCA_BETTER = VERDICTS = (
    "the autoencoder is better", "PCA is as good", "PCA is better")
"""How a sentence of pattern_evidence ends where it compares the two spaces."""

_KIND = Column("kind", TEXT, "of pattern: " + " or ".join(KINDS))
_SPACE = Column("space", TEXT, "; ".join(f"{name}: {text}" for name, text in SPACES.items()))
_OTHER = (Column("other_model", TEXT, "the model it is compared with"),
          Column("other_layer", SMALL, "block of the other model's head; NULL where that has none "
                 "left for it"),
          Column("other_head", SMALL, "the other model's head within its block"))

_LAID_OUT = (
    Column("latent", PROFILE, "the autoencoder's latent"),
    Column("pca", PROFILE, "the principal components of the square roots of the shares"),
    Column("x", FLOAT, "2-D layout of the latents", "x"),
    Column("y", FLOAT, "2-D layout of the latents", "y"),
    Column("pca_x", FLOAT, "2-D layout of the principal components", "x"),
    Column("pca_y", FLOAT, "2-D layout of the principal components", "y"),
    Column("error", FLOAT, "KL divergence of the autoencoder's reconstruction from the pattern, "
           "summed over its groups", "autoencoder's error", "nats", ">= 0"),
    Column("pca_error", FLOAT, "the same of the principal components' (squared, scaled to sum to "
           "1)", "PCA's error", "nats", ">= 0"),
)

HEAD_COLUMNS = (
    Column("pattern", TEXT, "name of the head's pattern by rules on its mean over images; mixed "
           "where none holds; NULL where no patch asks"),
    Column("pattern_score", FLOAT, "score of that rule, in excess of a uniform head; NULL for "
           "mixed", "pattern score", "", "0..1"),
    Column("pattern_way", TEXT, "which way an offset or directional head looks, such as 1 left or "
           "down; NULL for others"),
    Column("pattern_scores", SCORES, "every rule's score, and the score that it needs"),
    Column("patch_pattern", PROFILE, "mean over images of the canonical patch pattern; its first "
           "13 x 13 numbers are the mean offset kernel"),
    Column("class_pattern", PROFILE, "mean over images of the canonical class pattern; NULL "
           "without a class token"),
    Column("content_dependence", FLOAT, "mean over the images of which attention is kept of "
           "JSD(A_image || mean A), mean over queries: 0 = it looks the same way in every image; "
           "NULL where fewer than two are kept", "content dependence", "nats", "0..ln 2"),
    Column("content_images", INT, "how many images content_dependence is over"),
    Column("cluster", SMALL, "cluster of its patch pattern (pattern_clusters); NULL before the "
           "patterns are fitted"),
    Column("class_cluster", SMALL, "cluster of its class pattern"),
)
"""What `heads` says about patterns."""

PATTERN_TABLES: tuple[Table, ...] = (
    Table("pattern_inputs", "one row per model, image, layer and head: its attention on the "
          "canonical geometry, a byte a share (255 sqrt(p))",
          "models/*/heads/*/pattern_inputs.parquet", ("model", "image", "layer", "head"), (
        MODEL, IMAGE, LAYER, HEAD,
        Column("patch", CODES, "offset kernel, 13 x 13, and [h, 1 - h] of the row entropy; NULL "
               "where no patch asks, or none sees another"),
        Column("class", CODES, "class row over the image, 14 x 14, and its shares on patches, "
               "itself and other prefix tokens; NULL without a class token"),
        Column("near", CODES, "mean weight on patches at offsets of up to 2 patches, 5 x 5 (down, "
               "then right), 0 where the grid does not reach so far"),
        Column("self_mass", FLOAT, "patches' mean weight on themselves, of that on patches",
               "", "", "0..1"),
        Column("local_mass", FLOAT, "the same up to a seventh of the grid's (or window's) side "
               "away, at least one patch", "", "", "0..1"),
        Column("row_mass", FLOAT, "the same farther away, in the query's row of patches and up to "
               "a fourteenth of the side beside it", "", "", "0..1"),
        Column("column_mass", FLOAT, "the same, in and beside its column", "", "", "0..1"),
        Column("diagonal_mass", FLOAT, "the same, on and beside its two diagonals",
               "", "", "0..1"),
        Column("sink_mass", FLOAT, "the share of patches' weight on patches that goes to the 3 % "
               "of keys (at least one, of each window) that get the most in this image",
               "", "", "0..1"),
    )),
    Table("head_patterns", "one row per model, image, layer, head and kind of pattern: its place "
          "in the pattern spaces", "models/*/patterns/*.parquet",
          ("model", "image", "layer", "head", "kind"), (
        MODEL, IMAGE, LAYER, HEAD, _KIND, *_LAID_OUT,
    )),
    Table("head_places", "one row per model, layer, head and kind: the place of its mean pattern",
          "models/*/head_places.parquet", ("model", "layer", "head", "kind"), (
        MODEL, LAYER, HEAD, _KIND, *_LAID_OUT,
        Column("cluster", SMALL, "its cluster (pattern_clusters)"),
    )),
    Table("pattern_spaces", "one row per kind: the fitted pattern space",
          "patterns/pattern_spaces.parquet", ("kind",), (
        _KIND,
        Column("space_id", TEXT, "hash of the fit; what was placed by another fit is made again"),
        Column("models", pa.list_(TEXT), "whose heads it was fitted on; heads of other models are "
               "encoded in it as it is"),
        Column("patterns", INT, "how many patterns it was fitted on"),
        Column("latent", INT, "numbers of a latent"),
        Column("epochs", INT, "passes over the patterns"),
        Column("seed", INT, "of the fit"),
        *BOUND_COLUMNS,
        Column("weights", pa.binary(), "the fitted numbers (npz)"),
        Column("versions", TEXT, "JSON: headatlas, torch, scikit-learn"),
    )),
    Table("pattern_evidence", "one row per kind, space and test: how good the space is",
          "patterns/pattern_evidence*.parquet", ("kind", "space", "test", "detail"), (
        _KIND,
        Column("space", TEXT, _SPACE.text + "; mean: the mean pattern, for comparison"),
        Column("test", TEXT, "what was tested"),
        Column("detail", TEXT, "on what: the model held out, the image size, ...; empty if on all"),
        Column("value", FLOAT, "the result"),
        Column("chance", FLOAT, "what chance would give; NULL where there is no such thing"),
        Column("low", FLOAT, "2.5 % end of its interval, or the worst seed's; NULL without one"),
        Column("high", FLOAT, "97.5 % end of its interval, or the best seed's; NULL without one"),
        Column("better", SMALL, "1 where more is better, -1 where less"),
        Column("text", TEXT, "what it means, in one sentence; where both spaces were tested it "
               f"ends: {AE_BETTER}, {AS_GOOD} or {PCA_BETTER}"),
    )),
    Table("pattern_clusters", "one row per kind and cluster of heads",
          "patterns/pattern_clusters.parquet", ("kind", "cluster"), (
        _KIND,
        Column("cluster", SMALL, "its number, from 0, the largest first when they were "
               "fitted"),
        Column("name", TEXT, "what the mean of its heads is called by the rules for names (class "
               "patterns have rules of their own), or nearly, where it falls a little short of the "
               "rule that comes closest; and the share of its heads that is called so"),
        Column("heads", INT, "how many heads it has, of all models"),
        Column("prototype", PROFILE, "the mean pattern of its heads, encoded and decoded"),
        Column("agreement", FLOAT, "mean share of seeds in which two of its heads are together",
               "", "", "0..1"),
        Column("x", FLOAT, "its centre in the 2-D layout", "x"),
        Column("y", FLOAT, "its centre in the 2-D layout", "y"),
    )),
    Table("head_matches", "one row per head with a patch pattern and other model: the head of the "
          "other model that the assignment gives it", "models/*/head_matches.parquet",
          ("model", "layer", "head", "other_model"), (
        MODEL, LAYER, HEAD, *_OTHER,
        Column("similarity", FLOAT, "2 <a, b> / (|a|^2 + |b|^2), a and b the mean patterns of both "
               "heads (class patterns too if both have them), square roots of shares less a "
               "uniform head's", "similarity", "", "-1..1", "Zegers & ten Berge 1985"),
        Column("p_value", FLOAT, "chance that the best of the other model's heads is as similar if "
               "the shapes of their patterns are turned at random within each scale; the larger "
               "one of both models' sides", "p value", "", "0..1"),
        Column("matched", BOOL, "more alike than chance: Benjamini-Hochberg over the heads of the "
               "two models, at 5 %"),
    )),
    Table("attention", "one row per model, kept image, layer and head: its attention matrix, a "
          "byte a weight", "models/*/attention/*/attention.parquet",
          ("model", "image", "layer", "head"), (
        MODEL, IMAGE, LAYER, HEAD,
        Column("windows", INT, "windows; 1 where all patches see all"),
        Column("queries", INT, "rows of each"),
        Column("keys", INT, "columns of each"),
        Column("tops", PROFILE, "the largest weight of each row, window by window"),
        Column("weights", pa.binary(), "window x query x key bytes c: weight = top (c / 255)^2"),
        Column("error", FLOAT, "largest difference of a weight from what the model computed",
               "", "", "0..1"),
    ), rows_at_once=1),
)
