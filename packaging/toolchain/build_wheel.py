"""Pack the tools that this machine's cache has built into a wheel: `python packaging/toolchain/build_wheel.py VERSION`.

Only what Go built here from the pinned modules goes in; what came from PATH or a download does not.
`MODELWORKS_DOWNLOADS=off modelworks laptop toolchain --build` builds it all. The same tools make the same bytes. The
script prints the lines of `wheel.txt` that pin the wheel.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import platform
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain import Tool, Toolchain
from modelworks.laptop.toolchain.wheel import MANIFEST, NAME, PACKAGE

# The executables link nothing, so that any libc will do.
PLATFORMS = {
    "x86_64": "manylinux2014_x86_64.manylinux_2_17_x86_64.musllinux_1_1_x86_64",
    "aarch64": "manylinux2014_aarch64.manylinux_2_17_aarch64.musllinux_1_1_aarch64",
}
EPOCH = (2020, 1, 1, 0, 0, 0)
DESCRIPTION = "The tools of modelworks' laptop cloud, built from pinned Go modules."


def main() -> None:
    """Write the wheel into `--out`, and print how to pin it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    chosen = parser.parse_args()
    wheel = build(Toolchain(), chosen.version, chosen.out)
    print(f"{NAME}=={chosen.version} \\")
    print(f"    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")


def build(tools: Toolchain, version: str, out: Path) -> Path:
    """Pack every tool of `tools` into a wheel in the folder `out`.

    Raises:
        ModelworksError: A tool was not built here, or the machine is none that a wheel is for.
    """
    platforms = PLATFORMS.get(platform.machine())
    if platforms is None:
        raise ModelworksError(f"there is no wheel for {platform.machine()}", fix=f"Build on {', '.join(PLATFORMS)}.")
    folders = {tool: _built(tools, tool) for tool in tools.tools.values()}
    tag, info = f"py3-none-{platforms}", f"{PACKAGE}-{version}.dist-info"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{PACKAGE}-{version}-{tag}.whl"
    unfinished = path.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        record = [_add(archive, name, content, mode) for name, content, mode in _contents(tools, folders, info, tag)]
        _add(archive, f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]).encode())
    unfinished.replace(path)
    return path


def _built(tools: Toolchain, tool: Tool) -> Path:
    """The folder of a tool that Go built here, whole."""
    state = next(state for state in tools.states() if state.name == tool.name)
    if state.source != "built":
        raise ModelworksError(
            f"{tool.name} is {state.state} (from {state.source}), and a wheel holds only what Go built",
            fix="Run `MODELWORKS_DOWNLOADS=off modelworks laptop toolchain --build` with a PATH without these tools.",
        )
    return tools.built(tool).parent


def _contents(tools: Toolchain, folders: dict[Tool, Path], info: str, tag: str) -> Iterator[tuple[str, bytes, int]]:
    """Every file of the wheel but its record: name, content and mode."""
    manifest = {}
    for tool, folder in {tool.program: (tool, folder) for tool, folder in folders.items()}.values():
        files = {}
        for path in _files(tool, folder):
            content, name = path.read_bytes(), path.relative_to(folder).as_posix()
            files[name] = hashlib.sha256(content).hexdigest()
            yield f"{PACKAGE}/{tool.program}/{name}", content, 0o755 if name == tool.program else 0o644
        manifest[tool.program] = {"version": tool.version, "key": tools.key(tool), "files": files}
    yield f"{PACKAGE}/__init__.py", f'"""{DESCRIPTION}"""\n'.encode(), 0o644
    yield f"{PACKAGE}/{MANIFEST}", json.dumps(manifest, indent=2).encode(), 0o644
    version = info.removeprefix(f"{PACKAGE}-").removesuffix(".dist-info")
    metadata = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\nSummary: {DESCRIPTION}\nLicense: Apache-2.0\n"
    yield f"{info}/METADATA", metadata.encode(), 0o644
    tags = "".join(f"Tag: py3-none-{each}\n" for each in tag.removeprefix("py3-none-").split("."))
    wheel = f"Wheel-Version: 1.0\nGenerator: modelworks\nRoot-Is-Purelib: false\n{tags}"
    yield f"{info}/WHEEL", wheel.encode(), 0o644


def _files(tool: Tool, folder: Path) -> Iterable[Path]:
    """The executable and what is kept beside it; not what modelworks writes there itself."""
    return [folder / tool.program, *sorted(folder.glob("*/*.yaml"))]


def _add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int = 0o644) -> str:
    """Write one file, and return its line of the record."""
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (0o100000 | mode) << 16
    archive.writestr(entry, content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


if __name__ == "__main__":
    main()
