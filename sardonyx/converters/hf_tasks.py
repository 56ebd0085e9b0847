"""What the models of Transformers are for, which tensors they take, and which of their outputs matter."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sardonyx.converters.source import Dim, Input
from sardonyx.errors import ConversionError, SourceError


@dataclass(frozen=True)
class Task:
    """One use of a model, named as the pipelines of Transformers are.

    Attributes:
        name: what ``--option task=`` takes.
        loader: the class of Transformers that loads a folder for it.
        endings: how the names of such models end; the first task whose ending fits is taken.
        outputs: the outputs that are kept, if the model gives them.
        generates: "" , "decoder" (tokens one by one), or "encoder-decoder".
    """

    name: str
    loader: str
    endings: tuple[str, ...]
    outputs: tuple[str, ...] = ("logits",)
    generates: str = ""


_DETECTED = ("logits", "pred_boxes", "pred_masks")
_MASKS = ("logits", "class_queries_logits", "masks_queries_logits")
_PAIRED = ("logits_per_image", "logits_per_text", "logits_per_audio", "text_embeds", "image_embeds", "audio_embeds")
_ALL = (
    Task("text-classification", "AutoModelForSequenceClassification", ("ForSequenceClassification",)),
    Task("token-classification", "AutoModelForTokenClassification", ("ForTokenClassification",)),
    Task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
        ("start_logits", "end_logits"),
    ),
    Task("multiple-choice", "AutoModelForMultipleChoice", ("ForMultipleChoice",)),
    Task("fill-mask", "AutoModelForMaskedLM", ("ForMaskedLM", "WithLMHeadModel", "ForPreTraining")),
    Task("text-generation", "AutoModelForCausalLM", ("ForCausalLM", "LMHeadModel", "LMHead"), generates="decoder"),
    Task(
        "automatic-speech-recognition",
        "AutoModelForSpeechSeq2Seq",
        ("WhisperForConditionalGeneration", "ForSpeechSeq2Seq", "Speech2TextForConditionalGeneration"),
        generates="encoder-decoder",
    ),
    Task(
        "text2text-generation",
        "AutoModelForSeq2SeqLM",
        ("ForConditionalGeneration", "MTModel"),
        generates="encoder-decoder",
    ),
    Task("ctc", "AutoModelForCTC", ("ForCTC",)),
    Task("audio-classification", "AutoModelForAudioClassification", ("ForAudioClassification",)),
    Task("image-classification", "AutoModelForImageClassification", ("ForImageClassification", "WithTeacher")),
    Task("object-detection", "AutoModelForObjectDetection", ("ForObjectDetection", "ForSegmentation"), _DETECTED),
    Task("semantic-segmentation", "AutoModelForSemanticSegmentation", ("ForSemanticSegmentation",)),
    Task("universal-segmentation", "AutoModelForUniversalSegmentation", ("ForUniversalSegmentation",), _MASKS),
    Task("depth-estimation", "AutoModelForDepthEstimation", ("ForDepthEstimation",), ("predicted_depth",)),
    Task("zero-shot-image-classification", "AutoModel", ("CLIPModel", "SiglipModel", "AlignModel"), _PAIRED),
    Task("feature-extraction", "AutoModel", ("Model",), ("last_hidden_state", "pooler_output", "image_embeds")),
)
TASKS = {task.name: task for task in _ALL}
_SPEECH = ("input_values", "input_features")  # main inputs of models whose text classifiers are of sounds


def task_of(architecture: str, asked: str = "") -> Task:
    """The task that was asked for, or the one that the name of the class tells.

    Raises:
        SourceError: there is no such task.
        ConversionError: the class is of no task that is known here.
    """
    if asked:
        if asked not in TASKS:
            raise SourceError(f"there is no task called {asked!r}", hint=f"known are: {', '.join(TASKS)}")
        return TASKS[asked]
    for task in _ALL:
        if architecture.endswith(task.endings):
            return task
    raise ConversionError(
        f"{architecture or 'a model without architectures in its config.json'} is for no task that is known here",
        hint=f"Name one: --option task=NAME ({', '.join(TASKS)}).",
    )


def inputs_of(model: Any, folder: Path | None) -> list[Input]:
    """The tensors that `model` takes, those first that it cannot do without.

    Args:
        model: of Transformers.
        folder: where it lies; what its preprocessor says about sizes is read from there.

    Raises:
        ConversionError: it takes something else than text, pictures or sound.
    """
    config, main = model.config, model.main_input_name
    taken = list(inspect.signature(model.forward).parameters)
    if main == "pixel_values" and "input_ids" not in taken:
        return [_pixels(config, _preprocessor(folder))]
    if {"pixel_values", "input_ids"} <= set(taken) and hasattr(config, "vision_config"):
        ids, *others = _text(config.text_config, taken, "text_batch")
        return [ids, _pixels(config.vision_config, _preprocessor(folder), "image_batch"), *others]
    if main == "input_ids":
        several = ("choices",) if type(model).__name__.endswith("ForMultipleChoice") else ()
        return _text(config, taken, "batch", *several)
    if main in _SPEECH:
        return _sound(config, main, taken, _preprocessor(folder))
    raise ConversionError(
        f"{type(model).__name__} takes {main}, which is neither text, pictures nor sound",
        hint="Wrap it in a function that returns a module and takes tensors: package.module:function.",
    )


def _text(config: Any, taken: list[str], *before: str) -> list[Input]:
    shape = (*(before or ("batch",)), "length")
    found = [Input("input_ids", "int64", shape, 0, config.vocab_size - 1)]
    if "attention_mask" in taken:
        found.append(Input("attention_mask", "int64", shape, 0, 1, padding="right"))
    if "token_type_ids" in taken and getattr(config, "type_vocab_size", 0) > 1:
        found.append(Input("token_type_ids", "int64", shape, 0, config.type_vocab_size - 1))
    if "bbox" in taken:
        found.append(Input("bbox", "int64", (*shape, 4), 0, 1000, ascending=True))
    return found


def _pixels(config: Any, preprocessor: Mapping[str, Any], batch: str = "batch") -> Input:
    channels = getattr(config, "num_channels", 3)
    return Input("pixel_values", "float32", (batch, channels, *_side(config, preprocessor)))


def _side(config: Any, preprocessor: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of pictures: what the model is built for, else what its preprocessor makes, else 224."""
    for size in (getattr(config, "image_size", None), preprocessor.get("crop_size"), preprocessor.get("size")):
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)) and len(size) == 2:
            return int(size[0]), int(size[1])
        if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
            return int(size["height"]), int(size["width"])
        if isinstance(size, Mapping) and "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
    return 224, 224


def _sound(config: Any, main: str, taken: list[str], preprocessor: Mapping[str, Any]) -> list[Input]:
    if main == "input_values" and not hasattr(config, "num_mel_bins"):
        found = [Input(main, "float32", ("batch", "samples"))]
        if preprocessor.get("return_attention_mask") and "attention_mask" in taken:
            found.append(Input("attention_mask", "int64", ("batch", "samples"), 0, 1, padding="right"))
        return found
    if main == "input_values":  # spectrograms as pictures
        return [Input(main, "float32", ("batch", config.max_length, config.num_mel_bins))]
    steps: Dim = 2 * config.max_source_positions if config.model_type == "whisper" else "frames"
    bins = int(getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", None) or 80)
    shape: tuple[Dim, ...] = ("batch", bins, steps) if config.model_type == "whisper" else ("batch", steps, bins)
    return [Input(main, "float32", shape)]


# Sizes of dynamic dimensions: none equals another, and each is tried at two, the second where models go wrong.
SIZES: dict[str, tuple[int, ...]] = {
    "batch": (3, 1),
    "length": (7, 12),
    "text_batch": (3, 1),
    "image_batch": (2, 1),
    "choices": (4, 2),
    "past_length": (5, 0),
    "encoder_length": (9, 6),
    "samples": (2000, 3001),
    "frames": (64, 48),
}


def _preprocessor(folder: Path | None) -> Mapping[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if folder is not None and (folder / name).is_file():
            content = json.loads((folder / name).read_bytes())
            return content.get("image_processor") or content.get("feature_extractor") or content
    return {}
