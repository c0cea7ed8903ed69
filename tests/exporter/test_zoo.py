"""Checkpoints as people have them: exported to the bits of their plain twin, as transformers reads them, or named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qvl_export import ExportError, ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.cli.progress import ItemProgress, RichProgress
from qvl_export.common.progress import NullProgress
from qvl_export.families import read_spec
from qvl_runtime import load
from qvl_runtime.answers.generate import GenerationStats
from tests.exporter import damage as d
from tests.exporter import zoo
from tests.exporter.test_parity import image, oracle_inputs
from tests.plans import export_plan
from tests.quant import test_awq as awq

GPTQ = Path(__file__).parents[1] / "quant" / "gptq"
Checkpoints = Callable[[str, str], Path]


class NoteRecorder(NullProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, text: str, total: int = 0) -> None:
        self.notes += [text.removeprefix("note: ")] if text.startswith("note: ") else []


def exported(source: Path, out: Path, **plan: Any) -> tuple[list[str], list[str]]:
    """The hashes of both weight files, and the notes."""
    recorder = NoteRecorder()
    files = export(export_plan(source, out, **plan), recorder).files
    return [files[f"{name}.onnx.data"].sha256 for name in ("vision", "llm")], recorder.notes


def copied(source: Path, to: Path, *changes: d.Damage) -> Path:
    shutil.copytree(source, to)
    for change in changes:
        change(to)
    return to


@pytest.mark.slow
@pytest.mark.parametrize("kind", zoo.KINDS, ids=lambda kind: kind.name)
def test_it_is_exported_as_its_twin(kind: zoo.Kind, checkpoint: Checkpoints, tmp_path: Path) -> None:
    ours = copied(checkpoint(*kind.source), tmp_path / "ours", kind.change)
    twin = copied(checkpoint(*kind.source), tmp_path / "twin", kind.twin)
    hashes, notes = exported(ours, tmp_path / "a")
    assert (hashes, []) == exported(twin, tmp_path / "b")
    assert len(notes) == bool(kind.note) and re.search(kind.note, " ".join(notes)), notes


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in zoo.KINDS if kind.reference], ids=lambda kind: kind.name)
def test_transformers_reads_the_same_model(kind: zoo.Kind, checkpoint: Checkpoints, tmp_path: Path) -> None:
    ours = copied(checkpoint(*kind.source), tmp_path / "ours", kind.change)
    theirs = AutoModelForImageTextToText.from_pretrained(ours, dtype=torch.float32).eval()
    export(ExportPlan(ours, tmp_path / "b", precision="fp32"))
    model = load(tmp_path / "b", threads=1)
    content = [{"type": "image", "image": image(100, 60, 1)}, {"type": "text", "text": "Read the text."}]
    prompt = model.prompt([{"role": "user", "content": content}])
    with torch.no_grad():
        expected = theirs(**oracle_inputs(model, prompt)).logits[0].numpy()
    logits = model.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats())
    assert np.abs(logits - expected).max() <= 1e-3


@pytest.mark.parametrize("kind", zoo.REFUSED, ids=lambda kind: kind.name)
def test_it_is_refused_by_its_name(kind: zoo.Refused, checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = copied(checkpoint(*kind.source), tmp_path / "c", kind.change)
    with pytest.raises(ExportError, match=kind.says) as error:
        export(ExportPlan(source, tmp_path / "b"))
    assert "\n" not in str(error.value) and not (tmp_path / "b").exists()


def test_notes_are_printed_unchanged_on_standard_error(
    checkpoint: Checkpoints, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names are a stranger's: no markup, no escape codes."""
    extra = d.tensors(lambda tensors: tensors.update({"score.[/red]\x1b[1m\n:smile:": torch.ones(1)}))
    source = copied(checkpoint(*zoo.SMALL), tmp_path / "c", extra)
    export(ExportPlan(source, tmp_path / "b"), RichProgress(quiet=False))
    said = capfd.readouterr().err.splitlines()
    assert "note: left out, as heads that answers do not go through: score.[/red]\\x1b[1m :smile:" in said


@pytest.mark.parametrize("progress", [RichProgress, ItemProgress])
def test_a_bar_shows_names_unchanged(
    progress: type[RichProgress | ItemProgress], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a terminal, the text of a stage is also printed before its bar."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = progress(quiet=False)
    try:
        shown.stage("writing [/red]:smile:", 5)
        shown.advance(2)
    finally:
        shown.stop()
    said = capfd.readouterr().err
    assert "\x1b[?25l" in said and "writing [/red]:smile:" in said


def test_a_gguf_file_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ExportError, match=r"m\.gguf: is a GGUF file.*export the safetensors release"):
        export(ExportPlan(tmp_path / "m.gguf", tmp_path / "b"))


def test_a_rotated_export_leaves_buffers_and_heads_out_too(checkpoint: Checkpoints, tmp_path: Path) -> None:
    extra = zoo.added(model__layers__0__position_ids=torch.arange(4), score__weight=torch.ones(1, 64))
    ours = copied(checkpoint(*zoo.SMALL), tmp_path / "ours", extra)
    assert (
        exported(ours, tmp_path / "a", rotate=True)[0]
        == exported(checkpoint(*zoo.SMALL), tmp_path / "b", rotate=True)[0]
    )


def test_integers_are_refused_in_a_rotated_export(checkpoint: Checkpoints, tmp_path: Path) -> None:
    """Values computed from them would be floats."""
    source = copied(checkpoint(*zoo.SMALL), tmp_path / "c", d.stored(d.MLP, torch.float8_e4m3fn))
    with pytest.raises(ExportError, match=r"has element type F8_E4M3"):
        export(export_plan(source, tmp_path / "b", rotate=True))


# Quantized


def requantized(source: str, to: Path, change: Callable[[dict[str, torch.Tensor]], object], **said: Any) -> Path:
    """A GPTQ example with other tensors, and other keys in its configuration."""
    copied(GPTQ / source, to, d.tensors(change))
    (to / "quantize_config.json").unlink(missing_ok=True)
    config = json.loads((to / "config.json").read_text())
    quantization = {**config["quantization_config"], **said}
    config["quantization_config"] = {key: value for key, value in quantization.items() if value is not d.REMOVE}
    (to / "config.json").write_text(json.dumps(config))
    return to


def as_v2(tensors: dict[str, torch.Tensor]) -> None:
    """Zero points unchanged; format gptq stores them minus one."""
    for name, value in tensors.items():
        if name.endswith(".qzeros"):
            tensors[name] = (value.view(torch.uint8) + 0x11).view(torch.int32)


@pytest.mark.parametrize(
    "said", [{"checkpoint_format": d.REMOVE}, {"format": d.REMOVE}, {"checkpoint_format": None}, {}]
)
@pytest.mark.parametrize("example", ["qwen2_vl_g32_asym", "qwen2_5_vl_g32_sym"])
def test_zero_points_of_gptq_v2(example: str, said: dict[str, Any], tmp_path: Path) -> None:
    """Either key or both say so."""
    v2 = requantized(example, tmp_path / "v2", as_v2, **{"format": "gptq_v2", "checkpoint_format": "gptq_v2", **said})
    assert exported(v2, tmp_path / "a") == exported(GPTQ / example, tmp_path / "b")


def test_formats_that_contradict_each_other(tmp_path: Path) -> None:
    source = requantized("qwen2_vl_g32_asym", tmp_path / "c", d.nothing, format="gptq_v2")
    with pytest.raises(ExportError, match=r"checkpoint_format 'gptq' is not format 'gptq_v2' \(remove the wrong one"):
        export(ExportPlan(source, tmp_path / "b"))


def test_symmetric_zero_points_of_the_other_format_say_so(tmp_path: Path) -> None:
    source = requantized("qwen2_vl_g32_sym", tmp_path / "c", as_v2)
    with pytest.raises(ExportError, match=r"zero points differ \(the configuration says sym and gptq: is it gptq_v2\?"):
        export(ExportPlan(source, tmp_path / "b"))


def biased(value: float, dtype: torch.dtype = torch.float16) -> Callable[[dict[str, torch.Tensor]], None]:
    """Biases beside all quantized linears that have none."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".qweight")]:
            bias = name.replace(".qweight", ".bias")
            tensors.setdefault(bias, torch.full((tensors[name].shape[1],), value, dtype=dtype))

    return change


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_biases_of_zeros_are_left_out(dtype: torch.dtype, tmp_path: Path) -> None:
    source = requantized("qwen2_vl_g32_sym", tmp_path / "c", biased(-0.0, dtype))
    assert exported(source, tmp_path / "a") == exported(GPTQ / "qwen2_vl_g32_sym", tmp_path / "b")


def test_biases_that_are_something_are_named(tmp_path: Path) -> None:
    source = requantized("qwen2_vl_g32_sym", tmp_path / "c", biased(0.5))
    with pytest.raises(ExportError, match=r"not part of the model: model\.layers\.0\.mlp\.down_proj\.bias"):
        export(ExportPlan(source, tmp_path / "b"))


def test_a_null_is_as_good_as_nothing(tmp_path: Path) -> None:
    source = requantized("qwen2_vl_g32_sym", tmp_path / "c", d.nothing, desc_act=None, sym=None, checkpoint_format=None)
    assert exported(source, tmp_path / "a") == exported(GPTQ / "qwen2_vl_g32_sym", tmp_path / "b")


def test_rules_that_leave_linears_alone_are_read(tmp_path: Path) -> None:
    rules = {"-:.*visual.*": {}, "+:.*down.*": {"bits": 4, "damp_percent": 0.1}}
    source = requantized("qwen2_vl_g32_sym", tmp_path / "c", d.nothing, dynamic=rules)
    assert exported(source, tmp_path / "a") == exported(GPTQ / "qwen2_vl_g32_sym", tmp_path / "b")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scales_of_other_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    def scales(*types: torch.dtype) -> Callable[[dict[str, torch.Tensor]], None]:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            for name in [name for name in tensors if name.endswith(".scales")]:
                for kind in types:
                    tensors[name] = tensors[name].to(kind)

        return change

    ours = requantized("qwen2_vl_g32_asym", tmp_path / "ours", scales(dtype))
    twin = requantized("qwen2_vl_g32_asym", tmp_path / "twin", scales(dtype, torch.float16))
    assert exported(ours, tmp_path / "a") == exported(twin, tmp_path / "b")


@pytest.mark.parametrize("said", [{"quant_method": d.REMOVE, "method": "awq"}, {"quant_method": "AWQ"}])
def test_awq_by_gptqmodels_key(said: dict[str, Any], checkpoint: Checkpoints, tmp_path: Path) -> None:
    plain, _, _ = awq.twins(checkpoint(*zoo.SMALL), tmp_path)
    ours = copied(
        plain, tmp_path / "ours", d.edit(d.CONFIG, **{f"quantization_config__{k}": v for k, v in said.items()})
    )
    assert exported(ours, tmp_path / "a") == exported(plain, tmp_path / "b")


# Configurations


def spec_of(source: Path, to: Path, *changes: d.Damage) -> Any:
    return read_spec(Checkpoint(copied(source, to, *changes)))


SIZES = ("size", "min_pixels", "max_pixels")
PREPROCESSORS: dict[str, d.Damage] = {
    "nothing said": d.write(zoo.PREPROCESSOR, "{}"),
    "nulls": d.edit(zoo.PREPROCESSOR, size=None, min_pixels=None, max_pixels=None),
    "without sizes of patches": zoo.without(zoo.PREPROCESSOR, "patch_size", "merge_size", "temporal_patch_size"),
    "without a mean": zoo.without(zoo.PREPROCESSOR, "image_mean", "image_std"),
    "without bounds": zoo.without(zoo.PREPROCESSOR, *SIZES),
    "a null of sizes, and bounds": d.edit(zoo.PREPROCESSOR, size=None, min_pixels=6272, max_pixels=50176),
    "one bound": d.together(zoo.without(zoo.PREPROCESSOR, *SIZES), d.edit(zoo.PREPROCESSOR, max_pixels=501760)),
    "whole floats": d.edit(zoo.PREPROCESSOR, patch_size=14.0, merge_size=2.0, min_pixels=6272.0, max_pixels=50176.0),
    "nested beside an old file": d.write(
        "processor_config.json", json.dumps({"image_processor": {"min_pixels": 6272, "max_pixels": 12544}})
    ),
}


@pytest.mark.parametrize("change", PREPROCESSORS.values(), ids=PREPROCESSORS)
def test_preprocessors_say_what_transformers_makes_of_them(
    change: d.Damage, checkpoint: Checkpoints, tmp_path: Path
) -> None:
    ours = spec_of(checkpoint(*zoo.SMALL), tmp_path / "c", change).image
    nested = tmp_path / "c" / "processor_config.json"
    if nested.is_file():
        theirs = Qwen2VLImageProcessorPil(**json.loads(nested.read_text())["image_processor"])
    else:
        theirs = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "c")
    assert (ours.patch_size, ours.temporal_patch_size) == (theirs.patch_size, theirs.temporal_patch_size)
    assert ours.spatial_merge_size == theirs.merge_size
    assert (ours.min_pixels, ours.max_pixels) == (theirs.size["shortest_edge"], theirs.size["longest_edge"])
    assert (list(ours.image_mean), list(ours.image_std)) == (list(theirs.image_mean), list(theirs.image_std))


def test_whole_floats_within_sizes(checkpoint: Checkpoints, tmp_path: Path) -> None:
    size = {"shortest_edge": 3136.0, "longest_edge": 50176.0}
    bounds = d.edit(zoo.PREPROCESSOR, size=size, min_pixels=d.REMOVE, max_pixels=d.REMOVE)
    found = spec_of(checkpoint(*zoo.SMALL), tmp_path / "c", bounds).image
    assert (found.min_pixels, found.max_pixels) == (3136, 50176)
    assert type(found.min_pixels) is int


@pytest.mark.parametrize(
    ("changes", "stop"),
    [
        ((d.delete("generation_config.json"), d.config(eos_token_id=None)), [353]),  # text_config has it
        ((d.edit("generation_config.json", eos_token_id=None), d.config(eos_token_id=None)), [353]),
        ((d.edit("generation_config.json", eos_token_id=None), d.config(eos_token_id=[351, 353])), [351, 353]),
        ((d.edit("generation_config.json", eos_token_id=351), d.config(eos_token_id=353)), [351]),
    ],
)
def test_stop_tokens_are_the_first_that_are_said(
    changes: tuple[d.Damage, ...], stop: list[int], checkpoint: Checkpoints, tmp_path: Path
) -> None:
    assert spec_of(checkpoint(*zoo.SMALL), tmp_path / "c", *changes).tokens.stop == stop


@pytest.mark.parametrize("value", [d.REMOVE, None])
def test_a_model_without_a_video_token_is_exported_without_videos(
    value: Any, checkpoint: Checkpoints, tmp_path: Path
) -> None:
    source = copied(checkpoint(*zoo.SMALL), tmp_path / "c", d.config(video_token_id=value))
    assert export(ExportPlan(source, tmp_path / "b")).tokens.video is None


def test_missing_token_ids_are_the_defaults_of_transformers(checkpoint: Checkpoints, tmp_path: Path) -> None:
    """If the vocabulary is large enough."""
    silent = d.config(video_token_id=d.REMOVE, image_token_id=d.REMOVE)
    tokens = spec_of(checkpoint(*zoo.SMALL), tmp_path / "c", silent, d.text(vocab_size=151936)).tokens
    theirs = AutoConfig.from_pretrained(tmp_path / "c")
    assert (tokens.image, tokens.video) == (theirs.image_token_id, theirs.video_token_id)


def test_a_model_without_an_image_token_is_refused(checkpoint: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"image_token_id is missing \(add the id of <\|image_pad\|>"):
        spec_of(checkpoint(*zoo.SMALL), tmp_path / "c", d.config(image_token_id=d.REMOVE))


@pytest.mark.parametrize("key", ["max_position_embeddings", "rms_norm_eps"])
def test_what_is_not_said_of_the_language_model_is_transformers(
    key: str, checkpoint: Checkpoints, tmp_path: Path
) -> None:
    found = spec_of(checkpoint(*zoo.SMALL), tmp_path / "c", d.text(**{key: d.REMOVE}))
    theirs = AutoConfig.from_pretrained(tmp_path / "c").text_config
    assert (found.max_positions, found.text.rms_norm_eps) == (theirs.max_position_embeddings, theirs.rms_norm_eps)


def test_key_value_heads_may_be_null(checkpoint: Checkpoints, tmp_path: Path) -> None:
    text = spec_of(checkpoint(*zoo.SMALL), tmp_path / "c", d.text(num_key_value_heads=None)).text
    assert text.num_key_value_heads == text.num_heads


def test_a_saved_base_model(oracle: Callable[[str, str], Any], checkpoint: Checkpoints, tmp_path: Path) -> None:
    """What transformers itself saves of a model without its head."""
    source = copied(checkpoint(*zoo.THIRD), tmp_path / "c", d.delete(d.SHARD))
    base = oracle(*zoo.THIRD).model
    state = {name: value.contiguous() for name, value in base.state_dict().items()}
    save_file(state, source / d.SHARD)
    assert set(load_file(source / d.SHARD)) > {"language_model.norm.weight", "visual.patch_embed.proj.weight"}
    assert exported(source, tmp_path / "a") == exported(checkpoint(*zoo.THIRD), tmp_path / "b")
