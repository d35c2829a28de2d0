"""Try a small member of every timm family with attention, and write docs/families.md.

    python docs/families.py [MODULE ...]

Random weights whose heads matter, noise images, CPU. With MODULEs only those are tried and
printed. A timm module that is in no list below is an error, so that none is overlooked.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config

from precompute.anatomy import Anatomy
from precompute.families import dissect
from precompute.models import Vit
from precompute.selftest import examine
from precompute.specs import Spec
from store.errors import ModelError
from tests.precompute.vits import randomise

SECONDS = 120
SMALL = {"img_size": 112}
CAIT = ("strength is of the softmax before heads are mixed again; what is pruned is the mixed head "
        "that enters the projection")


@dataclass(frozen=True)
class Example:
    """One small member of a timm module, made smaller where the family lets us."""

    module: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


EXAMPLES = (
    Example("vision_transformer", "vit_tiny_patch16_224", SMALL),
    Example("vision_transformer", "vit_small_patch14_reg4_dinov2", SMALL, "register tokens"),
    Example("vision_transformer", "vit_base_patch16_siglip_224", SMALL | {"depth": 3},
            "pooled by an attention of its own, whose heads are not counted"),
    Example("vision_transformer", "aimv2_large_patch14_224", SMALL | {"depth": 2}),
    Example("vision_transformer", "vit_base_patch16_xp_224", SMALL | {"depth": 2},
            "attention and MLP side by side, one projection for both"),
    Example("vision_transformer", "vit_small_patch16_18x2_224", SMALL | {"depth": 3},
            "two attentions a layer, their heads counted through"),
    Example("vision_transformer", "vit_dpwee_patch16_reg1_gap_256", {"img_size": 128}),
    Example("vision_transformer_hybrid", "vit_tiny_r_s16_p8_224", {}, "patches of a feature map"),
    Example("vision_transformer_relpos", "vit_relpos_small_patch16_224", SMALL),
    Example("vision_transformer_sam", "samvit_base_patch16_224", {"depth": 4}),
    Example("deit", "deit_tiny_distilled_patch16_224", SMALL, "two class tokens, two classifiers"),
    Example("deit", "deit3_small_patch16_224", SMALL | {"depth": 4}),
    Example("beit", "beit_base_patch16_224", SMALL | {"depth": 3}),
    Example("eva", "eva02_tiny_patch14_224", SMALL, "rotary positions"),
    Example("eva", "vit_small_patch16_dinov3", SMALL | {"depth": 4},
            "rotary positions, register tokens"),
    Example("cait", "cait_xxs24_224", SMALL | {"depth": 4}, CAIT),
    Example("pit", "pit_ti_224", {}, "three stages, a grid each"),
    Example("convit", "convit_tiny", {}, "the attention of the first layers is a mean of two "
            "softmaxes, by content and by position; the class token comes in late"),
    Example("swin_transformer", "swin_tiny_patch4_window7_224", {}, "stages of shifted windows"),
    Example("swin_transformer_v2", "swinv2_tiny_window8_256", {}, "stages of shifted windows"),
    Example("swin_transformer_v2_cr", "swinv2_cr_tiny_224", {}, "stages of shifted windows"),
    Example("naflexvit", "naflexvit_base_patch16_gap", {"depth": 3}, "images of one size"),
    Example("deepseek_vit", "deepseek_vit_412m", SMALL | {"depth": 2}),
    Example("qwen3_vit", "qwen3_vit_88m", SMALL | {"depth": 3}),
    Example("vitamin", "vitamin_small_224", {},
            "patches of a feature map; heads of its last stage"),
    Example("gemma4_vit", "gemma4_vit_167m"),
    Example("byoanet", "botnet26t_256"),
    Example("byoanet", "halonet26t"),
    Example("byoanet", "lambda_resnet26t"),
    Example("coat", "coat_tiny"),
    Example("convmixer", "convmixer_768_32"),
    Example("cpubone", "cpubone_nano"),
    Example("crossvit", "crossvit_9_240"),
    Example("csatv2", "csatv2"),
    Example("davit", "davit_tiny"),
    Example("edgenext", "edgenext_xx_small"),
    Example("efficientformer", "efficientformer_l1"),
    Example("efficientformer_v2", "efficientformerv2_s0"),
    Example("efficientvim", "efficientvim_m1"),
    Example("efficientvit_mit", "efficientvit_b0"),
    Example("efficientvit_msra", "efficientvit_m0"),
    Example("fastvit", "fastvit_sa12"),
    Example("focalnet", "focalnet_tiny_srf"),
    Example("gcvit", "gcvit_xxtiny"),
    Example("hiera", "hiera_tiny_224"),
    Example("hieradet_sam2", "sam2_hiera_tiny"),
    Example("iformer", "iformer_t"),
    Example("levit", "levit_128s"),
    Example("lowformer", "lowformer_b0"),
    Example("mambaout", "mambaout_femto"),
    Example("maxxvit", "maxvit_rmlp_pico_rw_256"),
    Example("maxxvit", "coatnet_pico_rw_224"),
    Example("metaformer", "caformer_s18"),
    Example("metaformer", "poolformer_s12"),
    Example("mlp_mixer", "mixer_s32_224"),
    Example("mobilenetv5", "mobilenetv5_300m"),
    Example("mobilevit", "mobilevit_xxs"),
    Example("mvitv2", "mvitv2_tiny"),
    Example("nest", "nest_tiny"),
    Example("nextvit", "nextvit_small"),
    Example("pvt_v2", "pvt_v2_b0"),
    Example("repvit", "repvit_m0_9"),
    Example("resnet", "resnet18", {}, "and every other purely convolutional family"),
    Example("sequencer", "sequencer2d_s"),
    Example("shvit", "shvit_s1"),
    Example("swiftformer", "swiftformer_xs"),
    Example("tiny_vit", "tiny_vit_5m_224"),
    Example("tnt", "tnt_s_patch16_224"),
    Example("twins", "twins_svt_small"),
    Example("visformer", "visformer_tiny"),
    Example("volo", "volo_d1_224"),
    Example("xcit", "xcit_nano_12_p16_224"),
)
CONVOLUTIONAL = """
    byobnet convnext cspnet cspnext densenet dla dpn efficientnet fasternet ghostnet hardcorenas
    hgnet hrnet inception_next inception_resnet_v2 inception_v3 inception_v4 lcnetv2 mobilenetv3
    nasnet nfnet pnasnet rdnet regnet repghost res2net resnest resnetv2 rexnet selecsls senet sknet
    starnet tresnet vgg vovnet xception xception_aligned"""
"""Modules without attention over tokens; resnet stands for them."""


@dataclass(frozen=True)
class Row:
    """What became of an example."""

    example: Example
    kind: str
    how: str
    worst: float | None
    effect: str
    note: str

    def cells(self) -> tuple[str, ...]:
        found = "–" if self.worst is None else f"{self.worst:.0e}" if self.worst else "0"
        return (f"`{self.example.module}`: {self.kind}", f"`{self.example.name}`", self.how, found,
                self.note)


def attempt(example: Example) -> Row:
    """Build it, dissect it, run the self-test; whatever stops it is the row's note."""
    torch.manual_seed(0)
    model = timm.create_model(example.name, **example.options).eval().requires_grad_(False)
    kind = type(model).__name__
    config = resolve_data_config(pretrained_cfg=model.pretrained_cfg, model=model)
    size = (3, *[example.options["img_size"]] * 2) if "img_size" in example.options \
        else tuple(config["input_size"])
    try:
        anatomy = dissect(model, example.name, size)
        verdict = examine(_vit(example, randomise(model), anatomy),
                          torch.randn(2, *size, generator=torch.Generator().manual_seed(0)))
    except ModelError as error:
        return Row(example, kind, "refused", None, "", _why(str(error), example.note))
    found = {check.name: check for check in verdict.checks}
    failed = [check.name for check in verdict.checks if not check.passed]
    return Row(example, kind, verdict.engine if not failed else "**FAILED**",
               found["pruned heads"].worst, found["pruned heads"].note,
               "; ".join([*_geometry(anatomy), *filter(None, [example.note]),
                          *map("failed: {}".format, failed)]))


def _vit(example: Example, model: Any, anatomy: Anatomy) -> Vit:
    names = [(str(i),) for i in range(getattr(model, "num_classes", 0) or 0)]
    return Vit(Spec(example.name, "timm", example.name), model, anatomy, lambda image: image, "RGB",
               {}, names or None, torch.device("cpu"))


def _why(refusal: str, note: str) -> str:
    said = refusal.split("cannot be analysed: ")[-1]
    return f"{said} ({note})" if note else said


def _geometry(anatomy: Anatomy) -> list[str]:
    """What is special about where its heads are."""
    found = []
    grids = Counter((layer.geometry.grid_h, layer.geometry.grid_w) for layer in anatomy.layers)
    if len(grids) > 1:
        found.append(f"grids {', '.join(f'{h}×{w}' for h, w in grids)}")
    windowed = sum(layer.geometry.windows is not None for layer in anatomy.layers)
    if windowed:
        found.append(f"{windowed} of {anatomy.depth} layers in windows")
    return found


def timed(example: Example) -> Row:
    """An example that takes too long, or breaks in timm itself, is a row as well."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        return attempt(example)
    except TimeoutError:
        return Row(example, "?", "not tried", None, "", f"took longer than {SECONDS} s")
    finally:
        signal.alarm(0)


def table(rows: list[Row]) -> str:
    """Analysed first, then refused; in the order of EXAMPLES within."""
    head = ("timm module: class", "example", "path", "difference", "notes, or why not")
    order = {"fast": 0, "tail": 1, "hooks": 2}
    ordered = sorted(rows, key=lambda row: order.get(row.how, 3 if row.how != "refused" else 4))
    lines = [head, ("---",) * len(head), *(row.cells() for row in ordered)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


ABOVE = """# Which families can be analysed

Made by `python docs/families.py` with timm {timm} and torch {torch}: a small member of every
timm module that has attention (or is called a transformer or mixer), built with random weights
under which heads matter, made smaller where the family lets itself be, and put through `headatlas
selftest`. What is true of the example is true of its family's other members as far as they are made
of the same blocks; `headatlas selftest --model SPEC` tells for any one, and `precompute` asks it
before it writes.

- **fast**: timm's plain blocks, taken apart; **tail**: the model's own blocks from the pruned layer
  on; **hooks**: a full forward pass per head. All three are exact; the path is chosen on the images
  at hand.
- **difference**: the largest relative difference of an embedding with one head pruned from that of
  a hooked forward pass.
- **refused**: `headatlas` says so in one line, with this reason, before it fetches weights where it
  can.

"""


def main(modules: list[str]) -> None:
    logging.getLogger("timm").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # timm's own, about models without these options
    unknown = set(timm.list_modules()) - {e.module for e in EXAMPLES} \
        - set(CONVOLUTIONAL.split())
    if unknown:
        raise SystemExit(f"say in docs/families.py what these timm modules are: {sorted(unknown)}")
    rows = []
    for example in EXAMPLES:
        if not modules or example.module in modules:
            rows.append(timed(example))
            print(f"{example.name}: {rows[-1].how}; {rows[-1].note} {rows[-1].effect}",
                  file=sys.stderr, flush=True)
    text = table(rows)
    if modules:
        print(text)
        return
    above = ABOVE.format(timm=timm.__version__, torch=torch.__version__)
    Path(__file__).with_suffix(".md").write_text(f"{above}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
