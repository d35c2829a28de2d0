"""Every table and column of a store, defined once.

`headatlas schema`, the README's table of measures, axis titles and tooltips, the writer's check
and the reader's empty tables all come from the records below. A new measure is one entry here and
one function in `precompute.importance` or `precompute.strength`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

FORMAT = 1
"""Version of the store's layout and columns; a store of another format is refused."""

TEXT, INT, BIG = pa.string(), pa.int32(), pa.int64()
SMALL, FLOAT, BOOL = pa.int16(), pa.float32(), pa.bool_()
PROFILE = pa.list_(pa.float32())
TOP5 = pa.list_(pa.struct([("class", pa.int32()), ("name", TEXT), ("probability", FLOAT)]))


@dataclass(frozen=True)
class Column:
    """One column: what it means, in the words that the whole product uses for it.

    `important` says which direction makes a head matter more (+1, -1, 0: neither); it is 0 for
    anything that is no importance measure.
    """

    name: str
    type: pa.DataType
    text: str
    label: str = ""
    unit: str = ""
    range: str = ""
    source: str = ""
    important: int = 0

    @property
    def title(self) -> str:
        """The axis title: label and unit."""
        label = self.label or self.name.replace("_", " ")
        return f"{label} ({self.unit})" if self.unit else label

    @property
    def is_scalar_number(self) -> bool:
        return pa.types.is_floating(self.type) or pa.types.is_boolean(self.type)


@dataclass(frozen=True)
class Table:
    """One table: its grain (`keys`), its columns, and the files that hold it inside a store."""

    name: str
    text: str
    files: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([(c.name, c.type) for c in self.columns])

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name!r}")


MODEL = Column("model", TEXT, "name of the model, as shown")
IMAGE = Column("image", INT, "number of the image, from 0, in order of path within one import")
LAYER = Column("layer", SMALL, "transformer block, from 0")
HEAD = Column("head", SMALL, "head within its block, from 0")

_LI = "Li et al. 2023"
_MICHEL = "Michel et al. 2019"

IMPORTANCE: tuple[Column, ...] = (
    Column("probability", FLOAT,
           "p'_c after the ablation, c = the unpruned model's top class (saturates near 0 and 1)",
           "probability after pruning", "", "0..1", _LI, -1),
    Column("probability_drop", FLOAT, "p_c - p'_c, c = the unpruned model's top class; "
           "negative where pruning makes the model surer", "probability drop", "", "-1..1", _LI, 1),
    Column("true_probability_drop", FLOAT, "p_y - p'_y for the labelled class y; "
           "NULL without a label or a classifier", "true-class probability drop", "", "-1..1",
           _LI, 1),
    Column("loss_increase", FLOAT, "ln p_y - ln p'_y for the labelled class y; a few images "
           "dominate the mean, read the median too", "loss increase", "nats", "unbounded",
           _MICHEL, 1),
    Column("margin_drop", FLOAT, "loss of the logit margin between the unpruned model's first and "
           "second class", "margin drop", "logits", "unbounded", "", 1),
    Column("js_divergence", FLOAT, "Jensen-Shannon divergence of p and p'; ignores direction",
           "JS divergence", "nats", "0..ln 2", "Lin 1991", 1),
    Column("flip", BOOL, "the predicted class changed (its mean is a share of images)",
           "flipped predictions", "", "0..1", "", 1),
    Column("embedding_cosine", FLOAT, "1 - cos(e, e') of the embedding that the classifier reads; "
           "needs no classifier", "embedding cosine change", "", "0..2", "", 1),
    Column("embedding_l2", FLOAT, "||e - e'|| / ||e|| of the embedding that the classifier reads; "
           "needs no classifier", "embedding change", "relative", ">= 0", "", 1),
    Column("layer_cls_l2", FLOAT, "relative L2 change of the block's own output at the class "
           "token; NULL without one", "block change at class token", "relative", ">= 0", "", 1),
    Column("layer_patch_l2", FLOAT, "relative L2 change of the block's own output, mean over "
           "patches", "block change at patches", "relative", ">= 0", "", 1),
    Column("confidence", FLOAT, "mean over queries of the largest attention weight; sinks count "
           "as confident; no intervention, the same for every ablation", "confidence", "", "1/T..1",
           "Voita et al. 2019", 1),
    Column("direct_logit", FLOAT, "the head's direct addition to the logit of the unpruned top "
           "class, the final norm's scale frozen; with embedding, MLPs and biases these add up to "
           "the logit; blind to indirect effects; NULL where the readout is not linear",
           "direct logit attribution", "logits", "unbounded", "Elhage et al. 2021", 1),
)

CLEAN_PASS = frozenset({"confidence", "direct_logit"})
"""Importance measures of the clean pass: nothing is pruned, so there is nothing to compare with."""

STRENGTH: tuple[Column, ...] = (
    Column("hop_entropy", FLOAT, "-sum p_k ln p_k with p_k = hop_strength[k] / sum: how evenly the "
           "head looks near and far (the paper's head entropy)", "hop entropy", "nats", "0..ln K",
           _LI),
    Column("row_entropy", FLOAT, "mean over patch queries of -sum_j A_ij ln A_ij, j over all keys",
           "row entropy", "nats", "0..ln T", ""),
    Column("distance", FLOAT, "mean over patch queries of sum_j A_ij d_ij, j over patches, "
           "d in fractions of the image side; weight on prefix keys counts as 0; a uniform head "
           "is near 0.52", "attention distance", "image sides", "0..1.41",
           "Dosovitskiy et al. 2021"),
    Column("distance_renormalised", FLOAT, "the same with each query's weights on patches scaled "
           "to sum to 1", "attention distance, patches only", "image sides", "0..1.41",
           "Raghu et al. 2021"),
    Column("cls_to_patch", FLOAT, "the class query's mass on patches; NULL without a class token",
           "class to patches", "", "0..1", ""),
    Column("cls_self", FLOAT, "the class query's weight on itself; NULL without a class token",
           "class to class", "", "0..1", ""),
    Column("patch_to_cls", FLOAT, "mean over patch queries of the weight on the class key; NULL "
           "without a class token", "patches to class", "", "0..1", ""),
    Column("patch_self", FLOAT, "mean over patch queries of the weight on the patch itself",
           "patch to itself", "", "0..1", ""),
    Column("prefix_share", FLOAT, "mean over patch queries of the mass on all prefix keys (class, "
           "registers, distillation); 0 without any", "prefix share", "", "0..1", ""),
    Column("register_share", FLOAT, "mean over patch queries of the mass on prefix keys other than "
           "the class token; NULL without any", "register share", "", "0..1",
           "Darcet et al. 2024"),
    Column("nmi", FLOAT, "mutual information of query and key position over patches (rows scaled "
           "to sum to 1), divided by sqrt(H(query) H(key)); 0 = every query looks the same way; "
           "NULL where undefined", "query-key NMI", "", "0..1", "Park et al. 2023"),
    Column("sink", FLOAT, "N times the largest mean weight, over patch queries, of one patch key; "
           "1 = no sink", "sink", "x uniform", "0..N", "Xiao et al. 2024"),
)

PROFILES: tuple[Column, ...] = (
    Column("hop_strength", PROFILE, "[k]: mean weight over the ordered patch pairs at Chebyshev "
           "distance k = 0..K-1, K = max(grid_h, grid_w); edge-corrected, only real pairs count",
           "strength at hop", "mean weight", "0..1 each", _LI),
    Column("hop_mass", PROFILE, "[k]: 1/N of the summed weights at Chebyshev distance k; together "
           "with prefix_share these sum to 1", "mass at hop", "", "0..1 each", ""),
)

SUMMARISED: tuple[Column, ...] = IMPORTANCE + STRENGTH
"""The measures that `heads` summarises, in one order everywhere."""

_SUMMARY = (
    ("mean", "mean over images of"),
    ("median", "median over images of"),
    ("low", "2.5 % end of the bootstrap interval of the mean of"),
    ("high", "97.5 % end of the bootstrap interval of the mean of"),
)


def _summary_columns() -> tuple[Column, ...]:
    return tuple(
        Column(f"{m.name}_{suffix}", FLOAT, f"{text} {m.name} (zero ablation where one is named)",
               f"{m.label}, {suffix}", m.unit, m.range, m.source, m.important)
        for m in SUMMARISED for suffix, text in _SUMMARY
    )


TABLES: dict[str, Table] = {t.name: t for t in (
    Table("models", "one row per model", "models/*/model.parquet", ("model",), (
        MODEL,
        Column("spec", TEXT, "the SPEC it was asked for with"),
        Column("family", TEXT, "class of the timm model"),
        Column("engine", TEXT, "how its heads were ablated: tail (from the pruned block on), "
               "tail-class-row (and only the class row in the last block), hooks (full passes)"),
        Column("layers", SMALL, "transformer blocks"),
        Column("heads", SMALL, "heads per block (the largest, where blocks differ)"),
        Column("grid_h", SMALL, "patches, vertically"),
        Column("grid_w", SMALL, "patches, horizontally"),
        Column("patch", SMALL, "side of a patch", unit="pixels"),
        Column("image_h", SMALL, "height of the model's input", unit="pixels"),
        Column("image_w", SMALL, "width of the model's input", unit="pixels"),
        Column("prefix_tokens", SMALL, "tokens before the patches: class, registers, distillation"),
        Column("class_token", BOOL, "has a class token"),
        Column("registers", SMALL, "prefix tokens other than the class token"),
        Column("parameters", BIG, "number of parameters"),
        Column("classifier", TEXT, "native, probe (cross-fitted logistic regression on clean "
               "embeddings: each image is judged by a probe that has not seen it) or none"),
        Column("classes", INT, "classes of the classifier; NULL without one"),
        Column("accuracy", FLOAT, "share of labelled images predicted correctly; held-out for a "
               "probe; NULL without labels or classifier", "accuracy", "", "0..1"),
        Column("weights_sha256", TEXT, "hash of the weights (names, shapes and bytes in order)"),
        Column("preprocessing", TEXT, "JSON: size, crop, interpolation, mean, std"),
        Column("versions", TEXT, "JSON: headatlas, torch, timm, scikit-learn, python, device"),
    )),
    Table("images", "one row per image", "images/*.parquet", ("image",), (
        IMAGE,
        Column("path", TEXT, "relative to the images folder"),
        Column("folder", TEXT, "the images folder it was read from"),
        Column("label", TEXT, "its label; NULL without one"),
        Column("width", INT, "of the file", unit="pixels"),
        Column("height", INT, "of the file", unit="pixels"),
        Column("sha256", TEXT, "hash of the file"),
        Column("thumbnail", pa.binary(), "a small WebP"),
    )),
    Table("predictions", "one row per model and image, unpruned",
          "models/*/predictions.parquet", ("model", "image"), (
        MODEL, IMAGE,
        Column("predicted", TEXT, "name of the top class; NULL without a classifier"),
        Column("predicted_class", INT, "its number"),
        Column("correct", BOOL, "predicted is the label; NULL without a label", "correct"),
        Column("probability", FLOAT, "of the top class", "probability", "", "0..1"),
        Column("true_probability", FLOAT, "of the labelled class", "true-class probability", "",
               "0..1"),
        Column("margin", FLOAT, "logit of the first class minus the second", "margin", "logits",
               ">= 0"),
        Column("top5", TOP5, "the five most probable classes"),
        Column("x", FLOAT, "2-D layout of the model's embeddings (t-SNE)", "x"),
        Column("y", FLOAT, "2-D layout of the model's embeddings (t-SNE)", "y"),
    )),
    Table("embeddings", "one row per model and image: what the classifier reads, unpruned",
          "models/*/clean/*/embeddings.parquet", ("model", "image"), (
        MODEL, IMAGE,
        Column("embedding", PROFILE, "forward_head(..., pre_logits=True)"),
        Column("logits", PROFILE, "of the model's own classifier; NULL without one"),
    )),
    Table("head_scores", "one row per model, image, layer, head and ablation: importance",
          "models/*/heads/*/head_scores.parquet",
          ("model", "image", "layer", "head", "ablation"), (
        MODEL, IMAGE, LAYER, HEAD,
        Column("ablation", TEXT, "zero: the head's output is set to 0 before anything mixes heads"),
        *IMPORTANCE,
    )),
    Table("head_strength", "one row per model, image, layer and head: how far and where it looks",
          "models/*/heads/*/head_strength.parquet", ("model", "image", "layer", "head"), (
        MODEL, IMAGE, LAYER, HEAD, *STRENGTH, *PROFILES,
    )),
    Table("heads", "one row per model, layer and head: summaries over all images",
          "models/*/heads.parquet", ("model", "layer", "head"), (
        MODEL, LAYER, HEAD,
        Column("normalised_depth", FLOAT, "layer / (layers - 1)", "normalised depth", "", "0..1"),
        Column("images", INT, "how many images the summaries are over"),
        *_summary_columns(),
    )),
)}


def measure(name: str) -> Column:
    """The definition of an importance or strength measure; ValueError names what is allowed."""
    for column in SUMMARISED:
        if column.name == name:
            return column
    raise ValueError(f"no measure {name!r}; one of {', '.join(c.name for c in SUMMARISED)}")
