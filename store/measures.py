"""Every measure of a head, defined once: its formula, unit, range, direction and source.

`store.schema` makes tables of them. A new measure is one entry here and one function in
`precompute.importance`, `precompute.gradients` or `precompute.strength`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

FLOAT, BOOL = pa.float32(), pa.bool_()
PROFILE = pa.list_(pa.float32())


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


LI = "Li et al. 2023"
_MICHEL = "Michel et al. 2019"

IMPORTANCE: tuple[Column, ...] = (
    Column("probability", FLOAT,
           "p'_c after the ablation, c = the unpruned model's top class (saturates near 0 and 1)",
           "probability after pruning", "", "0..1", LI, -1),
    Column("probability_drop", FLOAT, "p_c - p'_c, c = the unpruned model's top class; "
           "negative where pruning makes the model surer", "probability drop", "", "-1..1", LI, 1),
    Column("true_probability_drop", FLOAT, "p_y - p'_y for the labelled class y; "
           "NULL without a label or a classifier", "true-class probability drop", "", "-1..1",
           LI, 1),
    Column("loss_increase", FLOAT, "ln p_y - ln p'_y for the labelled class y; a few images "
           "dominate the mean, read the median too", "loss increase", "nats", "unbounded",
           _MICHEL, 1),
    Column("margin_drop", FLOAT, "loss of the logit margin between the unpruned model's first and "
           "second class", "margin drop", "logits", "unbounded", "", 1),
    Column("js_divergence", FLOAT, "Jensen-Shannon divergence of p and p'; ignores direction",
           "JS divergence", "nats", "0..ln 2", "Lin 1991", 1),
    Column("flip", BOOL, "the predicted class changed (its mean is a share of images); of "
           "several donors, by most of them",
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
    Column("gate_gradient", FLOAT, "|dL/dg| per image for a gate g = 1 that multiplies the head's "
           "output, L = cross-entropy of the label, else of the predicted class; near 0 on images "
           "the model is sure of; no intervention, the same for every ablation", "gate gradient",
           "nats", ">= 0", _MICHEL, 1),
    Column("taylor", FLOAT, "-dL/dg: first-order estimate of how much the loss would rise if the "
           "gate were closed; the same for every ablation", "Taylor estimate", "nats", "unbounded",
           "Molchanov et al. 2017", 1),
)

CLEAN_PASS = frozenset({"confidence", "direct_logit", "gate_gradient", "taylor"})
"""Importance measures of the clean pass: nothing is pruned, so there is nothing to compare with."""

OUTCOMES: tuple[Column, ...] = tuple(c for c in IMPORTANCE if c.name not in CLEAN_PASS)
"""Importance measures that compare a pruned outcome with the clean one."""

ABLATIONS: dict[str, str] = {
    "zero": "the head's output is set to 0 before anything mixes heads (the paper's pruning)",
    "mean": "the head's output is replaced by its mean over the reference images "
            "(models.reference_images), per token position",
    "resample": "the head's output is replaced by that of another image, seeded, never by its own; "
                "measures are means over models.resample_draws donors, flip is what most draws do",
    "leave_one_in": "all other heads of the layer are set to 0, this one is kept: the less that "
                    "changes, the more the head does alone",
}
"""What is done to a head in `head_scores`: zero on every image, the others on a sample of them."""

KEEPS_THE_HEAD = frozenset({"leave_one_in"})
"""Ablations that spare the head and prune its neighbours: what is left of the outcome is its own,
so that a large change speaks against it."""

MODES: dict[str, str] = {
    "none": "nothing: equals the clean pass",
    "head": "the whole matrix: equals the zero ablation",
    "cls": "class row and column with the corner",
    "patches": "the patch x patch block",
    "cls_patches": "class row and column without the corner",
    "cls_self": "the corner, class to class",
    "cls_row": "the class row with the corner",
    "cls_column": "the class column with the corner",
    "patch_self": "the diagonal of the patch x patch block",
    "patch_others": "the patch x patch block without its diagonal",
}
"""Parts of the attention matrix that partial pruning sets to 0 after the softmax, without
renormalising. The first six are the paper's (Li et al. 2023)."""

STRENGTH: tuple[Column, ...] = (
    Column("hop_entropy", FLOAT, "-sum p_k ln p_k with p_k = hop_strength[k] / sum: how evenly the "
           "head looks near and far (the paper's head entropy)", "hop entropy", "nats", "0..ln K",
           LI),
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
           "1 = no sink; N = the patches of the grid, or of the window", "sink", "x uniform",
           "0..N", "Xiao et al. 2024"),
)

PROFILES: tuple[Column, ...] = (
    Column("hop_strength", PROFILE, "[k]: mean weight over the ordered patch pairs at Chebyshev "
           "distance k = 0..K-1, K = the longer side of the grid, or of the "
           "window; edge-corrected, only real pairs count",
           "strength at hop", "mean weight", "0..1 each", LI),
    Column("hop_mass", PROFILE, "[k]: 1/N of the summed weights at Chebyshev distance k; together "
           "with prefix_share these sum to 1 (less what goes to padding of windows)",
           "mass at hop", "", "0..1 each", ""),
)

RANKED: tuple[Column, ...] = tuple(c for c in IMPORTANCE if c.important)
"""Importance measures that put heads in order, by their mean over images."""

SUMMARISED: tuple[Column, ...] = IMPORTANCE + STRENGTH
"""The measures that `heads` summarises, in one order everywhere."""


def direction(ranked: Column, ablation: str = "zero") -> int:
    """+1 where a larger value under this ablation makes a head matter more, -1 where less."""
    return -ranked.important if ablation in KEEPS_THE_HEAD else ranked.important


def measure(name: str) -> Column:
    """The definition of an importance or strength measure; ValueError names what is allowed."""
    for column in SUMMARISED:
        if column.name == name:
            return column
    raise ValueError(f"no measure {name!r}; one of {', '.join(c.name for c in SUMMARISED)}")
