"""Hugging Face folders as they are used: texts written token by token by the files that came out of them."""

import numpy as np
import onnx
import pytest
import torch
import transformers
from converters.heavy.transformers_models import MODELS, make

from sardonyx import Session
from sardonyx.converters.convert import convert
from sardonyx.errors import InputError, SourceError
from sardonyx.verifier.verify import verify

ENVIRONMENT = "torch"
pytestmark = pytest.mark.converters
STEPS = 7


def saved(name, folder):
    """A tiny model as a folder; never stops by itself, so that all texts have the same length."""
    model = make(*MODELS[name])
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    model = saved("gpt2", folder)
    return model, folder, convert(folder, folder / "out" / "gpt2.onnx")


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    model = saved("t5", folder)
    return model, folder, convert(folder, folder / "out" / "t5.onnx")


def test_a_decoder_writes_what_generate_writes_even_when_padded(gpt2):
    model, _, result = gpt2
    session = Session(str(result.path))
    ids = np.array([[5, 9, 23, 40], [0, 0, 7, 61]])
    mask = np.array([[1, 1, 1, 1], [0, 0, 1, 1]])
    expected = model.generate(
        torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), max_new_tokens=STEPS, do_sample=False
    )
    memory = {port.name: np.zeros((2, port.shape[1], 0, port.shape[3]), np.float32) for port in session.inputs[2:]}
    written, step = ids, ids
    for _ in range(STEPS):
        logits, *present = session.run({"input_ids": step, "attention_mask": mask, **memory})
        memory = dict(zip(memory, present, strict=True))
        step = logits[:, -1:].argmax(-1)
        written, mask = np.concatenate([written, step], 1), np.concatenate([mask, np.ones_like(step)], 1)
    np.testing.assert_array_equal(written, expected.numpy())


def test_an_encoder_and_two_decoders_write_what_generate_writes(t5):
    model, _, result = t5
    assert list(result.parts) == ["encoder", "decoder", "decoder_with_past"]
    encoder, first, after = (Session(str(part.path)) for part in result.parts.values())
    ids = np.array([[5, 9, 23, 40, 1], [7, 61, 1, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = model.generate(
        torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), max_new_tokens=STEPS, do_sample=False
    )
    [hidden] = encoder.run({"input_ids": ids, "attention_mask": mask})
    step = written = np.zeros((2, 1), np.int64)
    given = {"input_ids": step, "encoder_attention_mask": mask, "encoder_hidden_states": hidden}
    names = [port.name for port in first.outputs]
    found = dict(zip(names, first.run(given), strict=True))
    memory = {name.replace("present", "past_key_values"): value for name, value in found.items() if name != "logits"}
    for number in range(STEPS):
        step = found["logits"][:, -1:].argmax(-1)
        written = np.concatenate([written, step], 1)
        if number == STEPS - 1:
            break
        given = {"input_ids": step, "encoder_attention_mask": mask, **memory}
        found = dict(zip((port.name for port in after.outputs), after.run(given), strict=True))
        memory |= {n.replace("present", "past_key_values"): value for n, value in found.items() if n != "logits"}
    np.testing.assert_array_equal(written, expected.numpy())


def test_one_part_alone_has_the_name_that_was_asked_for(t5, tmp_path):
    _, folder, _ = t5
    result = convert(folder, tmp_path / "encoder.onnx", options={"part": "encoder"}, verify=False)
    assert result.unverified == tmp_path / "encoder.unverified.onnx"
    with pytest.raises(InputError, match="no part"):
        convert(folder, tmp_path / "m.onnx", options={"part": "head"})


def test_verify_asks_which_part(t5):
    _, folder, result = t5
    with pytest.raises(InputError, match="several models"):
        verify([str(folder), str(result.path)])


def test_a_head_without_weights_is_refused(tmp_path):
    transformers.BertModel(MODELS["bert"][1]()).save_pretrained(tmp_path / "bert")
    with pytest.raises(SourceError, match=r"no weights for .*classifier"):
        convert(tmp_path / "bert", tmp_path / "m.onnx", options={"task": "text-classification"})
    assert not list(tmp_path.glob("*.onnx"))


def test_a_folder_without_weights_is_refused(tmp_path):
    MODELS["bert"][1]().save_pretrained(tmp_path)
    with pytest.raises(SourceError):
        convert(tmp_path, tmp_path / "m.onnx", kind="huggingface", options={"task": "feature-extraction"})


def test_the_size_of_pictures_can_be_made_dynamic(tmp_path):
    make(*MODELS["segformer"]).save_pretrained(tmp_path / "s")
    result = convert(tmp_path / "s", tmp_path / "m.onnx", dims={"pixel_values.2": "height", "pixel_values.3": "width"})
    dims = onnx.load(result.path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]
