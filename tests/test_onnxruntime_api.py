"""`sardonyx.onnxruntime` against ONNX Runtime itself: every case runs on both and must do the same."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import sardonyx.onnxruntime as ours

theirs = pytest.importorskip("onnxruntime")


def make_model(nodes: list, inputs: list, outputs: list, initializers: list = ()) -> bytes:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers, doc_string="graph doc")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=8,
        producer_name="maker",
        domain="dom",
        doc_string="doc",
    )
    model.model_version = 5
    helper.set_model_props(model, {"key": "value"})
    return model.SerializeToString()


def tensor(name: str, shape: list | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def two_outputs() -> bytes:
    return make_model(
        [
            helper.make_node("Add", ["x", "b"], ["s"], name="add"),
            helper.make_node("Relu", ["s"], ["y"], name="relu"),
            helper.make_node("Shape", ["x"], ["z"], name="shape"),
        ],
        [tensor("x", ["n", 3])],
        [tensor("y", ["n", 3]), tensor("z", [2], TensorProto.INT64)],
        [helper.make_tensor("b", TensorProto.FLOAT, [3], [1, 2, -3])],
    )


def identity(kind: int, shape: list | None) -> bytes:
    node = helper.make_node("Identity", ["x"], ["y"], name="identity")
    return make_model([node], [tensor("x", shape, kind)], [tensor("y", None, kind)])


X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2


def outcome(call: Any) -> tuple[str, Any]:
    """What a call does, in a form that can be compared: its result, or the exception by module and name."""
    try:
        return "result", call()
    except Exception as error:
        home = type(error).__module__.rpartition(".")[2].lstrip("_")
        return "error", (
            home.replace("onnxruntime_pybind11_state", "exceptions"),
            type(error).__name__,
        )


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, (list, tuple)):
        assert type(left) is type(right)
        assert len(left) == len(right)
        for one, other in zip(left, right):
            assert_same(one, other)
    else:
        assert left == right


def both(case: Any) -> None:
    """Run `case(module)` on both packages and compare."""
    mine, original = outcome(lambda: case(ours)), outcome(lambda: case(theirs))
    if mine[0] != original[0]:
        pytest.fail(f"sardonyx: {mine}\nonnxruntime: {original}")
    assert_same(mine, original)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    theirs.set_default_logger_severity(4)


RUNS = {
    "all outputs": lambda s: s.run(None, {"x": X}),
    "no names mean all": lambda s: s.run([], {"x": X}),
    "a subset": lambda s: s.run(["z"], {"x": X}),
    "any order": lambda s: s.run(["z", "y", "z"], {"x": X}),
    "by keyword": lambda s: s.run(output_names=["y"], input_feed={"x": X}, run_options=None),
    "a list of floats": lambda s: s.run(None, {"x": [[1.0, 2.0, 3.0]]}),
    "a list of integers": lambda s: s.run(None, {"x": [[1, 2, 3]]}),
    "a transposed array": lambda s: s.run(None, {"x": np.ones((3, 2), np.float32).T}),
    "an empty array": lambda s: s.run(None, {"x": np.ones((0, 3), np.float32)}),
    "an unknown output": lambda s: s.run(["q"], {"x": X}),
    "an inner value as output": lambda s: s.run(["s"], {"x": X}),
    "a wrong input name": lambda s: s.run(None, {"xx": X}),
    "an additional input": lambda s: s.run(None, {"x": X, "k": X}),
    "an initializer as input": lambda s: s.run(None, {"x": X, "b": np.zeros(3, np.float32)}),
    "float64 for float32": lambda s: s.run(None, {"x": X.astype(np.float64)}),
    "int64 for float32": lambda s: s.run(None, {"x": X.astype(np.int64)}),
    "objects for float32": lambda s: s.run(None, {"x": X.astype(object)}),
    "too few dimensions": lambda s: s.run(None, {"x": np.ones(3, np.float32)}),
    "a wrong dimension": lambda s: s.run(None, {"x": np.ones((2, 4), np.float32)}),
    "a string": lambda s: s.run(None, {"x": "abc"}),
    "a float": lambda s: s.run(None, {"x": 1.0}),
    "a numpy scalar": lambda s: s.run(None, {"x": np.float32(1)}),
    "a tuple": lambda s: s.run(None, {"x": (1.0, 2.0)}),
    "a ragged list": lambda s: s.run(None, {"x": [[1.0], [2.0, 3.0]]}),
    "a list for feeds": lambda s: s.run(None, [X]),
    "a single name for names": lambda s: s.run("y", {"x": X}),
}


@pytest.fixture(scope="module")
def sessions() -> dict[str, Any]:
    return {module.__name__: module.InferenceSession(two_outputs()) for module in (ours, theirs)}


@pytest.mark.parametrize("case", RUNS)
def test_run(case: str, sessions: dict[str, Any]) -> None:
    both(lambda module: RUNS[case](sessions[module.__name__]))


@pytest.mark.parametrize(
    "feeds",
    [
        {"x": X.astype(np.float64)},
        {"x": np.ones(3, np.float32)},
        {"x": np.ones((2, 4), np.float32)},
        {"xx": X},
        {"x": X, "k": X},
    ],
    ids=["dtype", "rank", "dimension", "missing", "additional"],
)
def test_messages_of_wrong_inputs_are_the_same(feeds: dict, sessions: dict[str, Any]) -> None:
    messages = []
    for session in sessions.values():
        with pytest.raises(Exception, match="input") as caught:
            session.run(None, feeds)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


OPTIONS: dict[str, Any] = {
    "defaults": lambda o, m: {name: plain(getattr(o, name)) for name in ATTRIBUTES},
    "negative threads": lambda o, m: set_get(o, "intra_op_num_threads", -1),
    "threads as text": lambda o, m: set_get(o, "intra_op_num_threads", "a"),
    "a level as a number": lambda o, m: set_get(o, "graph_optimization_level", 1),
    "an unknown attribute": lambda o, m: set_get(o, "foo", 1),
    "an entry": lambda o, m: (
        o.add_session_config_entry("a", "b"),
        o.get_session_config_entry("a"),
    ),
    "a missing entry": lambda o, m: o.get_session_config_entry("zz"),
    "an empty key": lambda o, m: o.add_session_config_entry("", "1"),
    "an entry that is no text": lambda o, m: o.add_session_config_entry("a", 1),
    "a library that is missing": lambda o, m: o.register_custom_ops_library("missing.so"),
    "providers": lambda o, m: o.has_providers(),
    "a level": lambda o, m: plain(set_get(o, "graph_optimization_level", m.GraphOptimizationLevel.ORT_DISABLE_ALL)),
}
ATTRIBUTES = [
    name
    for name in dir(theirs.SessionOptions())
    if not name.startswith("_") and not callable(getattr(theirs.SessionOptions(), name))
]


def plain(value: Any) -> Any:
    return (str(value), int(value)) if hasattr(type(value), "__members__") else value


def set_get(target: Any, name: str, value: Any) -> Any:
    setattr(target, name, value)
    return getattr(target, name)


@pytest.mark.parametrize("case", OPTIONS)
def test_session_options(case: str) -> None:
    both(lambda module: OPTIONS[case](module.SessionOptions(), module))


@pytest.mark.parametrize("name", ["SessionOptions", "RunOptions", "NodeArg", "OrtValue", "OrtDevice"])
def test_every_public_name_of_a_class_is_there(name: str) -> None:
    public = {n for n in dir(getattr(theirs, name)) if not n.startswith("_")}
    assert public <= set(dir(getattr(ours, name))) | {"from_c_ort_device"}


@pytest.mark.parametrize("name", ["InferenceSession", "IOBinding"])
def test_every_method_takes_the_same_arguments(name: str) -> None:
    import inspect

    for method in (n for n in dir(getattr(theirs, name)) if not n.startswith("_")):
        mine = getattr(getattr(ours, name), method)
        if mine.__name__ == "refuse":  # a stand-in for what is not supported
            continue
        wanted = list(inspect.signature(getattr(getattr(theirs, name), method)).parameters)
        assert [p for p in inspect.signature(mine).parameters if p != "self"] == [p for p in wanted if p != "self"], (
            method
        )


def test_every_public_name_of_the_module_is_there() -> None:
    internal = {"import_capi_exception", "contextlib", "cuda_version", "package_name", "version"}
    packaging = {"onnxruntime_validation", "backend", "datasets", "quantization", "tools"}
    newer = {n for n in dir(theirs) if n.startswith(("ModelPackage", "OrtEpContext", "OrtEpAssigned"))}
    public = {n for n in dir(theirs) if not n.startswith("_")}
    assert public - internal - packaging - newer <= set(dir(ours))


@pytest.mark.parametrize(
    "name",
    [name for name in dir(ours) if hasattr(getattr(ours, name), "__members__")],
)
def test_enumerations_have_the_same_members_and_words(name: str) -> None:
    def members(module: ModuleType) -> list:
        found = getattr(module, name).__members__
        return sorted((key, int(value)) for key, value in found.items())

    assert members(ours) == members(theirs)
    if name in ("GraphOptimizationLevel", "ExecutionMode"):
        for one, other in zip(getattr(ours, name).__members__, getattr(theirs, name).__members__):
            mine, original = getattr(ours, name)[one], getattr(theirs, name).__members__[other]
            assert (str(mine), repr(mine)) == (str(original), repr(original))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        3,
        bytearray(b"abc"),
        "missing.onnx",
        make_model([helper.make_node("Nope", ["x"], ["y"])], [tensor("x", [1])], [tensor("y", [1])]),
    ],
    ids=["empty", "garbage", "a number", "bytearray", "missing file", "unknown operator"],
)
def test_models_that_cannot_be_loaded(content: Any) -> None:
    if isinstance(content, bytes) and b"Nope" in content:
        kinds = (
            ours.capi.onnxruntime_pybind11_state.NotImplemented,
            ours.capi.onnxruntime_pybind11_state.InvalidGraph,
        )
        with pytest.raises(kinds, match="Nope"):
            ours.InferenceSession(content)
        return
    both(lambda module: module.InferenceSession(content))


def test_a_file_of_garbage(tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"garbage!!" * 3)
    both(lambda module: module.InferenceSession(path))
    both(lambda module: module.InferenceSession(str(tmp_path)))


def describe(session: Any) -> list:
    values = [*session.get_inputs(), *session.get_outputs()]
    overridable = [value.name for value in session.get_overridable_initializers()]
    return [*((v.name, v.type, list(v.shape), str(v)) for v in values), overridable]


def test_descriptions_and_metadata() -> None:
    def case(module: ModuleType) -> Any:
        session = module.InferenceSession(two_outputs())
        meta = session.get_modelmeta()
        return [
            describe(session),
            [meta.producer_name, meta.graph_name, meta.domain, meta.description],
            [meta.graph_description, meta.version, meta.custom_metadata_map],
            [session.get_providers(), session.get_provider_options()],
            [session.end_profiling(), session.get_profiling_start_time_ns()],
        ]

    both(case)


@pytest.mark.parametrize("shape", [[], None, ["", None, "k"], [2, "n"]])
def test_shapes_of_inputs(shape: list | None) -> None:
    content = identity(TensorProto.INT64, shape)
    assert describe(ours.InferenceSession(content))[0] == (describe(theirs.InferenceSession(content))[0])


def test_free_dimensions_can_be_fixed() -> None:
    def case(module: ModuleType) -> Any:
        options = module.SessionOptions()
        options.add_free_dimension_override_by_name("n", 2)
        session = module.InferenceSession(two_outputs(), options)
        wrong = outcome(lambda: session.run(["z"], {"x": np.ones((4, 3), np.float32)}))
        return [describe(session), session.run(["z"], {"x": X}), wrong]

    both(case)


def test_initializers_can_be_replaced() -> None:
    def case(values: list[float]) -> Any:
        options = ours.SessionOptions()
        value = ours.OrtValue.ortvalue_from_numpy(np.array(values, np.float32))
        options.add_initializer("b", value)
        return ours.InferenceSession(two_outputs(), options).run(["y"], {"x": X})[0]

    np.testing.assert_array_equal(case([0, 0, 0]), np.maximum(X, 0))
    with pytest.raises(ours.capi.onnxruntime_pybind11_state.InvalidArgument, match="'b'"):
        case([0, 0])


@pytest.mark.parametrize(
    "array",
    [np.array([["a", "é"]]), np.array([["a", "é"]], object), [["a", "é"]]],
    ids=["unicode", "objects", "list"],
)
def test_strings(array: Any) -> None:
    content = identity(TensorProto.STRING, ["n", 2])
    both(lambda module: module.InferenceSession(content).run(None, {"x": array}))


def test_sequences_go_in_and_come_out_as_lists() -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    result = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    insert = helper.make_node("SequenceInsert", ["x", "e"], ["y"], name="insert")
    content = make_model([insert], [sequence, tensor("e", None)], [result])
    both(lambda module: module.InferenceSession(content).run(None, {"x": [X, X * 2], "e": X}))
    both(lambda module: module.InferenceSession(content).run(None, {"x": X, "e": X}))
    both(lambda module: describe(module.InferenceSession(content)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "providers",
    [
        None,
        ["CPUExecutionProvider"],
        ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ["CUDAExecutionProvider"],
        ["FooExecutionProvider"],
        [("CPUExecutionProvider", {"arena": "1"})],
        ["CPUExecutionProvider", "CPUExecutionProvider"],
        [3],
    ],
)
def test_providers(providers: Any) -> None:
    content = two_outputs()
    both(lambda module: module.InferenceSession(content, providers=providers).get_providers())
    both(lambda module: module.InferenceSession(content, providers=providers, enable_fallback=0).get_providers())


def test_a_provider_that_is_missing_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available"):
        ours.InferenceSession(two_outputs(), providers=["CUDAExecutionProvider"])


VALUES: dict[str, Any] = {
    "of an array": lambda m: about(m.OrtValue.ortvalue_from_numpy(X)),
    "of a transposed array": lambda m: m.OrtValue.ortvalue_from_numpy(X[:, ::2]).numpy().shape,
    "of a type": lambda m: about(m.OrtValue.ortvalue_from_shape_and_type([2, 3], np.int8))[:6],
    "of a name of a type": lambda m: m.OrtValue.ortvalue_from_shape_and_type((2,), "float32").data_type(),
    "of an ONNX type": lambda m: m.OrtValue.ortvalue_from_shape_and_type([2], TensorProto.BFLOAT16).data_type(),
    "of strings": lambda m: m.OrtValue.ortvalue_from_numpy(np.array(["a"])),
    "of a list": lambda m: m.OrtValue.ortvalue_from_numpy([1, 2]),
    "of DLPack": lambda m: about(m.OrtValue.from_dlpack(X.copy())),
    "to DLPack": lambda m: np.from_dlpack(m.OrtValue.ortvalue_from_numpy(X.copy())),
    "to an array": lambda m: np.asarray(m.OrtValue.ortvalue_from_numpy(X)),
    "on a device that is missing": lambda m: m.OrtValue.ortvalue_from_numpy(X, "cuda", 0),
    "on a device that is unknown": lambda m: m.OrtValue.ortvalue_from_numpy(X, "foo", 0),
    "updated": lambda m: updated(m, np.full((2, 3), 7, np.float32)),
    "updated with too few elements": lambda m: updated(m, np.zeros(3, np.float32)),
    "a device": lambda m: (lambda d: [d.device_type(), d.device_id()])(m.OrtDevice.make("cpu", 0)),
}


def about(value: Any) -> list:
    return [
        value.device_name(),
        value.shape(),
        value.data_type(),
        value.element_type(),
        [value.tensor_size_in_bytes(), value.has_value(), value.is_tensor()],
        [value.is_sparse_tensor(), value.is_tensor_sequence()],
        value.numpy(),
    ]


def updated(module: ModuleType, data: np.ndarray) -> np.ndarray:
    value = module.OrtValue.ortvalue_from_numpy(X.copy())
    value.update_inplace(data)
    return value.numpy()


@pytest.mark.parametrize("case", VALUES)
def test_values(case: str) -> None:
    both(VALUES[case])


def test_a_value_shares_the_memory_of_its_array() -> None:
    array = X.copy()
    assert ours.OrtValue.ortvalue_from_numpy(array).data_ptr() == array.ctypes.data


def test_runs_with_values() -> None:
    def case(module: ModuleType) -> Any:
        session = module.InferenceSession(two_outputs())
        value = module.OrtValue.ortvalue_from_numpy(X)
        results = session.run_with_ort_values(["y"], {"x": value})
        wrong = outcome(lambda: session.run_with_ort_values(["y"], {"x": X}))
        return [session.run(["y"], {"x": value}), [about(r) for r in results], wrong]

    both(case)


def test_bound_inputs_and_outputs() -> None:
    def case(module: ModuleType) -> Any:
        session = module.InferenceSession(two_outputs())
        into = module.OrtValue.ortvalue_from_numpy(np.zeros((2, 3), np.float32))
        at, x = np.zeros((2, 3), np.float32), X.copy()
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        binding.bind_output("z")
        session.run_with_iobinding(binding)
        first = [binding.copy_outputs_to_cpu(), [value.numpy() for value in binding.get_outputs()]]
        binding.clear_binding_outputs()
        binding.bind_ortvalue_output("y", into)
        session.run_with_iobinding(binding)
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, [2, 3], x.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, [2, 3], at.ctypes.data)
        session.run_with_iobinding(binding)
        return [*first, into.numpy(), at]

    both(case)


BINDINGS = {
    "an unknown input": lambda s, b: b.bind_cpu_input("q", X),
    "an unknown output": lambda s, b: (b.bind_output("q"), s.run_with_iobinding(b)),
    "no output": lambda s, b: s.run_with_iobinding(b),
    "a wrong type": lambda s, b: (
        b.bind_cpu_input("x", X.astype(np.float64)),
        b.bind_output("y"),
        s.run_with_iobinding(b),
    ),
}


@pytest.mark.parametrize("case", BINDINGS)
def test_wrong_bindings(case: str) -> None:
    def run(module: ModuleType) -> Any:
        session = module.InferenceSession(two_outputs())
        binding = session.io_binding()
        binding.bind_cpu_input("x", X)
        return BINDINGS[case](session, binding)

    both(run)


def test_runs_in_the_background() -> None:
    def case(module: ModuleType, feeds: dict) -> Any:
        session = module.InferenceSession(two_outputs())
        done, seen = threading.Event(), []

        def callback(results: list, data: Any, error: str) -> None:
            seen.extend([list(results), data, error])
            done.set()

        session.run_async(None, feeds, callback, "mine")
        assert done.wait(10)
        return seen

    both(lambda module: case(module, {"x": X}))
    both(lambda module: case(module, {"x": np.ones((2, 4), np.float32)}))


def test_a_run_that_is_to_terminate_fails() -> None:
    def case(module: ModuleType) -> Any:
        options = module.RunOptions()
        options.terminate = True
        return module.InferenceSession(two_outputs()).run(None, {"x": X}, options)

    both(case)


def test_profiles_are_lists_of_events(tmp_path: Path) -> None:
    options = ours.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ours.InferenceSession(two_outputs(), options)
    session.run(None, {"x": X})
    assert session.get_profiling_start_time_ns() > 0
    name = session.end_profiling()
    events = json.loads(Path(name).read_text())
    assert events
    assert all("name" in event and "ph" in event for event in events)
    assert session.end_profiling() == ""


def test_the_loaded_model_can_be_written(tmp_path: Path) -> None:
    options = ours.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "copy.onnx")
    first = ours.InferenceSession(two_outputs(), options)
    copy = theirs.InferenceSession(str(tmp_path / "copy.onnx"))
    assert_same(first.run(None, {"x": X}), copy.run(None, {"x": X}))


def test_functions_of_the_module() -> None:
    both(lambda module: [module.get_all_providers(), module.get_device()])
    both(lambda module: module.set_default_logger_severity(9))
    assert ours.get_available_providers() == ["CPUExecutionProvider"]
    assert ours.get_version_string() == ours.__version__


@pytest.mark.parametrize("name", ["SparseTensor", "ModelCompiler", "LoraAdapter"])
def test_what_is_not_supported_says_so(name: str) -> None:
    with pytest.raises(ours.capi.onnxruntime_pybind11_state.NotImplemented, match=name):
        getattr(ours, name)(None)
