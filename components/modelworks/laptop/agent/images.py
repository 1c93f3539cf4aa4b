"""Images of a project: the packages that `images/NAME/uv.lock` locks, in an environment that is made once.

No image is pulled on a laptop. Where a project has a folder with the name of an image, containers of the image find the
packages of the folder's lock and no others, as they do on a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelworks._files import write_json
from modelworks.laptop.state_dir import StateDir, read_facts

FOLDER = "images"
"""The folder of a project that has one folder an image."""
LONGEST_SECONDS = 1800.0
"""How long uv may take for one environment."""
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 300.0
"""Seconds until an environment that could not be made is tried again: the kubelet's, doubling. A changed lock is tried
at once."""

# A component of a repository's name, by the grammar of https://github.com/distribution/reference.
_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_UNREACHABLE = re.compile(
    r"failed to fetch|error sending request|could not connect|dns error|timed out|http status", re.IGNORECASE
)
# How uv begins what failed, and under it why; older ones draw a tree.
_SAID = re.compile(r"\s*(error:|cause:|\u00d7|├─▶|╰─▶)")
# Variables with these beginnings reach uv: where packages come from. Not among them are those that name an environment.
_SETTINGS = (
    "UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX", "UV_FIND_LINKS", "UV_NO_INDEX", "UV_OFFLINE", "UV_HTTP",
    "UV_INSECURE", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_KEYRING", "UV_CACHE_DIR", "UV_CONFIG_FILE", "UV_LINK_MODE",
    "UV_PYTHON_INSTALL", "UV_PYTHON_DOWNLOADS", "UV_PYTHON_PREFERENCE", "SSL_CERT", "NETRC",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
)  # fmt: skip


class PullError(Exception):
    """The environment of an image cannot be made; the message has the file and the fix."""


@dataclass(frozen=True)
class Image:
    """An image with a folder in a project."""

    reference: str
    """As a container names it."""
    folder: Path

    @classmethod
    def of(cls, reference: str, project: Path | None) -> Image | None:
        """The image of that reference; None where the project has no Python project in a folder of its name."""
        name = name_of(reference)
        if project is None or not _NAME.fullmatch(name):
            return None
        image = cls(reference, project / FOLDER / name)
        return image if image.lock.is_file() or image.pyproject.is_file() else None

    @property
    def lock(self) -> Path:
        """Its locked packages."""
        return self.folder / "uv.lock"

    @property
    def pyproject(self) -> Path:
        """The requirements that the lock was made of."""
        return self.folder / "pyproject.toml"

    def digest(self) -> str:
        """Names the content of the lock, and of what uv reads beside it.

        Raises:
            PullError: A file is not there, or cannot be read.
        """
        digest = hashlib.sha256()
        for path in (self.lock, self.pyproject, self.folder / ".python-version"):
            try:
                content = path.read_bytes()
            except FileNotFoundError as error:
                if path.name == ".python-version":
                    continue
                fix = f"run `uv lock` in {self.folder}" if path == self.lock else f"write it, or remove {self.lock}"
                raise PullError(f"{path} is not there: {fix}") from error
            except OSError as error:
                raise PullError(f"{path} cannot be read: {error.strerror}") from error
            digest.update(len(content).to_bytes(8, "big") + content)
        return digest.hexdigest()

    def packages(self) -> int:
        """How many packages the lock has, for all platforms together.

        Raises:
            PullError: It is not a lock.
        """
        try:
            return len(tomllib.loads(self.lock.read_text("utf-8")).get("package", []))
        except ValueError as error:
            raise PullError(f"{self.lock} is not a lock of uv: {error}; run `uv lock` in {self.folder}") from error


def name_of(reference: str) -> str:
    """The last part of an image's name, without tag and digest."""
    return re.sub(r":[^:/]*$", "", reference.partition("@")[0]).rpartition("/")[2]


def lock_of_build(reference: str, project: Path | None) -> Path | None:
    """The lock by which a project builds an image of that name with a Dockerfile alone; None if it builds none."""
    if project is None or not (project / FOLDER / name_of(reference) / "Dockerfile").is_file():
        return None
    lock = project / "uv.lock"
    return lock if lock.is_file() else None


@dataclass
class _Failure:
    digest: str
    error: PullError
    pause: float
    until: float


Tell = Callable[[str, str], None]
"""Called with the reason and the message of an event."""


class Images:
    """The environments of one laptop cloud.

    Each has its final path from the start, for a virtual environment cannot be moved. A link of the lock's digest leads
    to it once it is complete, so one that was half made when its maker was killed is never found.

    Args:
        place: Whose; the environments are in its folder of the node.
    """

    def __init__(self, place: StateDir) -> None:
        self._place = place
        self._folder = place.node / FOLDER
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._making: set[Path] = set()
        self._failures: dict[str, _Failure] = {}

    async def environment(self, image: Image, tell: Tell) -> Path:
        """The environment with the packages that the image's lock has now; made if it is not there.

        Raises:
            PullError: It cannot be made.
        """
        name = f"{image.folder.name}-{hashlib.sha256(os.fsencode(image.folder)).hexdigest()[:8]}"
        async with self._locks[name]:
            digest = image.digest()
            link = self._folder / f"{name}-{digest[:16]}"
            if link.exists() and await self._matches(image, link.resolve()):
                tell("Pulled", f'Environment of image "{image.reference}" already present on machine')
                return link.resolve()
            before = self._failures.get(name)
            if before and before.digest == digest and time.monotonic() < before.until:
                raise before.error
            made = self._made / f"{image.folder.name}-{secrets.token_hex(6)}"
            self._making.add(made)
            try:
                await self._make(image, digest, made, tell)
                self._publish(name, link, made)
            except PullError as error:
                pause = min(before.pause * 2, LONGEST_PAUSE) if before and before.digest == digest else FIRST_PAUSE
                self._failures[name] = _Failure(digest, error, pause, time.monotonic() + pause)
                raise
            finally:
                self._making.discard(made)
            self._failures.pop(name, None)
            return made

    async def sweep(self, used: Callable[[], set[Path]]) -> None:
        """Remove the environments that are neither used nor of an image's newest lock, and those that are half made."""
        for folder in list(self._made.iterdir()) if self._made.exists() else ():
            # Asked anew each time, for removing takes a while.
            if folder not in {link.resolve() for link in self._links("*")} | used() | self._making:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    @property
    def _made(self) -> Path:
        return self._folder / "made"

    def _links(self, pattern: str) -> Iterable[Path]:
        return [path for path in self._folder.glob(pattern) if path.is_symlink()]

    def _publish(self, name: str, link: Path, made: Path) -> None:
        """Lead the digest to the environment, at once, and those of earlier locks nowhere."""
        fresh = self._folder / f".{link.name}.{secrets.token_hex(4)}"
        fresh.symlink_to(made)
        fresh.replace(link)
        for other in (*self._links(f"{name}-*"), *self._links(f".{name}-*")):
            if other != link:
                other.unlink()

    async def _matches(self, image: Image, environment: Path) -> bool:
        """Whether an environment still has just what is locked: a program that runs in it may have changed it."""
        return await self._uv(image, environment, "--check") == 0

    async def _make(self, image: Image, digest: str, made: Path, tell: Tell) -> None:
        began, count = time.monotonic(), image.packages()
        self._place.folder(self._made)
        tell(
            "Pulling",
            f'Pulling image "{image.reference}": installing what {image.lock} locks for this machine, of {count} '
            f"packages; progress in {self._log(image)}",
        )
        if await self._uv(image, made, "--compile-bytecode") != 0:
            raise PullError(self._explained(image))
        if image.digest() != digest:
            raise PullError(f"{image.lock} changed while its packages were installed")
        tell("Pulled", f'Successfully pulled image "{image.reference}" in {time.monotonic() - began:.1f}s: {made}')

    async def _uv(self, image: Image, environment: Path, option: str) -> int:
        """Run `uv sync` for an environment; returns its exit code, and leaves what it wrote in the log.

        Raises:
            PullError: There is no uv, or it takes too long.
        """
        facts = read_facts(settings_path(self._place))
        if not facts.get("uv"):
            raise PullError(
                f"{image.lock} needs uv, which was not found: install it (https://docs.astral.sh/uv/) where PATH leads "
                "to, and run `modelworks laptop up` again"
            )
        argv = [facts["uv"], "sync", "--frozen", "--no-dev", "--no-progress", option, "--project", str(image.folder)]
        variables = {**os.environ, **facts["variables"], "UV_PROJECT_ENVIRONMENT": str(environment)}
        # A log of the check would overwrite that of the installation.
        target = self._log(image) if option != "--check" else Path(os.devnull)
        with target.open("wb") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    cwd=image.folder,
                    env=variables,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise PullError(f"{facts['uv']} cannot be started: {error.strerror}") from error
        try:
            return await asyncio.wait_for(process.wait(), LONGEST_SECONDS)
        except TimeoutError as error:
            raise PullError(f"uv took longer than {LONGEST_SECONDS:.0f} s for {image.lock}") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _explained(self, image: Image) -> str:
        lines = self._log(image).read_text("utf-8", "replace").splitlines()
        said: list[str] = []
        for line in lines:
            if _SAID.match(line):
                said.append(" ".join(line.split()))
            elif said and line.startswith(" "):  # uv folds long lines, as before a path
                said[-1] += " " + line.strip()
        why = "; ".join(said) or (lines[-1] if lines else "it wrote nothing")
        fix = (
            "uv has the proxies and indexes of the shell that ran `modelworks laptop up` last"
            if _UNREACHABLE.search(why)
            else f"`uv sync --frozen` in {image.folder} fails in the same way"
        )
        return f"{image.lock} cannot be installed: {why[:500]} ({fix}; log: {self._log(image)})"

    def _log(self, image: Image) -> Path:
        return self._place.logs / f"image-{image.folder.name}.log"


def settings_path(place: StateDir) -> Path:
    """Where `keep_settings` writes. URLs of indexes may hold passwords: it is private to the user."""
    return place.run / "uv.json"


def keep_settings(place: StateDir, uv: str | None, variables: Mapping[str, str]) -> None:
    """Keep what making environments needs of the shell that brings a laptop cloud up.

    Args:
        place: The laptop cloud.
        uv: The program; None if there is none.
        variables: Those of the shell.
    """
    chosen = {name: value for name, value in variables.items() if name.startswith(_SETTINGS)}
    write_json(settings_path(place), {"uv": uv, "variables": chosen})
