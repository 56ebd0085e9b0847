"""Tuning: listed alternatives change no bit, winners are found again, and nothing else gets into a build."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmark.small import convolution, save, zeros
from click.testing import CliRunner
from kernels import harness

import sardonyx
from sardonyx.benchmark import tune as module
from sardonyx.benchmark.threads_report import rows, threads_report
from sardonyx.cli import cli
from sardonyx.compiler import tuning
from sardonyx.compiler.cache import default
from sardonyx.compiler.compile import rebuild
from sardonyx.deployment.targets import host_target
from sardonyx.errors import InputError, VerificationError
from sardonyx.kernels.catalog import KERNELS
from sardonyx.runtime.loading import Loader
from sardonyx.runtime.native import Library, Variant
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.threads import available_cpus, get_pool

ALTERNATIVES = [(n, m, v) for n, row in KERNELS.items() for m, values in row.tunables.items() for v in values]
# Several chunks, parts of channels, rows and positions in each kernel, none of them whole.
WEIGHTS = {
    "w1": (40, 3, 5, 5),
    "w2": (40, 1, 3, 3),
    "w3": (520, 40, 1, 1),
    "w4": (72, 520, 1, 1),
    "w5": (36, 72, 3, 3),
    "w6": (700, 300),
}
WIDE = f"""<ir_version: 9, opset_import: ["" : 17]>
net (float[2,3,45,43] x, float[70,700] p, float[3,700,50] q) => (float[2,36,45,43] y, float[70,300] r, float[3,70,50] s)
<{", ".join(f"float[{','.join(map(str, shape))}] {name} = {zeros(*shape)}" for name, shape in WEIGHTS.items())}>
{{
    a = Conv <pads = [2, 2, 2, 2]> (x, w1)
    b = Conv <pads = [1, 1, 1, 1], group = 40> (a, w2)
    c = Conv(b, w3)
    d = Conv(c, w4)
    y = Conv <pads = [1, 1, 1, 1]> (d, w5)
    r = MatMul(p, w6)
    s = MatMul(p, q)
}}"""


def feeds(infos):
    rng = np.random.default_rng(3)
    return {info.name: rng.standard_normal(info.shape).astype(np.float32) for info in infos}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model with all kernels that can be tuned, compiled; its inputs and what it computes."""
    model = save(tmp_path_factory.mktemp("wide") / "m.onnx", WIDE)
    options = SessionOptions(threads=2, profile=True)
    entry = Loader(str(model), options).folder()
    session = sardonyx.Session(str(model), options)
    given = feeds(session.inputs)
    return entry, options, list(given.values()), session.run(given)


@pytest.mark.parametrize(("kernel", "macro", "value"), ALTERNATIVES)
def test_an_alternative_changes_no_bit(wide, tmp_path, kernel, macro, value):
    entry, options, values, expected = wide
    assert kernel in json.loads((entry / "program.json").read_text())["kernels"]
    rebuild(entry, {kernel: {macro: value}}, host_target(), tmp_path)
    library = Library(tmp_path)
    assert library.facts["tuned"] == {kernel: {macro: value}}
    results = Variant(library, (), get_pool(2), options).run(values, None)
    assert [r.tobytes() for r in results] == [e.tobytes() for e in expected]


@pytest.mark.long
@pytest.mark.parametrize("isa", harness.ISAS)
@pytest.mark.parametrize(("kernel", "macro", "value"), ALTERNATIVES)
def test_an_alternative_compiles_for_every_target(kernel, macro, value, isa):
    defines = {"SX_PORTABLE": None} if isa in ("x86_64_v2", "wasm32_simd") else {}
    harness.compile_kernels(f"{kernel}.c", "builtins.c", isa=isa, defines={macro: value, **defines})


@pytest.mark.parametrize(("kernel", "macro"), sorted({(k, m) for k, m, _ in ALTERNATIVES}))
def test_a_tunable_can_be_set_from_outside(kernel, macro):
    text = harness.compile_kernels(f"{kernel}.c", defines={macro: 13579}, kind="macros").read_text()
    assert f"#define {macro} 13579" in text


@pytest.fixture
def gains(monkeypatch):
    """Makes the search believe these gains instead of measuring, by (macro, value); 1 for all others."""
    believed = {}

    def gain(self, old, new, kernel, seconds):
        tuned = json.loads((new.folder / "program.json").read_text())["tuned"]
        base = json.loads((old.folder / "program.json").read_text())["tuned"]
        changed = [(m, v) for k, macros in tuned.items() for m, v in macros.items() if base.get(k, {}).get(m) != v]
        answer = believed.get(changed[0], 1.0) if changed else 1.0
        if isinstance(answer, BaseException):
            raise answer
        return [answer] * 3

    monkeypatch.setattr(module._Search, "_gain", gain)
    return believed


def test_winners_are_remembered_and_built_in(tmp_path, gains):
    model = str(convolution(tmp_path / "m.onnx"))
    before = sardonyx.Session(model)
    expected = before.run(feeds(before.inputs))
    gains |= {("OC_GROUP", 4): 1.1, ("CHUNK", 40): 1.015, ("POSITIONS", 252): 1.05, ("POSITIONS", 504): 1.2}
    found = module.tune(model, feeds, seconds=60, threads=1)
    assert found.complete
    assert found.winners["conv_first_f32"] == {"OC_GROUP": 4, "POSITIONS": 504}
    assert {(t.macro, t.value) for t in found.trials if t.kept} >= {("POSITIONS", 252), ("POSITIONS", 504)}
    after = sardonyx.Session(model)
    assert after._library.facts["tuned"] == found.winners
    assert [r.tobytes() for r in after.run(feeds(after.inputs))] == [e.tobytes() for e in expected]
    gains.clear()
    assert module.tune(model, feeds, seconds=60, threads=1).winners == {}
    assert sardonyx.Session(model)._library.facts["tuned"] == {}


def test_an_interrupt_keeps_the_best_so_far(tmp_path, gains):
    gains |= {("CHUNK", 4): 1.5, ("CHUNK", 40): 1.5, ("POSITIONS", 252): KeyboardInterrupt()}
    found = module.tune(str(convolution(tmp_path / "m.onnx")), feeds, seconds=60, threads=1)
    assert not found.complete
    assert found.winners


def test_the_time_is_bounded(tmp_path, gains):
    found = module.tune(str(convolution(tmp_path / "m.onnx")), feeds, seconds=-1, threads=1)
    assert (found.complete, found.trials, found.winners) == (False, [], {})


def test_other_bits_are_an_error(tmp_path, gains, monkeypatch):
    monkeypatch.setattr(module, "rebuild", lambda base, tuned, target, folder: other(base, folder))

    def other(base, folder):
        rebuild(base, {}, host_target(), folder)
        (folder / "weights.bin").unlink()
        data = bytearray((base / "weights.bin").read_bytes())
        data[1] ^= 255
        (folder / "weights.bin").write_bytes(data)

    with pytest.raises(VerificationError, match="other bits"):
        module.tune(str(convolution(tmp_path / "m.onnx")), feeds, seconds=60, threads=1)


def test_what_the_catalog_does_not_list_is_not_built(tmp_path):
    store, target = default(), host_target()
    for wrong in ({"conv_first_f32": {"CHUNK": 41}}, {"conv_first_f32": {"EVIL": 1}}, {"nope": {"CHUNK": 4}}):
        tuning.remember(store, "some model", target, wrong)
        assert tuning.find(store, "some model", target) == {}
    tuning.remember(store, "some model", target, {"conv_first_f32": {"CHUNK": 40}})
    assert tuning.find(store, "some model", target) == {"conv_first_f32": {"CHUNK": 40}}
    assert tuning.find(store, "another", target) == {}
    tuning.remember(store, "some model", target, {})
    assert tuning.find(store, "some model", target) == {}


def test_the_key_follows_the_processor(monkeypatch):
    store, target = default(), host_target()
    tuning.remember(store, "a model", target, {"conv_first_f32": {"CHUNK": 40}})
    monkeypatch.setattr(tuning, "processor", lambda: "another processor")
    assert tuning.find(store, "a model", target) == {}


def test_the_command(tmp_path, gains):
    model = str(convolution(tmp_path / "m.onnx"))
    gains[("OC_GROUP", 4)] = 1.5
    found = json.loads(CliRunner().invoke(cli, ["tune", model, "--threads", "1", "--json"]).output)
    assert found["winners"]
    assert "remembered" in CliRunner().invoke(cli, ["tune", model, "--threads", "1"]).output
    assert "time was over" in CliRunner().invoke(cli, ["tune", model, "--time", "-1"]).output


@pytest.mark.skipif(available_cpus() < 2, reason="needs two processors")
def test_a_report_on_threads(tmp_path):
    model = str(convolution(tmp_path / "m.onnx"))
    found = threads_report(model, feeds, threads=2, seconds=0.05, against=None)
    json.dumps(found)
    [row] = rows(found)
    assert row["runtime"] == "sardonyx"
    assert found["scaling"]["sardonyx"]["speedup"] > 0
    assert found["two_sessions"]["sardonyx"]["ratio"] > 0
    assert found["idle"]["sardonyx"]["most"] >= found["idle"]["sardonyx"]["median"]


def test_a_report_on_threads_needs_two(tmp_path):
    with pytest.raises(InputError, match="two"):
        threads_report(str(convolution(tmp_path / "m.onnx")), feeds, threads=1)
