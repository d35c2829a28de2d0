"""Bad input: one clear line, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

import headatlas
from store import places
from tests.precompute.world import make_checkpoint, make_labels, make_pictures
from tests.synthetic import make_store

SPEC = "{spec}"

REFUSED = {
    "no command": ([], "required: COMMAND"),
    "no such command": (["dance"], "invalid choice: 'dance'"),
    "no such option": (["info", "--stoer", "x"], "required: --store"),
    "no store": (["info", "--store", "{none}"], "no store at"),
    "no store to ask": (["sql", "--store", "{none}", "SELECT 1"], "no store at"),
    "no store to serve": (["serve", "--store", "{none}"], "no store at"),
    "a store of another version": (["info", "--store", "{old}"], "has format 99"),
    "another version to ask": (["sql", "--store", "{old}", "SELECT 1"], "has format 99"),
    "another version to serve": (["serve", "--store", "{old}"], "has format 99"),
    "a query that writes": (["sql", "--store", "{store}", "DROP TABLE images"], "only queries"),
    "a query with a mistake": (["sql", "--store", "{store}", "SELECT x FROM images"], '"x"'),
    "a format there is not": (["sql", "--store", "{store}", "SELECT 1", "--format", "xml"], "xml"),
    "a port that is none": (["serve", "--store", "{store}", "--port", "99999999"], "port"),
    "no store of heads": (["similar", "--store", "{none}", "alpha", "0", "0"], "no store at"),
    "a head of no model": (["similar", "--store", "{store}", "zed", "0", "0"],
                           "no model 'zed' in the store"),
    "a head of no layer": (["similar", "--store", "{store}", "alpha", "6", "0"],
                           "no layer 6; its layers are 0 to 5"),
    "a head that is not there": (["similar", "--store", "{store}", "alpha", "0", "4"],
                                 "no head 4 in layer 0; its heads are 0 to 3"),
    "a layer that is no number": (["similar", "--store", "{store}", "alpha", "first", "0"],
                                  "'first' is no whole number"),
    "no heads asked for": (["similar", "--store", "{store}", "alpha", "0", "0", "--count", "0"],
                           "'0' is no whole number from 1"),
    "no model to look in": (["similar", "--store", "{store}", "alpha", "0", "0", "--model", "zed"],
                            "no model 'zed' in the store"),
    "a form there is not": (["similar", "--store", "{store}", "alpha", "0", "0", "--format", "x"],
                            "invalid choice: 'x'"),
    "no model": (["precompute", "--images", "{images}", "--store", "{new}"], "--model"),
    "no such timm model": (["precompute", "--model", "vit_huge_patch99"], "no timm model"),
    "no such zoo model": (["precompute", "--model", "zoo:nobody"], "fashion_"),
    "no such checkpoint": (["precompute", "--model", "vit_tiny_patch16_224@{none}"],
                           "no checkpoint"),
    "a checkpoint of something else": (
        ["precompute", "--model", "vit_small_patch16_224@{checkpoint}"], "cannot be loaded"),
    "no checkpoint at all": (["precompute", "--model", "vit_tiny_patch16_224@{text}"],
                             "no readable checkpoint"),
    "a folder for a checkpoint": (["precompute", "--model", "vit_tiny_patch16_224@{images}"],
                                  "is not a file"),
    "a hub name that is none": (["precompute", "--model", "hf-hub:one"], "wants ORG/NAME"),
    "no name at all": (["precompute", "--model", ""], "has no name"),
    "a model without heads": (["precompute", "--model", "resnet18@{resnet}"], "no sequence of"),
    "no images folder": (["precompute", "--model", SPEC, "--images", "{none}"], "no images folder"),
    "a file for a folder": (["precompute", "--model", SPEC, "--images", "{text}"], "is a file"),
    "a folder without images": (["precompute", "--model", SPEC, "--images", "{empty}"],
                                "no images in"),
    "no labels file": (["precompute", "--model", SPEC, "--labels", "{none}"], "no labels at"),
    "labels of other images": (["precompute", "--model", SPEC, "--labels", "{others}"],
                               "does not match"),
    "labels that are no CSV": (["precompute", "--model", SPEC, "--labels", "{checkpoint}"], ""),
    "a store that is a file": (["precompute", "--model", SPEC, "--store", "{text}"], "is a file"),
    "a store with other things": (["precompute", "--model", SPEC, "--store", "{images}"],
                                  "no store and not empty"),
    "a store of another version to extend": (["precompute", "--model", SPEC, "--store", "{old}"],
                                             "has format 99"),
    "a place nobody can write": (["precompute", "--model", SPEC, "--store", "/proc/none/store"],
                                 "/proc/none"),
    "too many names": (["precompute", "--model", SPEC, "--name", "a", "--name", "b"], "--name"),
    "an empty name": (["precompute", "--model", SPEC, "--name", " "], "--name"),
    "a limit of nothing": (["precompute", "--model", SPEC, "--limit", "0"], "--limit"),
    "a size that is none": (["precompute", "--model", SPEC, "--image-size", "big"], "image size"),
    "an empty path": (["precompute", "--model", SPEC, "--images", ""], "an empty path"),
    "a time that is none": (["sql", "--store", "{store}", "SELECT 1", "--timeout", "nan"], "nan"),
    "no time at all": (["sql", "--store", "{store}", "SELECT 1", "--timeout", "-1"], "-1"),
    "a file for a store": (["info", "--store", "{text}"], "it is a file"),
    "too many tokens": (["precompute", "--model", SPEC, "--image-size", "8000"], "tokens"),
    "a size below a patch": (["precompute", "--model", SPEC, "--image-size", "8"], "8x8 pixels"),
    "an ablation there is not": (["precompute", "--model", SPEC, "--ablation", "half"],
                                 "'half' is no ablation; one of zero, mean"),
    "an ablation of no number": (["precompute", "--model", SPEC, "--ablation", "mean=few"],
                                 "'few' is no number of images"),
    "zero ablation of some": (["precompute", "--model", SPEC, "--ablation", "zero=5"],
                              "zero ablation is done on all images"),
    "a sample of no number": (["precompute", "--model", SPEC, "--partial", "-1"], "-1"),
    "a latent of no number": (["precompute", "--model", SPEC, "--latent", "0"], "0"),
    "a latent too large": (["precompute", "--model", SPEC, "--latent", "65"], "1 to 64"),
    "kept attention of no number": (["precompute", "--model", SPEC, "--keep-attention", "many"],
                                    "'many' is no number of images"),
    "kept attention of fewer than none": (["precompute", "--model", SPEC, "--keep-attention=-3"],
                                          "-3"),
    "no workers": (["precompute", "--model", SPEC, "--workers", "0"], "--workers"),
    "an engine there is not": (["precompute", "--model", SPEC, "--engine", "slurm"], "'slurm'"),
    "a precision there is not": (["precompute", "--model", SPEC, "--precision", "float8"],
                                 "float8"),
    "no GPU": (["precompute", "--model", SPEC, "--device", "cuda"], "CUDA"),
    "no model to test": (["selftest"], "--model"),
    "no such model to test": (["selftest", "--model", "vit_huge_patch99"], "no timm model"),
    "a model to test without heads": (["selftest", "--model", "xcit_nano_12_p16_224"],
                                      "between channels"),
    "two models to test": (["selftest", "--model", SPEC, "vit_tiny_patch16_224"], "unrecognized"),
    "no images to test on": (["selftest", "--model", "zoo:fashion_cls7", "--images", "{none}"],
                             "no images folder"),
    "no readable images to test on": (["selftest", "--model", "zoo:fashion_cls7", "--images",
                                       "{broken}"], "1.png"),
    "a size to test at that is none": (["selftest", "--model", SPEC, "--image-size", "0"],
                                       "image size"),
    "no GPU to test on": (["selftest", "--model", SPEC, "--device", "cuda"], "CUDA"),
}


@pytest.fixture(scope="module")
def places_at(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("cli")
    (home / "text").write_text("not what you think")
    (home / "empty").mkdir()
    (home / "broken").mkdir()
    (home / "broken" / "1.png").write_text("no picture")
    make_pictures(home / "images", 2)
    make_pictures(home / "elsewhere", 2, start=50)
    make_labels(home / "elsewhere", home / "others")
    save_file(timm.create_model("resnet18").state_dict(), home / "resnet.safetensors")
    make_checkpoint(home / "checkpoint.safetensors")
    for name in ("store", "old"):
        make_store(home / name, images=4)
    (home / "old" / places.MARKER).write_text(json.dumps({"format": 99}))
    return {name: home / name for name in ("text", "empty", "broken", "images", "others", "store",
                                           "old", "none", "new")} | {
        "checkpoint": home / "checkpoint.safetensors", "resnet": home / "resnet.safetensors"}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_line_and_exit_code_2(
        case: str, places_at: dict[str, Path], capfd: pytest.CaptureFixture) -> None:
    argv, says = REFUSED[case]
    spec = f"vit_tiny_patch16_224@{places_at['checkpoint']}"
    argv = [a.replace(SPEC, spec).format_map(places_at) for a in argv]
    if argv[:1] == ["precompute"] and case != "no model":
        for option in ("images", "store"):
            if f"--{option}" not in argv:
                argv += [f"--{option}", str(places_at["images" if option == "images" else "new"])]
        if "--image-size" not in argv and "resnet18" not in argv[2]:
            argv += ["--image-size", "32"]
    before = sorted(places_at["text"].parent.rglob("*"))
    assert headatlas.main(argv) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("headatlas: ") and says in said.err
    assert sorted(places_at["text"].parent.rglob("*")) == before


def test_help_is_no_error(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        headatlas.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert all(command.name in said for command in headatlas.COMMANDS)


def test_without_torch_the_message_says_what_to_install(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(headatlas.importlib, "import_module", missing)
    assert headatlas.main(["precompute", "--model", "x"]) == 2
    assert "pip install 'headatlas[precompute]'" in capsys.readouterr().err
