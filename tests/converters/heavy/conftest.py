"""Files whose framework is not installed are not collected: each belongs to an environment of its own."""

import importlib.util

NEEDS = {
    "test_jax.py": "flax",
    "test_mxnet.py": "mxnet",
    "test_torch.py": "torch",
    "test_torch_sweeps.py": "torch",
    "test_transformers.py": "transformers",
}
collect_ignore = [file for file, package in NEEDS.items() if importlib.util.find_spec(package) is None]
