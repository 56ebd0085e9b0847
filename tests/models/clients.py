"""Programs written for ONNX Runtime, at work: ``python clients.py NAME`` prints JSON (see `test_clients`).

Each uses a package from PyPI as its documentation says, on inputs drawn or computed here. None knows of Sardonyx.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

PAGES: list[list[tuple[str, int]]] = [
    [("Sardonyx compiles ONNX models", 32), ("to native code.", 32), ("Page 12 of 340", 20)],
    [("INVOICE 2024-0917", 48), ("Total: 1,284.50 EUR", 36), ("due within 30 days, thank you!", 24)],
    [("small print is 16 points high", 16), ("HEADLINE", 72), ("mixed Case, digits 0123456789", 28)],
]


def read_pages() -> list[Any]:
    """Text, score and corners of every line on three pages, the last one turned upside down line by line."""
    import cv2
    from PIL import Image, ImageDraw, ImageFont
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR()
    found = []
    for number, lines in enumerate(PAGES):
        page = Image.new("RGB", (760, 320), (250, 248, 240))
        top = 30
        for text, size in lines:
            font = ImageFont.load_default(size)
            ImageDraw.Draw(page).text((40, top), text, fill=(20, 20, 40), font=font)
            top += size + 40
        pixels = cv2.cvtColor(np.asarray(page), cv2.COLOR_RGB2BGR)
        result, _ = engine(cv2.rotate(pixels, cv2.ROTATE_180) if number == 2 else pixels)
        found.append([[text, float(score), np.asarray(box).tolist()] for box, text, score in result or []])
    return found


def name_file_types() -> list[Any]:
    """Type and score of generated files."""
    from magika import Magika

    header = np.arange(256, dtype=np.uint8)
    contents = {
        "python": b"import os\n\n\ndef main(path: str) -> int:\n    print(os.listdir(path))\n    return 0\n" * 4,
        "c": b'#include <stdio.h>\nint main(void) { for (int i = 0; i < 9; i++) printf("%d\\n", i); }\n' * 4,
        "json": json.dumps({"name": "x", "values": list(range(60)), "nested": {"a": None}}).encode(),
        "csv": "\n".join(f"{i},{i * i},row {i}" for i in range(80)).encode(),
        "html": b"<!doctype html><html><head><title>t</title></head><body><p>text</p></body></html>" * 5,
        "markdown": b"# Title\n\nSome *text* with a [link](http://localhost).\n\n- one\n- two\n" * 5,
        "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + header.tobytes() * 8,
        "elf": b"\x7fELF\x02\x01\x01" + bytes(9) + header[::-1].tobytes() * 8,
        "shell": b'#!/bin/sh\nset -e\nfor f in *.txt; do\n  echo "$f"\ndone\n' * 3,
        "noise": np.random.default_rng(1).bytes(3000),
        "tiny": b"ab",
        "empty": b"",
    }
    engine = Magika()
    results = {name: engine.identify_bytes(content) for name, content in contents.items()}
    return [[name, str(result.output.label), float(result.score)] for name, result in results.items()]


def hear_speech() -> list[Any]:
    """Probability of speech per 32 ms, over silence, noise, a buzz that moves like a voice, and tones."""
    audio = _sounds()
    # The package imports PyTorch when it is initialised, and its helpers name it in annotations and decorators;
    # this module of it computes without: enter past the first and let the names mean nothing.
    if importlib.util.find_spec("torch") is None:
        sys.modules["torch"] = mock.MagicMock()
        folder = importlib.util.find_spec("silero_vad").submodule_search_locations  # type: ignore[union-attr]
        package = types.ModuleType("silero_vad")
        package.__path__ = list(folder or [])
        sys.modules["silero_vad"] = package
    from silero_vad.sequence_vad import SileroVADSequence

    data = Path(sys.modules["silero_vad"].__path__[0]) / "data"
    model = SileroVADSequence(str(data / "silero_vad_16k_sequence.onnx"), max_frames=40)
    return model.audio_forward(audio).tolist()


def hear_speech_by_steps() -> list[Any]:
    """The same with the streaming model, which needs PyTorch for its tensors."""
    import torch
    from silero_vad import get_speech_timestamps, load_silero_vad

    audio = torch.from_numpy(_sounds())
    model = load_silero_vad(onnx=True)
    probabilities = model.audio_forward(audio, sr=16000)[0].tolist()
    return [probabilities, get_speech_timestamps(audio, model, return_seconds=False)]


def _sounds() -> np.ndarray:
    """Seconds of sound at 16 kHz: vowels made of a pitch and three formants, between other things."""
    rng = np.random.default_rng(2)
    t = np.arange(16000) / 16000
    pieces = [np.zeros(8000), 0.02 * rng.standard_normal(8000)]
    for pitch, formants in ((120, (730, 1090, 2440)), (180, (270, 2290, 3010)), (140, (570, 840, 2410))):
        phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 3 * t))) / 16000
        voice = np.zeros_like(t)
        for harmonic in range(1, 30):
            gain = sum(np.exp(-(((harmonic * pitch - f) / 150.0) ** 2)) for f in formants)
            voice += (0.03 + gain) / harmonic**0.5 * np.sin(harmonic * phase)
        syllables = np.clip(np.sin(2 * np.pi * 4 * t), 0, 1) ** 0.5
        pieces.append(0.2 * voice / np.abs(voice).max() * syllables + 0.002 * rng.standard_normal(16000))
    pieces.append(0.1 * np.sin(2 * np.pi * 440 * t))
    return np.concatenate(pieces).astype(np.float32)


def detect_people() -> list[Any]:
    """Detections in drawn figures, one by one and as a batch, and the number of each."""
    import cv2
    from nudenet import NudeDetector

    detector = NudeDetector()
    pictures = [_figure(cv2, 400, 300, 1.0), _figure(cv2, 320, 320, 0.6), np.full((200, 260, 4), 90, np.uint8)]
    single = [detector.detect(picture) for picture in pictures]
    return [single, detector.detect_batch(pictures, batch_size=2)]


def _figure(cv2: Any, height: int, width: int, size: float) -> np.ndarray:
    """A face as simple as a child draws it: enough for the detector to hesitate."""
    picture = np.full((height, width, 4), (200, 190, 180, 255), np.uint8)
    skin, dark, red = (140, 170, 225, 255), (40, 40, 50, 255), (90, 80, 190, 255)
    x, y, r = width // 2, height // 2, int(110 * size)
    cv2.ellipse(picture, (x, y - r // 3), (r, int(1.25 * r)), 0, 0, 360, (40, 60, 90, 255), -1)
    cv2.rectangle(picture, (x - r // 3, y + r), (x + r // 3, height), skin, -1)
    cv2.ellipse(picture, (x, y), (int(0.8 * r), int(1.1 * r)), 0, 0, 360, skin, -1)
    for side in (-1, 1):
        cv2.ellipse(picture, (x + side * r // 3, y - r // 5), (r // 6, r // 12), 0, 0, 360, (250, 250, 250, 255), -1)
        cv2.circle(picture, (x + side * r // 3, y - r // 5), r // 14, dark, -1)
        cv2.ellipse(picture, (x + side * r // 3, y - r // 3), (r // 5, r // 12), 0, 180, 360, dark, max(2, r // 30))
    cv2.line(picture, (x, y - r // 10), (x - r // 12, y + r // 4), (110, 140, 200, 255), max(2, r // 30))
    cv2.ellipse(picture, (x, y + r // 2), (r // 3, r // 8), 0, 0, 360, red, -1)
    return cv2.GaussianBlur(picture, (0, 0), 2 * size + 0.5)


CLIENTS = {
    "ocr": read_pages,
    "file_types": name_file_types,
    "speech": hear_speech,
    "speech_by_steps": hear_speech_by_steps,
    "people": detect_people,
}

if __name__ == "__main__":
    answer = CLIENTS[sys.argv[1]]()
    import onnxruntime

    print(json.dumps({"onnxruntime": onnxruntime.__file__, "answer": answer}))
