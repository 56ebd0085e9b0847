"""Make the tabular models of the benchmark: a random forest and perceptrons, trained by scikit-learn, as ONNX files.

python benchmarks/tabular.py FOLDER

forest: 500 trees of depth 10 on 40 features. mlp_*: three layers. They are trained on random data with a fixed seed:
what they predict does not matter here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

FEATURES = 40
ROWS = 4000
LAYERS = {"mlp_64": (64, 64), "mlp_256": (256, 256)}


def make(folder: Path) -> list[Path]:
    """Write the models that are missing; returns all their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.onnx" for name in ("forest", *LAYERS)]
    if not all(path.exists() for path in paths):
        _train(folder)
    return paths


def _train(folder: Path) -> None:
    import warnings

    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.neural_network import MLPRegressor

    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, FEATURES)).astype(np.float32)
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.standard_normal(ROWS)
    models = {"forest": RandomForestRegressor(500, max_depth=10, n_jobs=-1, random_state=0)}
    models |= {n: MLPRegressor(hidden_layer_sizes=sizes, max_iter=5, random_state=0) for n, sizes in LAYERS.items()}
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # five rounds of training do not converge
            model.fit(x, y)
            kinds = [("x", FloatTensorType([None, FEATURES]))]
            proto = convert_sklearn(model, name=name, initial_types=kinds, target_opset={"": 17, "ai.onnx.ml": 3})
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())


if __name__ == "__main__":
    for made in make(Path(sys.argv[1])):
        print(made)
