"""Check the wheel where it and what it requires are installed, and nothing else: `make wheel` runs this there."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import modelworks


def main() -> None:
    """Fail with what the wheel installs beside the package, or with what does not load of its names and its command."""
    installed = importlib.metadata.files("modelworks") or []
    strangers = [
        str(path)
        for path in installed
        if path.parts[0] != "modelworks" and not path.parts[0].endswith(".dist-info") and path.name != "modelworks"
    ]
    if strangers or not installed:
        sys.exit(f"the wheel installs more than the package modelworks: {strangers}" if strangers else "no files")
    for name in modelworks.__all__:
        getattr(modelworks, name)
    command = [sys.executable, "-I", "-c", "from modelworks.cli import main; main()", "laptop", "up", "--help"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    version = importlib.metadata.version("modelworks")
    print(f"modelworks {version}: {len(installed)} files, {len(modelworks.__all__)} public names")


if __name__ == "__main__":
    main()
