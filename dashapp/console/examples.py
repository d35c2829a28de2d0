"""Questions that any store answers, in SQL: a title, and the query. A new one is one entry."""

from __future__ import annotations

EXAMPLES: dict[str, str] = {
    "The most important heads of each model": """
SELECT model, layer, head, embedding_l2_mean, embedding_l2_low, embedding_l2_high
FROM heads
QUALIFY row_number() OVER (PARTITION BY model ORDER BY embedding_l2_mean DESC) <= 5
ORDER BY model, embedding_l2_mean DESC""",
    "Heads whose pruning flips most predictions": """
SELECT model, layer, head, avg(flip::INTEGER) AS share_flipped, count(*) AS images
FROM head_scores
WHERE ablation = 'zero' AND flip IS NOT NULL
GROUP BY ALL ORDER BY share_flipped DESC LIMIT 20""",
    "Heads that zero and mean ablation disagree on": """
WITH ranked AS (
  SELECT model, layer, head, ablation, embedding_l2_mean,
         rank() OVER (PARTITION BY model, ablation ORDER BY embedding_l2_mean DESC) AS place
  FROM head_ablations WHERE ablation IN ('zero', 'mean')
)
SELECT model, layer, head, z.place AS place_zero, m.place AS place_mean,
       z.embedding_l2_mean AS zero, m.embedding_l2_mean AS mean
FROM (FROM ranked WHERE ablation = 'zero') z
JOIN (FROM ranked WHERE ablation = 'mean') m USING (model, layer, head)
ORDER BY abs(z.place - m.place) DESC, model, layer, head LIMIT 20""",
    "Heads whose rank is least certain": """
SELECT model, layer, head, embedding_l2_rank AS rank,
       embedding_l2_rank_low AS low, embedding_l2_rank_high AS high
FROM heads WHERE embedding_l2_rank IS NOT NULL
ORDER BY embedding_l2_rank_high - embedding_l2_rank_low DESC, model, layer, head LIMIT 20""",
    "Heads that look one way (offset and directional)": """
SELECT model, layer, head, pattern, pattern_way, pattern_score, distance_mean
FROM heads WHERE pattern_way IS NOT NULL
ORDER BY pattern_score DESC LIMIT 30""",
    "The named patterns, by model": """
SELECT pattern, model, count(*) AS heads, avg(embedding_l2_mean) AS mean_embedding_change
FROM heads WHERE pattern IS NOT NULL
GROUP BY ALL ORDER BY pattern, model""",
    "Matched heads across models": """
SELECT model, layer, head, other_model, other_layer, other_head, similarity, p_value
FROM head_matches
WHERE matched AND model < other_model
ORDER BY similarity DESC LIMIT 50""",
    "Heads whose hop entropy differs most between two labels": """
WITH two AS (
  SELECT label FROM images WHERE label IS NOT NULL
  GROUP BY label ORDER BY count(*) DESC, label LIMIT 2
), each AS (
  SELECT model, layer, head, label, avg(hop_entropy) AS mean, stddev_samp(hop_entropy) AS spread
  FROM head_strength JOIN images USING (image) JOIN two USING (label)
  GROUP BY ALL
)
SELECT a.model, a.layer, a.head, a.label, a.mean, b.label AS other_label, b.mean AS other_mean,
       (a.mean - b.mean) / nullif(sqrt((a.spread ** 2 + b.spread ** 2) / 2), 0) AS cohens_d
FROM each a JOIN each b USING (model, layer, head)
WHERE a.label < b.label
ORDER BY abs(cohens_d) DESC NULLS LAST LIMIT 20""",
    "How far heads look, layer by layer": """
SELECT model, layer, count(*) AS heads, avg(distance_mean) AS mean_distance,
       min(distance_mean) AS nearest, max(distance_mean) AS farthest
FROM heads GROUP BY ALL ORDER BY model, layer""",
    "Which part of the attention matters": """
SELECT model, mode, avg(embedding_l2) AS mean_embedding_change,
       quantile_cont(embedding_l2, 0.9) AS upper_tenth, count(embedding_l2) AS values
FROM partial_pruning
GROUP BY ALL ORDER BY model, mean_embedding_change DESC NULLS LAST""",
    "Pairs of heads that cover for each other": """
SELECT model, layer, head, other_layer, other_head, embedding_l2_both, embedding_l2_synergy
FROM head_pairs
ORDER BY embedding_l2_synergy DESC NULLS LAST LIMIT 20""",
    "Which measure finds the heads to prune": """
SELECT measure, quantity, avg(beats) AS random_orders_beaten, avg(area) AS mean_area,
       avg(random_mean) AS mean_area_at_random, count(DISTINCT model) AS models
FROM pruning_areas WHERE "order" = 'least_first'
GROUP BY ALL ORDER BY quantity, random_orders_beaten DESC, measure""",
    "Images that the models do not agree on": """
SELECT image, path, label, count(DISTINCT predicted) AS answers,
       string_agg(model || ': ' || predicted, '; ' ORDER BY model) AS predictions
FROM predictions JOIN images USING (image)
WHERE predicted IS NOT NULL
GROUP BY ALL ORDER BY answers DESC, image LIMIT 50""",
}
"""Every query is stripped of the line end that it starts with where it is shown."""
