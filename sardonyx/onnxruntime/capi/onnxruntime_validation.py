"""Facts about the package, as programs that print versions ask for them."""

from sardonyx.onnxruntime._process import __version__


def get_package_name_and_version_info() -> tuple[str, str, str]:
    """Name of the package, its version, and the version of CUDA (none)."""
    return "onnxruntime", __version__, ""


def check_distro_info() -> None:
    """Nothing to check: compiled code links to nothing of the system."""
