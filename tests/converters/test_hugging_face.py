"""Hugging Face: what a model is for and what it takes, decided without Transformers; sources of several parts."""

import json
from types import SimpleNamespace

import networks
import numpy as np
import onnx
import pytest

from sardonyx.converters import convert as module
from sardonyx.converters.convert import convert
from sardonyx.converters.hf_tasks import inputs_of, task_of
from sardonyx.converters.huggingface import HuggingFace
from sardonyx.converters.onnx_file import OnnxFile
from sardonyx.converters.source import Request
from sardonyx.errors import ConversionError, SourceError, VerificationError


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("DistilBertForQuestionAnswering", "question-answering"),
        ("RobertaForMaskedLM", "fill-mask"),
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("XLMWithLMHeadModel", "fill-mask"),
        ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("MarianMTModel", "text2text-generation"),
        ("Wav2Vec2ForCTC", "ctc"),
        ("DeiTForImageClassificationWithTeacher", "image-classification"),
        ("DetrForObjectDetection", "object-detection"),
        ("CLIPModel", "zero-shot-image-classification"),
        ("BertModel", "feature-extraction"),
    ],
)
def test_the_task_is_told_by_the_architecture(architecture, task):
    assert task_of(architecture).name == task


def test_a_task_can_be_asked_for():
    assert task_of("BertForMaskedLM", "feature-extraction").name == "feature-extraction"
    with pytest.raises(SourceError, match="no task called") as caught:
        task_of("BertModel", "dancing")
    assert "text-classification" in caught.value.hint


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ConversionError, match="no task"):
        task_of("Frobnicator")


def model(main, parameters, **config):
    def forward(): ...

    source = f"def forward({', '.join(parameters)}): ..."
    names = {}
    exec(source, names)  # a signature made of words
    return SimpleNamespace(main_input_name=main, forward=names["forward"], config=SimpleNamespace(**config))


def shown(found):
    return [(each.name, each.shape, each.high) for each in found]


def test_text_has_token_types_only_where_the_model_has_some():
    taken = ["input_ids", "attention_mask", "token_type_ids", "labels"]
    text = ("batch", "length")
    bert = inputs_of(model("input_ids", taken, vocab_size=99, type_vocab_size=2), None)
    assert shown(bert) == [("input_ids", text, 98), ("attention_mask", text, 1), ("token_type_ids", text, 1)]
    roberta = inputs_of(model("input_ids", taken, vocab_size=99, type_vocab_size=1), None)
    assert [each.name for each in roberta] == ["input_ids", "attention_mask"]
    assert roberta[1].padding == "right"


def test_the_size_of_pictures_comes_from_the_model_or_its_preprocessor(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 48, "width": 64}}))
    own = model("pixel_values", ["pixel_values"], image_size=[32, 40], num_channels=1)
    assert inputs_of(own, tmp_path)[0].shape == ("batch", 1, 32, 40)
    other = model("pixel_values", ["pixel_values"])
    assert inputs_of(other, tmp_path)[0].shape == ("batch", 3, 48, 64)
    assert inputs_of(other, None)[0].shape == ("batch", 3, 224, 224)


def test_sound_is_a_wave_or_a_spectrogram():
    wave = inputs_of(model("input_values", ["input_values"], model_type="hubert"), None)
    assert wave[0].shape == ("batch", "samples")
    whisper = model("input_features", ["input_features"], model_type="whisper", max_source_positions=20, num_mel_bins=8)
    assert inputs_of(whisper, None)[0].shape == ("batch", 8, 40)


def test_what_is_neither_is_refused():
    with pytest.raises(ConversionError, match="neither text, pictures nor sound"):
        inputs_of(model("graph", ["graph"]), None)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{"])
def test_a_damaged_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(SourceError, match="config"):
        HuggingFace(Request(str(tmp_path), "huggingface"), lambda text: None)


class Two(OnnxFile):
    """A source of two parts: the same network twice, the second spoilt if asked for."""

    spoilt = False

    def __init__(self, request, progress):
        super().__init__(request, progress)
        self.chosen = []

    def parts(self):
        return ["encoder", "decoder"]

    def choose(self, part):
        self.chosen.append(part)

    def export(self, path):
        notes = super().export(path)
        if self.spoilt and self.chosen[-1] == "decoder":
            faulty = onnx.load(path)
            networks.weight(faulty, "conv2", "conv2_w", lambda w: w * np.float32(1.01))
            onnx.save(faulty, path)
        return notes


@pytest.fixture
def two(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    onnx.save(networks.network("cnn"), path)
    monkeypatch.setattr(module, "_opened", lambda request, made, progress: module.contextlib.nullcontext(
        Two(request, progress)))  # fmt: skip
    return path


def test_a_source_of_several_parts_gives_several_files(two, tmp_path):
    result = convert(two, tmp_path / "out" / "m.onnx")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m_decoder.onnx", "m_encoder.onnx"]
    assert {name: part.path.name for name, part in result.parts.items()} == {
        "encoder": "m_encoder.onnx",
        "decoder": "m_decoder.onnx",
    }
    assert result.path == result.parts["encoder"].path
    assert all(part.report.passed for part in result.parts.values())


def test_a_part_that_differs_does_not_get_its_name(two, tmp_path, monkeypatch):
    monkeypatch.setattr(Two, "spoilt", True)
    with pytest.raises(VerificationError, match="m_decoder"):
        convert(two, tmp_path / "out" / "m.onnx")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["m_decoder.unverified.onnx", "m_encoder.onnx"]
