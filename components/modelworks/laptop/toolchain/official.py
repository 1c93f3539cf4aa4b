"""Official executables: downloaded where their hosts answer, and unpacked only if they are the pinned bytes.

`downloads.json` names address and SHA-256 digest of each, for both architectures. Nothing that is downloaded is run to
install it: a bare executable is put in place, and of an archive only the expected files are unpacked.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import os
import queue
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain.tools import Tampered, Unavailable

MIRROR: Final = "MODELWORKS_DOWNLOADS"
"""Variable with the base URL of a mirror, which has each file under `HOST/PATH` of its address; `off` takes none."""

PATIENCE: Final = 3.0
"""Seconds in which a host has to answer. One that does not is left alone: building costs less than waiting for it."""

_STALL: Final = 30.0
"""Seconds without a byte after which a download has failed."""

_BOUND: Final = 900.0
"""Seconds for one download: at less than a megabit a second, building is faster."""

_LARGEST: Final = 1 << 30
"""Bytes; the largest of the pinned files has about 150 MB."""

_PIECE: Final = 1 << 20


@dataclass(frozen=True)
class Download:
    """One official file for one architecture."""

    tool: str
    version: str
    arch: str
    """As Go spells it: `amd64` or `arm64`."""
    url: str
    sha256: str
    """Of the file as it is downloaded, in hex."""
    folder: str = ""
    """Of an archive: the folder in it that holds everything. Empty: the file is the executable itself."""
    members: Sequence[str] = ()
    """Of an archive: patterns of the files in `folder` that are unpacked."""

    @property
    def address(self) -> str:
        """Where it is downloaded from: its own host, or the mirror that the user names."""
        mirror = os.environ.get(MIRROR, "")
        if not mirror:
            return self.url
        if urlsplit(mirror).scheme not in {"http", "https"}:
            raise ModelworksError(
                f"{MIRROR} must be the URL of a mirror, or `off`, got {mirror!r}",
                fix=f"Set it to http(s)://…, or run `unset {MIRROR}`.",
            )
        return f"{mirror.rstrip('/')}/{self.url.removeprefix('https://')}"

    @property
    def host(self) -> str:
        """The host that has to answer."""
        return urlsplit(self.address).netloc


def switched_off() -> bool:
    """Whether the user wants no downloads."""
    return os.environ.get(MIRROR) == "off"


def pinned() -> tuple[Download, ...]:
    """Every download whose digest the repository pins."""
    text = Path(__file__).with_name("downloads.json").read_text(encoding="utf-8")
    return tuple(Download(**facts) for facts in json.loads(text))


def silent_hosts(downloads: Iterable[Download], patience: float = PATIENCE) -> list[str]:
    """Hosts of `downloads` that do not answer within `patience` seconds. All are tried at once."""
    hosts = {download.host: download.address for download in downloads}
    answers: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()

    def knock(host: str, address: str) -> None:
        answers.put((host, _answers(address, patience)))

    for of in hosts.items():
        # A daemon: a resolver that hangs holds the thread for longer than anybody wants to wait.
        threading.Thread(target=knock, args=of, daemon=True).start()
    deadline, silent = time.monotonic() + patience, dict.fromkeys(hosts)
    for _ in hosts:
        try:
            host, answered = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if answered:
            del silent[host]
    return list(silent)


def _answers(address: str, patience: float) -> bool:
    import httpx  # the components go without the extra `laptop`

    try:
        # A refusal is an answer too; a proxy that reaches nothing says so with a 5xx.
        return not httpx.head(address, timeout=patience).is_server_error
    except httpx.HTTPError:
        return False


def fetch(download: Download, into: Path, goes_on: Callable[[], None], patience: float = PATIENCE) -> None:
    """Download the file, verify it, and put its executables into the folder `into`.

    Args:
        download: The pinned file.
        into: A folder that is there; the executables are put into it under their own names.
        goes_on: Called for every piece; an exception in it ends the download.
        patience: Seconds in which the host has to answer.

    Raises:
        Unavailable: The host does not have it or does not deliver it whole, or its archive has another shape.
        Tampered: It is not the pinned file. Nothing was unpacked.
    """
    part = into / ".part"
    try:
        found = _stream(download, part, goes_on, patience)
        if found != download.sha256:
            raise Tampered(
                f"{download.address} delivered other bytes than were pinned: "
                f"expected sha256:{download.sha256}, found sha256:{found}"
            )
        if not download.folder:
            part.chmod(0o755)
            part.replace(into / download.tool)
        else:
            _unpack(download, part, into)
    finally:
        part.unlink(missing_ok=True)


def _stream(download: Download, part: Path, goes_on: Callable[[], None], patience: float) -> str:
    """Write the answer to `part` and return its digest. A file that ends early is no answer."""
    import httpx

    digest, size, deadline = hashlib.sha256(), 0, time.monotonic() + _BOUND
    timeout = httpx.Timeout(_STALL, connect=patience)
    headers = {"Accept-Encoding": "identity"}  # the digest is that of the file, not of what a server makes of it
    try:
        with (
            httpx.stream("GET", download.address, headers=headers, timeout=timeout, follow_redirects=True) as answer,
            part.open("wb") as file,
        ):
            if answer.status_code != httpx.codes.OK:
                raise Unavailable(f"{download.host} answers {answer.status_code} for {download.address}")
            _refuse_too_large(download, int(answer.headers.get("Content-Length", 0)))
            for piece in answer.iter_raw():
                goes_on()
                size += len(piece)
                _refuse_too_large(download, size)
                if time.monotonic() > deadline:
                    raise Unavailable(f"{download.host} delivered {size} bytes in {_BOUND:.0f} s, which is too slow")
                digest.update(piece)
                file.write(piece)
    except httpx.HTTPError as error:
        raise Unavailable(f"{download.host} failed after {size} bytes: {error or type(error).__name__}") from error
    return digest.hexdigest()


def _refuse_too_large(download: Download, size: int) -> None:
    if size > _LARGEST:
        raise Unavailable(f"{download.host} offers more than {_LARGEST >> 20} MiB for {download.address}")


def _unpack(download: Download, archive: Path, into: Path) -> None:
    """Write the expected members, each under its plain name: no path of the archive is ever followed.

    Raises:
        Unavailable: It holds a link, a device, a file outside of its folder, or lacks the tool.
    """
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                name = _plain_name(download, member)
                if not any(fnmatch.fnmatchcase(name, pattern) for pattern in download.members):
                    continue
                content = members.extractfile(member)
                if content is None:
                    raise Unavailable(f"{download.url}: {member.name} is no file")
                with (into / name).open("xb") as file:
                    while piece := content.read(_PIECE):
                        file.write(piece)
                (into / name).chmod(0o755)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, FileExistsError) as error:
        raise Unavailable(f"{download.url} is not the archive it should be: {error}") from error
    if not (into / download.tool).is_file():
        raise Unavailable(f"{download.url} holds no {download.tool}")


def _plain_name(download: Download, member: tarfile.TarInfo) -> str:
    """The name of a file that lies directly in the archive's folder; empty for what lies deeper, or is the folder."""
    path = PurePosixPath(member.name)
    if not (member.isfile() or member.isdir()):
        raise Unavailable(f"{download.url} holds {member.name}, which is neither a file nor a folder")
    if path.is_absolute() or ".." in path.parts or path.parts[:1] != (download.folder,):
        raise Unavailable(f"{download.url} holds {member.name}, which is outside of {download.folder}/")
    return path.name if len(path.parts) == 2 and member.isfile() else ""
