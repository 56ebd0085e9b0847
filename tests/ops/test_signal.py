"""Fourier transforms as operators: numpy.fft in double is the oracle, since the reference adds up in float32."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_models import FLOAT, INT64, model_of

import sardonyx

node = helper.make_node
UNITS = {"float32": 1.2e-7, "float64": 2.3e-16, "float16": 9.8e-4}
TYPES = {"float32": FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}


def random(*shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def run(model, feeds):
    session = sardonyx.Session(model)
    assert all(place.provider == "native" for place in session.placement())
    return session.run(feeds)


def assert_near(have, want):
    """`have` [..., 2] within a few units of the complex `want`."""
    assert have.shape == (*want.shape, 2)
    found = have[..., 0].astype(np.float64) + 1j * have[..., 1]
    limit = 6 * UNITS[have.dtype.name] * np.abs(want).max(initial=0)
    assert np.abs(found - want).max(initial=0) <= limit


def as_complex(x):
    x = x.astype(np.float64)
    return x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_length_that_only_the_run_knows(dtype, parts):
    nodes = [node("DFT", ["x"], ["a"]), node("DFT", ["x"], ["b"], inverse=1), node("DFT", ["x"], ["c"], onesided=1)]
    model = model_of(nodes, [("x", TYPES[dtype], ["b", "n", parts])], "ab" if parts == 2 else "abc", opset=20)
    if parts == 2:
        del model.graph.node[2]
    session = sardonyx.Session(model)
    for count, length in ((1, 1), (2, 2), (1, 74), (20, 97), (3, 360), (1, 4099), (2, 37)):
        x = random(count, length, parts, dtype=dtype)
        found = session.run({"x": x})
        wanted = np.fft.fft(as_complex(x))
        assert_near(found[0], wanted)
        assert_near(found[1], np.fft.ifft(as_complex(x)))
        if parts == 1:
            assert_near(found[2], wanted[:, : length // 2 + 1])


@pytest.mark.parametrize("opset", [17, 20])
def test_axes_and_lengths_that_are_given(opset):
    x = random(3, 5, 17, 2)
    nodes, constants = [], [("short", np.array(7)), ("long", np.array(37))]
    for axis in (0, 1, 2):
        for length in ("", "short", "long"):
            name = f"y{axis}{length}"
            if opset == 17:
                nodes.append(node("DFT", ["x", length], [name], axis=axis))
            else:
                nodes.append(node("DFT", ["x", length, f"axis{axis}"], [name]))
        constants.append((f"axis{axis}", np.array(axis - 4 if axis else 0)))
    names = [n.output[0] for n in nodes]
    model = model_of(nodes, [("x", FLOAT, [3, 5, 17, 2])], names, opset=opset, constants=constants)
    wanted = (np.fft.fft(as_complex(x), n, axis) for axis in (0, 1, 2) for n in (None, 7, 37))
    for have, want in zip(run(model, {"x": x}), wanted, strict=True):
        assert_near(have, want)


def test_a_length_that_is_data():
    model = model_of([node("DFT", ["x", "n"], ["y"])], [("x", FLOAT, [2, 11, 1]), ("n", INT64, [])], "y", opset=20)
    x = random(2, 11, 1)
    for length in (1, 5, 12, 41):
        assert_near(run(model, {"x": x, "n": np.array(length)})[0], np.fft.fft(as_complex(x), length))


def test_half_a_spectrum_becomes_real_numbers():
    nodes = [node("DFT", ["x", "n"], ["y"], inverse=1, onesided=1)]
    for length in (6, 7, 38):
        model = model_of(nodes, [("x", FLOAT, ["b", "k", 2])], "y", opset=20, constants=[("n", np.array(length))])
        x = random(4, length // 2 + 1, 2)
        (found,) = run(model, {"x": x})
        assert found.shape == (4, length, 1)
        np.testing.assert_allclose(found[..., 0], np.fft.irfft(as_complex(x), length), rtol=0, atol=5e-7)


@pytest.mark.parametrize("window", [400, 37])
@pytest.mark.parametrize("parts", [1, 2])
def test_frames_of_signals(window, parts):
    hop, weights = 10, np.hanning(window).astype(np.float32)
    nodes = [node("STFT", ["x", "hop", "w"], ["y"], onesided=int(parts == 1))]
    constants = [("hop", np.array(hop)), ("w", weights)]
    model = model_of(nodes, [("x", FLOAT, ["b", "t", parts])], "y", constants=constants)
    session = sardonyx.Session(model)
    for batch, time in ((1, window), (2, window + 9), (3, 3 * window + 1)):
        x = random(batch, time, parts)
        frames = np.lib.stride_tricks.sliding_window_view(as_complex(x), window, axis=1)[:, ::hop]
        wanted = np.fft.fft(frames * weights)
        assert_near(session.run({"x": x})[0], wanted[..., : window // 2 + 1] if parts == 1 else wanted)


def test_frames_of_a_length_that_is_data():
    inputs = [("x", FLOAT, [1, 100, 1]), ("hop", INT64, []), ("n", INT64, [])]
    model = model_of([node("STFT", ["x", "hop", "", "n"], ["y"], onesided=0)], inputs, "y")
    x = random(1, 100, 1)
    for hop, length in ((3, 16), (50, 37)):
        frames = np.lib.stride_tricks.sliding_window_view(as_complex(x), length, axis=1)[:, ::hop]
        (found,) = run(model, {"x": x, "hop": np.array(hop), "n": np.array(length)})
        assert_near(found, np.fft.fft(frames))


def test_a_signal_without_numbers_has_transforms_without_any():
    model = model_of([node("DFT", ["x"], ["y"]), node("DFT", ["x"], ["z"], onesided=1)],
                     [("x", FLOAT, ["b", "n", 1])], "yz", opset=20)  # fmt: skip
    everything, half = run(model, {"x": random(0, 4, 1)})
    assert everything.shape == (0, 4, 2)
    everything, half = run(model, {"x": random(2, 0, 1)})
    assert everything.shape == (2, 0, 2)
    assert half.tolist() == [[[0, 0]], [[0, 0]]]
