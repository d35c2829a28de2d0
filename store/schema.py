"""Every table and column of a store, defined once.

`headatlas schema`, the README's table of measures, axis titles and tooltips, the writer's check
and the reader's empty tables all come from the records below; the measures among the columns are
defined in `store.measures`.
"""

from __future__ import annotations

import pyarrow as pa

from store.measures import (
    ABLATIONS,
    BOOL,
    CLEAN_PASS,
    FLOAT,
    IMPORTANCE,
    KEEPS_THE_HEAD,
    LI,
    MODES,
    OUTCOMES,
    PROFILE,
    PROFILES,
    RANKED,
    STRENGTH,
    SUMMARISED,
    Column,
    direction,
    measure,
)
from store.pattern_tables import HEAD_COLUMNS, KINDS, PATTERN_TABLES, SPACES
from store.table import BIG, HEAD, IMAGE, INT, LAYER, MODEL, PLACES, SMALL, TEXT, TOP5, Table

__all__ = [
    "ABLATIONS", "BIG", "BOOL", "CLEAN_PASS", "FLOAT", "FORMAT", "HEAD", "IMAGE", "IMPORTANCE",
    "INT", "KEEPS_THE_HEAD", "KINDS", "LAYER", "MODEL", "MODES", "OUTCOMES", "PROFILE", "PROFILES",
    "RANKED", "SMALL", "SPACES", "STRENGTH", "SUMMARISED", "TABLES", "TEXT", "TOP5", "Column",
    "Table", "direction", "measure",
]

FORMAT = 4
"""Version of the store's layout and columns; a store of another format is refused."""

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


def _rank_columns() -> tuple[Column, ...]:
    return tuple(
        Column(f"{m.name}_{suffix}", FLOAT, f"{text} {m.name} (1 = matters most; ties share the "
               "mean of their ranks; NULL where the measure is)", f"{m.label}, {suffix}", "",
               "1..heads of the model")
        for m in RANKED for suffix, text in (
            ("rank", "the head's rank among the model's heads by mean"),
            ("rank_low", "2.5 % end of the bootstrap interval of the rank by"),
            ("rank_high", "97.5 % end of the bootstrap interval of the rank by"))
    )


def _listing(texts: dict[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


_ORDER = (
    Column("measure", TEXT, "importance measure that makes the order, by its mean over the ranking "
           "images (zero ablation); random for random orders"),
    Column("order", TEXT, "least_first, most_first, or the number of a random order"),
)
_OTHER = (Column("other_layer", SMALL, "block of the second head"),
          Column("other_head", SMALL, "the second head within its block"))

TABLES: dict[str, Table] = {t.name: t for t in (
    Table("models", "one row per model", "models/*/model.parquet", ("model",), (
        MODEL,
        Column("spec", TEXT, "the SPEC it was asked for with"),
        Column("family", TEXT, "class of the timm model"),
        Column("engine", TEXT, "how its heads were ablated: fast (timm's plain blocks taken apart, "
               "from the pruned block on), tail (the model's own code from the pruned block on), "
               "hooks (a full forward pass per head)"),
        Column("precision", TEXT, "arithmetic of the ablations: float32 or bfloat16"),
        Column("precision_error", FLOAT, "bfloat16: largest relative difference of an ablated "
               "embedding from float32 on the first images, measured before the run; NULL for "
               "float32", "", "relative", ">= 0"),
        Column("selftest", TEXT, "JSON: the exactness checks of headatlas selftest on the first "
               "images: name, worst, allowed, passed"),
        Column("reference_images", INT, "images whose mean is the mean ablation; NULL without it"),
        Column("resample_draws", INT, "donors per image of the resample ablation; NULL without it"),
        Column("layers", SMALL, "transformer blocks"),
        Column("heads", SMALL, "heads per block (the largest, where blocks differ)"),
        Column("grid_h", SMALL, "patches, vertically, in the first block"),
        Column("grid_w", SMALL, "patches, horizontally, in the first block"),
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
    Table("layers", "one row per model and layer: its geometry",
          "models/*/layers.parquet", ("model", "layer"), (
        MODEL, LAYER,
        Column("heads", SMALL, "heads of this block"),
        Column("grid_h", SMALL, "patches, vertically"),
        Column("grid_w", SMALL, "patches, horizontally"),
        Column("prefix_tokens", SMALL, "tokens before the patches"),
        Column("class_token", BOOL, "has a class token"),
        Column("class_query", BOOL, "the class token alone asks (CaiT's last blocks)"),
        Column("window_h", SMALL, "height of its windows; NULL where all patches see all"),
        Column("window_w", SMALL, "width of its windows"),
        Column("shift_h", SMALL, "how far the windows are shifted down"),
        Column("shift_w", SMALL, "how far the windows are shifted right"),
        Column("places", PLACES, "which patch of the grid is at each place of a window, window by "
               "window; -1 for padding; NULL where all patches see all"),
    )),
    Table("head_scores", "one row per model, image, layer, head and ablation: importance",
          "models/*/*/*/head_scores.parquet",
          ("model", "image", "layer", "head", "ablation"), (
        MODEL, IMAGE, LAYER, HEAD,
        Column("ablation", TEXT, _listing(ABLATIONS)),
        *IMPORTANCE,
    )),
    Table("layer_scores", "one row per model, image and layer: all its heads set to 0 at once",
          "models/*/layer/*/layer_scores.parquet", ("model", "image", "layer"), (
        MODEL, IMAGE, LAYER, *OUTCOMES,
    )),
    Table("partial_pruning", "one row per model, image, layer, head and mode: parts of the "
          "attention matrix set to 0, on a sample of images",
          "models/*/partial/*/partial_pruning.parquet",
          ("model", "image", "layer", "head", "mode"), (
        MODEL, IMAGE, LAYER, HEAD,
        Column("mode", TEXT, "what is set to 0: " + _listing(MODES)
               + "; modes of a token that the block lacks have NULL measures"),
        Column("probability", FLOAT, "p'_c, c = the unpruned model's top class", "probability",
               "", "0..1", LI),
        Column("js_divergence", FLOAT, "Jensen-Shannon divergence of p and p'", "JS divergence",
               "nats", "0..ln 2", "Lin 1991"),
        Column("embedding_l2", FLOAT, "||e - e'|| / ||e||", "embedding change", "relative", ">= 0"),
        Column("top5", TOP5, "the five most probable classes under the mode"),
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
        *_rank_columns(),
        *HEAD_COLUMNS,
    )),
    Table("head_ablations", "one row per model, layer, head and ablation: its measures over the "
          "images that have that ablation",
          "models/*/head_ablations.parquet", ("model", "layer", "head", "ablation"), (
        MODEL, LAYER, HEAD,
        Column("ablation", TEXT, _listing(ABLATIONS)),
        Column("images", INT, "how many images the means are over"),
        *(Column(f"{m.name}_mean", FLOAT, f"mean over those images of {m.name}",
                 f"{m.label}, mean", m.unit, m.range, m.source, m.important) for m in OUTCOMES),
    )),
    Table("rank_agreement", "one row per model and unordered pair of (measure, ablation): how "
          "alike they put the heads in order",
          "models/*/rank_agreement.parquet",
          ("model", "measure", "ablation", "other_measure", "other_ablation"), (
        MODEL,
        Column("measure", TEXT, "importance measure; it puts the heads in the order in which "
               "they matter by its mean"),
        Column("ablation", TEXT, "its ablation (under leave_one_in the head after which the "
               "least changes matters most); zero for measures of the clean pass"),
        Column("other_measure", TEXT, "the measure it is compared with"),
        Column("other_ablation", TEXT, "the ablation it is compared with"),
        Column("spearman", FLOAT, "rank correlation over the heads that have both, of the means "
               "over the images that have both ablations; of a measure with itself: mean "
               "correlation of its ranking with those of bootstrap resamples of its images (its "
               "stability; NULL for one image)", "Spearman", "", "-1..1"),
        Column("kendall", FLOAT, "the same, as Kendall's tau-b", "Kendall", "", "-1..1"),
        Column("images", INT, "how many images have both ablations"),
    )),
    Table("pruning_points", "one row per model, image, measure, order and number of heads pruned: "
          "cumulative pruning, image by image",
          "models/*/curves/*/pruning_points.parquet",
          ("model", "image", "measure", "order", "pruned"), (
        MODEL, IMAGE, *_ORDER,
        Column("pruned", INT, "heads set to 0, the first so many of the order"),
        Column("agree", BOOL, "predicts what the unpruned model predicts"),
        Column("correct", BOOL, "predicts the label; NULL without a label"),
        Column("probability", FLOAT, "p'_c, c = the unpruned model's top class", "probability",
               "", "0..1"),
        Column("embedding_l2", FLOAT, "||e - e'|| / ||e||", "embedding change", "relative", ">= 0"),
    )),
    Table("pruning_curves", "one row per model, measure, order and fraction of heads pruned, over "
          "judging images that the ranking has not seen",
          "models/*/pruning_curves.parquet", ("model", "measure", "order", "fraction"), (
        MODEL, *_ORDER,
        Column("fraction", FLOAT, "share of the model's heads pruned; 0 is the unpruned model",
               "heads pruned", "", "0..1"),
        Column("pruned", INT, "how many heads that is"),
        Column("images", INT, "how many images judged"),
        Column("ranking_images", INT, "how many other images the order was made from; NULL for "
               "random orders"),
        Column("accuracy", FLOAT, "share of labelled images predicted correctly; NULL without",
               "accuracy", "", "0..1"),
        Column("agreement", FLOAT, "share of images predicted as by the unpruned model; NULL "
               "without a classifier", "agreement", "", "0..1"),
        Column("probability", FLOAT, "mean of p'_c, c = the unpruned model's top class",
               "probability", "", "0..1"),
        Column("embedding_l2", FLOAT, "mean of ||e - e'|| / ||e||", "embedding change", "relative",
               ">= 0"),
    )),
    Table("pruning_areas", "one row per model, measure, order (random ones aside) and quantity: "
          "the area under its pruning curve beside those of random orders",
          "models/*/pruning_areas.parquet", ("model", "measure", "order", "quantity"), (
        MODEL, *_ORDER,
        Column("quantity", TEXT, "agreement, accuracy, probability or embedding_l2"),
        Column("area", FLOAT, "mean of the quantity over fractions 0 to 1 (trapezoids)", "area"),
        Column("random_mean", FLOAT, "mean area of the random orders"),
        Column("random_low", FLOAT, "smallest area of the random orders"),
        Column("random_high", FLOAT, "largest area of the random orders"),
        Column("random_orders", INT, "how many random orders"),
        Column("beats", FLOAT, "share of random orders that it beats: least_first by harming the "
               "model less, most_first by harming it more (for embedding_l2 more area is more "
               "harm, for the others less)", "random orders beaten", "", "0..1"),
    )),
    Table("pair_scores", "one row per model, image and sampled pair of heads: both set to 0",
          "models/*/pairs/*/pair_scores.parquet",
          ("model", "image", "layer", "head", "other_layer", "other_head"), (
        MODEL, IMAGE, LAYER, HEAD, *_OTHER,
        Column("probability_drop", FLOAT, "p_c - p'_c with both heads pruned",
               "probability drop", "", "-1..1"),
        Column("js_divergence", FLOAT, "Jensen-Shannon divergence with both heads pruned",
               "JS divergence", "nats", "0..ln 2"),
        Column("embedding_l2", FLOAT, "embedding change with both heads pruned",
               "embedding change", "relative", ">= 0"),
    )),
    Table("head_pairs", "one row per model and sampled pair of heads: synergy",
          "models/*/head_pairs.parquet",
          ("model", "layer", "head", "other_layer", "other_head"), (
        MODEL, LAYER, HEAD, *_OTHER,
        Column("images", INT, "how many images the means are over"),
        *(Column(f"{name}_{suffix}", FLOAT, text.format(name), unit=unit)
          for name, unit in (("probability_drop", ""), ("js_divergence", "nats"),
                             ("embedding_l2", "relative"))
          for suffix, text in (
              ("both", "mean {} with both heads pruned"),
              ("synergy", "the same minus the sum of the two heads' own, on the same images: "
                          "above 0, each covers for the other; below 0, with one gone the other "
                          "matters less (changes of an embedding in unrelated directions also "
                          "add up to less than their sum)"))),
    )),
    *PATTERN_TABLES,
)}
