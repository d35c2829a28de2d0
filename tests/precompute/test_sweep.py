"""Every engine, head and ablation of every family against an independent pass with hooks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest
import timm
import torch
from torch import Tensor, nn

from precompute import models, zoo
from precompute.ablation import masked, one_each, zero
from precompute.anatomy import Anatomy
from precompute.clean import CleanPass, clean_pass
from precompute.heads import measure_heads, measure_layers, measure_parts
from precompute.readout import embeddings
from precompute.reference import Reference, build, with_donors
from precompute.subject import Subject
from precompute.sweep import embed, make_engine
from store.errors import ModelError
from store.schema import ABLATIONS, MODES
from tests.precompute import slow
from tests.precompute.vits import (
    DISTINCT,
    KINDS,
    SIZED,
    as_subject,
    as_vit,
    batch_of,
    built,
    images,
    randomise,
    tiny,
    token_kinds,
    untouched,
)

CLASS_MODES = {"cls", "cls_patches", "cls_self", "cls_row", "cls_column"}
READ_THE_CLASS_TOKEN = [
    "class token", "registers", "layer scale", "norm over joined heads", "post-norm", "gated",
    "parallel scaling", "parallel things", "DeiT-3", "BEiT, shared bias", "rotary", "CaiT", "CLIP",
    "relative positions, class token", "DINOv2 with registers"]


def _engines(anatomy: Anatomy) -> list[str]:
    return ["fast", "tail", "hooks"] if anatomy.plain else ["tail", "hooks"]


def _away(found: Tensor, wanted: Tensor) -> float:
    """Largest relative difference of vectors."""
    return ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max().item()


def _zeroed(model: nn.Module, anatomy: Anatomy, clean: CleanPass, engine: str) -> list[Tensor]:
    """The embeddings after each head is set to 0, layer by layer."""
    carrier = make_engine(engine, model, anatomy)
    return [embeddings(model, carrier.carry(clean, number, one_each(
        heads, zero(heads), layer, range(layer.heads))).features)
        for number, layer in enumerate(anatomy.layers)
        for heads in [clean.calls[number].heads]]


def _compare(model: nn.Module, pixels: Tensor, engines: Sequence[str] = ()) -> tuple[float, float]:
    """The largest relative difference from the reference, and the median effect of a head."""
    anatomy = as_vit(model).anatomy
    clean = clean_pass(model, anatomy, pixels)
    wanted = {head: slow.reference(model, pixels, *head) for head in slow.heads_of(model)}
    assert sum(anatomy.heads) == len(wanted)
    unpruned = slow.outcome(model, pixels)[0]
    worst = 0.0
    for engine in engines or _engines(anatomy):
        found = _zeroed(model, anatomy, clean, engine)
        worst = max(worst, *(_away(found[layer][head], wanted[layer, head])
                             for layer, head in wanted))
    effects = [_away(after, unpruned) for after in wanted.values()]
    return worst, sorted(effects)[len(effects) // 2]


@pytest.mark.parametrize("key", SIZED)
def test_every_head_agrees_with_a_hooked_pass(key: str) -> None:
    name, size = SIZED[key]
    model = built(name, size)
    engines = () if size == KINDS[name].sizes[-1] else ["tail"]
    with untouched(model):
        worst, effect = _compare(model, images(model, 2), engines)
    assert effect > 0.1, "the weights hide what heads do; the test would prove little"
    assert worst < 1e-4


@pytest.mark.parametrize(("name", "count"), [
    ("class token", 1), ("class token", 3), ("class token", 17), ("Swin", 1), ("Swin", 4),
    ("PiT", 1), ("CaiT", 1), ("CaiT", 17), ("SAM", 1), ("SAM", 4), ("BEiT", 1), ("hybrid", 1),
    ("parallel things", 1), ("parallel things", 6), ("attention pooling", 1)])
def test_batches_of_one_and_of_as_many_as_there_are_heads_tokens_or_windows(
        name: str, count: int) -> None:
    model = built(name)
    assert _compare(model, images(model, count), ["fast", "tail"])[0] < 1e-4


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo_agrees_with_a_hooked_pass(name: str) -> None:
    model = models.load(f"zoo:{name}").model
    assert _compare(model, images(model, 4), ["fast"])[0] < 1e-4


@pytest.mark.real
def test_the_real_vit_agrees_with_a_hooked_pass(real) -> None:
    spec = f"vit_small_patch14_dinov2@{real / 'vits14_imgfocus.safetensors'}"
    vit = models.load(spec, (56, 70))
    assert vit.anatomy.class_row
    assert _compare(vit.model, images(vit.model, 1), ["fast"])[0] < 1e-4


def test_a_model_that_is_more_than_its_blocks_is_right_too() -> None:
    class Odd(timm.models.vision_transformer.VisionTransformer):
        def forward_features(self, x):
            x = self.norm_pre(self._pos_embed(self.patch_embed(x)))
            for block in self.blocks:
                x = block(x) + 0.5 * x.mean(1, keepdim=True)
            return self.norm(x)

    torch.manual_seed(0)
    model = randomise(Odd(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3))
    assert not as_vit(model).anatomy.class_row
    assert _compare(model, images(model))[0] < 1e-4


@pytest.mark.parametrize("name", DISTINCT)
def test_carrying_unchanged_heads_gives_the_clean_outcome(name: str) -> None:
    model = built(name)
    pixels = images(model, 2)
    anatomy = as_vit(model).anatomy
    clean = clean_pass(model, anatomy, pixels)
    for engine in _engines(anatomy):
        carrier = make_engine(engine, model, anatomy)
        for layer, call in enumerate(clean.calls):
            found = carrier.carry(clean, layer, call.heads[None])
            assert _away(embeddings(model, found.features)[0], embed(model, clean.features)) < 1e-5
            assert _away(found.block_output[0], call.tokens) < 1e-5


# Stored numbers: what the tables say against what the reference does.


def _reference(model: nn.Module, subject: Subject, draws: int = 2) -> Reference:
    """A mean over three images, and two donors, all of them other images than the batch's."""
    others = batch_of(model, 3, seed=7)
    donors = batch_of(model, 2, seed=8)
    donors = type(donors)([100, 101], donors.labels, donors.pixels)
    return with_donors(build(subject.vit, [others]), subject.vit, [donors], draws)


def _wanted(model: nn.Module, pixels: Tensor, heads: Sequence[slow.Head],
            ) -> Iterator[tuple[str, slow.Head, list[slow.Outcome]]]:
    """Ablation, head, and the outcomes of its draws."""
    mean = slow.average(slow.grabbed(model, images(model, 3, seed=7)), 3, len(pixels))
    donors = [slow.grabbed(model, donor.expand(len(pixels), *donor.shape).contiguous())
              for donor in images(model, 2, seed=8)]
    for head in heads:
        yield "zero", head, [slow.without(model, pixels, [head])]
        yield "mean", head, [slow.changed(model, pixels, {head: mean[head]})]
        yield "resample", head, [slow.changed(model, pixels, {head: donor[head]})
                                 for donor in donors]
        yield "leave_one_in", head, [slow.only(model, pixels, *head)]


def _measures(clean: slow.Outcome, outcomes: list[slow.Outcome]) -> dict[str, list[float | None]]:
    """Embedding change and probability of the first class, image by image, over the draws."""
    change = [(after - clean[0]).norm(dim=-1) / clean[0].norm(dim=-1) for after, _ in outcomes]
    found: dict[str, list] = {"embedding_l2": torch.stack(change).mean(0).tolist()}
    if clean[1] is None:
        return {**found, "probability": [None] * len(clean[0])}
    top = clean[1].argmax(-1)
    chances = [logits.softmax(-1)[range(len(top)), top] for _, logits in outcomes]
    return {**found, "probability": torch.stack(chances).mean(0).tolist()}


def _agrees(table: pa.Table, wanted: dict[str, list[float | None]], **keys: object) -> None:
    rows = [row for row in table.to_pylist() if all(row[k] == v for k, v in keys.items())]
    assert [row["image"] for row in rows] == list(range(len(rows)))
    for name, values in wanted.items():
        stored = [row[name] for row in rows]
        if None in values:
            assert stored == values, (name, keys)
        else:
            assert stored == pytest.approx(values, rel=1e-4, abs=1e-5), (name, keys)


def _chosen(model: nn.Module) -> list[slow.Head]:
    """A head of the first layer, and the last of all."""
    heads = slow.heads_of(model)
    return [heads[1], heads[-1]]


def _subject(name: str, model: nn.Module) -> Subject:
    plain = as_subject(model)
    engine = "fast" if plain.vit.anatomy.plain else "tail"
    return as_subject(model, engine, _reference(model, plain))


@pytest.mark.parametrize("name", DISTINCT)
def test_stored_scores_of_every_ablation_agree_with_hooked_passes(name: str) -> None:
    model = built(name, KINDS[name].sizes[-1])
    batch = batch_of(model, 2)
    with untouched(model):
        subject = _subject(name, model)
        tables = {ablation: measure_heads(subject, batch, ablation)["head_scores"]
                  for ablation in ABLATIONS}
        layers = measure_layers(subject, batch)["layer_scores"]
    clean = slow.outcome(model, batch.pixels)
    compared = set()
    for ablation, (layer, head), outcomes in _wanted(model, batch.pixels, _chosen(model)):
        _agrees(tables[ablation], _measures(clean, outcomes), layer=layer, head=head,
                ablation=ablation)
        compared.add(ablation)
    assert compared == set(ABLATIONS)
    for layer in range(subject.vit.anatomy.depth):
        _agrees(layers, _measures(clean, [slow.whole_layer(model, batch.pixels, layer)]),
                layer=layer)


@pytest.mark.parametrize("name", DISTINCT)
def test_stored_parts_of_every_mode_agree_with_hooked_passes(name: str) -> None:
    model = built(name, KINDS[name].sizes[-1])
    batch = batch_of(model, 2)
    with untouched(model):
        subject = as_subject(model, "fast" if as_vit(model).anatomy.plain else "tail")
        table = measure_parts(subject, batch)["partial_pruning"]
    clean = slow.outcome(model, batch.pixels)
    # each mode on one of the heads, by turns
    for (layer, head), mode in zip(itertools.cycle(_chosen(model)), MODES, strict=False):
        kinds = token_kinds(name, layer)
        after = slow.masked(model, batch.pixels, (layer, head), mode, kinds)
        wanted = _measures(clean, [after])
        if mode in CLASS_MODES and slow.CLASS not in kinds(1000):
            wanted = {measure: [None] * 2 for measure in wanted}
        _agrees(table, wanted, layer=layer, head=head, mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["class token", "registers", "no biases", "BEiT", "Swin",
                                  "Swin, padded"])
def test_masked_heads_agree_with_attention_written_out_by_hand(name: str, mode: str) -> None:
    model = built(name, KINDS[name].sizes[-1])
    pixels = images(model, 1)
    anatomy = as_vit(model).anatomy
    clean = clean_pass(model, anatomy, pixels, keep_inputs=True)
    carrier = make_engine("tail", model, anatomy)
    for layer, head in _chosen(model):
        call = clean.calls[layer]
        other = masked(anatomy.layers[layer], call, mode)
        if other is None:
            assert mode in CLASS_MODES and not KINDS[name].class_token
            continue
        heads = one_each(call.heads, other, anatomy.layers[layer], range(head, head + 1))
        found = embeddings(model, carrier.carry(clean, layer, heads).features)[0]
        wanted, _ = slow.masked_by_hand(model, pixels, (layer, head), mode,
                                        token_kinds(name, layer))
        assert _away(found, wanted) < 1e-4


# Exact tests: equal bit for bit, not nearly.


@pytest.mark.parametrize("name", KINDS)
def test_modes_none_and_head_are_the_clean_heads_and_zero_bit_for_bit(name: str) -> None:
    """And those of the class token are undefined where a layer has none."""
    model = built(name)
    anatomy = as_vit(model).anatomy
    clean = clean_pass(model, anatomy, images(model, 2), keep_inputs=True)
    carrier = make_engine(_engines(anatomy)[0], model, anatomy)
    for number, (layer, call) in enumerate(zip(anatomy.layers, clean.calls, strict=True)):
        others = {mode: masked(layer, call, mode) for mode in MODES}
        undefined = {mode for mode, other in others.items() if other is None}
        assert undefined == (set() if slow.CLASS in token_kinds(name, number)(1) else CLASS_MODES)
        none, head = others["none"], others["head"]
        assert torch.equal(none, call.heads) and call.heads.any()
        assert torch.equal(head, zero(call.heads))
        found, wanted = (carrier.carry(clean, number, one_each(
            call.heads, other, layer, range(layer.heads))) for other in (none, call.heads))
        assert torch.equal(found.features, wanted.features)
        assert torch.equal(found.block_output, wanted.block_output)


@pytest.mark.parametrize("name", READ_THE_CLASS_TOKEN)
def test_only_the_class_row_of_the_last_layer_counts_where_the_class_token_is_read(
        name: str) -> None:
    model = built(name)
    anatomy = as_vit(model).anatomy
    clean = clean_pass(model, anatomy, images(model, 2), keep_inputs=True)
    last, layer, call = anatomy.depth - 1, anatomy.layers[-1], clean.calls[-1]
    for engine in _engines(anatomy):
        carrier = make_engine(engine, model, anatomy)

        def under(mode: str, carrier=carrier) -> Tensor:
            heads = one_each(call.heads, masked(layer, call, mode), layer, range(layer.heads))
            return embeddings(model, carrier.carry(clean, last, heads).features)

        assert torch.equal(under("patches"), under("none"))
        assert torch.equal(under("cls"), under("cls_row"))
        assert not torch.equal(under("cls"), under("none"))


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    model = tiny()
    model.blocks[1].attn.attn_drop = nn.Sequential(nn.Identity())
    model.blocks[1].attn.attn_drop.register_forward_pre_hook(lambda _m, args: (args[0] * 2,))
    with untouched(model), pytest.raises(ModelError, match="sum to 1"):
        clean_pass(model, as_vit(model).anatomy, images(model))


@pytest.mark.parametrize("engine", ["fast", "tail", "hooks"])
def test_an_error_on_the_way_leaves_the_model_as_it_was(engine: str) -> None:
    model = tiny()
    anatomy = as_vit(model).anatomy
    clean = clean_pass(model, anatomy, images(model))

    def fail(_module: nn.Module, _args: tuple) -> None:
        raise RuntimeError("out of memory")

    model.blocks[2].attn.norm.register_forward_pre_hook(fail)
    with untouched(model), pytest.raises(RuntimeError, match="out of memory"):
        make_engine(engine, model, anatomy).carry(
            clean, 1, clean.calls[1].heads[None], {2: torch.zeros(1, 3)})
