"""Real PyTorch models from packages, as functions that make them."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any


def stand_in(*names: str) -> None:
    """Empty modules in place of packages that only read sound files, so that the models beside them can be imported."""
    for name in names:
        module = types.ModuleType(name)
        module.__getattr__ = lambda attribute: None  # type: ignore[method-assign]
        sys.modules.setdefault(name, module)


def folder(package: str) -> Path:
    """Where a package lies, without importing it."""
    import importlib.util

    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def pnet() -> Any:
    from facenet_pytorch.models.mtcnn import PNet

    return PNet(pretrained=False)


def rnet() -> Any:
    from facenet_pytorch.models.mtcnn import RNet

    return RNet(pretrained=False)


def onet() -> Any:
    from facenet_pytorch.models.mtcnn import ONet

    return ONet(pretrained=False)


def crepe() -> Any:
    stand_in("torchaudio", "librosa", "resampy", "tqdm")
    from torchcrepe import Crepe

    return Crepe("tiny")


def voice_encoder() -> Any:
    """Its weights are part of a training checkpoint, which it reads by itself."""
    stand_in("librosa", "webrtcvad", "resemblyzer.audio")
    from resemblyzer.voice_encoder import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def efficientnet_lite0() -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")
