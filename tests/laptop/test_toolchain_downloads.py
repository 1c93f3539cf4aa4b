"""Official downloads: what is taken, what is refused and what is built instead, against a server on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import socketserver
import ssl
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from modelworks.errors import ModelworksError
from modelworks.laptop import pki, toolchain
from modelworks.laptop.toolchain import golang, official, wheel
from modelworks.laptop.toolchain.official import Download
from modelworks.laptop.toolchain.progress import Step
from modelworks.laptop.toolchain.tools import Tool

PROGRAM = b"#!/bin/sh\necho hello v1.2.3\n"
TOOL = Tool("hello", "1.2.3", "hello", "example.com/hello", 5, "-X main.version=1.2.3")
PATIENT = 60.0
"""Seconds for hosts that do answer: a busy machine must not look like a silent one."""


class Files(BaseHTTPRequestHandler):
    """Answers with the server's `files`, and as a proxy for the host `official.test`."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, body: bytes | None) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path.removeprefix("http://official.test"))
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.promised.get(self.path, len(content))))
        self.end_headers()
        self.wfile.write(content if body is None else body)
        self.wfile.flush()
        self.server.goes_on.wait()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Files)
        self.files: dict[str, bytes] = {}
        self.promised: dict[str, int] = {}
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mirror that is asked instead of the hosts of the downloads."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(official.MIRROR, server.url)
        yield server
        server.shutdown()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The mirror is a host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv(official.MIRROR, url)
        yield url


def archive(members: dict[str, bytes], *odd: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for info in odd:
            file.addfile(info)
    return made.getvalue()


def download(content: bytes, arch: str = "amd64", **more) -> Download:
    url, digest = "https://official.test/hello", hashlib.sha256(content).hexdigest()
    return Download("hello", "1.2.3", arch, url, digest, **more)


@pytest.fixture
def told() -> list[Step]:
    return []


@pytest.fixture
def ensure(
    tmp_path: Path, told: list[Step], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, toolchain.Toolchain]]:
    """Gets `hello`; returns how, and with what. Building is replaced: it writes a program that says so."""
    module = tmp_path / "modules" / "hello"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module x\n\ngo 1.21\n")
    (module / "go.sum").write_text("")

    def build(order, report, stop) -> None:
        order.output.write_text(f"#!/bin/sh\necho built because {order.why!r}\n")
        order.output.chmod(0o755)

    monkeypatch.setattr(golang, "build", build)
    monkeypatch.setattr(golang, "find", lambda *_: Path("/go"))
    monkeypatch.setattr(wheel, "installed", lambda: None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    def run(
        *downloads: Download, patience: float = PATIENT, tools: Mapping[str, Tool] = MappingProxyType({"hello": TOOL})
    ) -> tuple[str, toolchain.Toolchain]:
        tools = toolchain.Toolchain(tmp_path / "cache", tmp_path / "modules", downloads, tools, patience=patience)
        tools.ensure(["hello"], told.append)
        return tools.states()[0].source, tools

    return run


def lines(told: list[Step], *what: str) -> list[str]:
    return [f"{step.tool}: {step.text}" for step in told if step.what in what and step.tool != "builds"]


def leftovers(tools: toolchain.Toolchain) -> list[str]:
    return [path.name for path in (tools.cache / "hello").rglob("*") if path.name.startswith(".")]


def test_the_pinned_executable_is_downloaded_and_found_again(server, ensure, told):
    server.files["/official.test/hello"] = PROGRAM
    source, tools = ensure(download(PROGRAM))
    assert source == "download"
    assert tools.states()[0].path.read_bytes() == PROGRAM
    assert lines(told, "ready")[-1].endswith("verified")
    server.asked.clear()
    ensure(download(PROGRAM))
    assert server.asked == []


def test_of_an_archive_the_expected_files_are_unpacked_and_no_other(server, ensure):
    content = archive(
        {"hello/hello": PROGRAM, "hello/hello-host": b"host", "hello/README": b"", "hello/docs/hello": b""}
    )
    server.files["/official.test/hello"] = content
    source, tools = ensure(download(content, folder="hello", members=["hello", "hello-*"]))
    assert source == "download"
    names = {path.name for path in tools.states()[0].path.parent.iterdir()}
    assert names == {"hello", "hello-host", "hello.json"}


def test_other_bytes_than_those_pinned_are_deleted_reported_and_built_instead(server, ensure, told):
    server.files["/official.test/hello"] = b"#!/bin/sh\necho evil\n"
    source, tools = ensure(download(PROGRAM))
    (alarm,) = lines(told, "alarm")
    assert f"expected sha256:{hashlib.sha256(PROGRAM).hexdigest()}" in alarm
    assert f"found sha256:{hashlib.sha256(server.files['/official.test/hello']).hexdigest()}" in alarm
    assert source == "built"
    assert leftovers(tools) == []


def test_a_file_that_ends_early_is_deleted_and_the_tool_is_built(server, ensure, told):
    server.files["/official.test/hello"] = PROGRAM[:-5]
    server.promised["/official.test/hello"] = len(PROGRAM)
    source, tools = ensure(download(PROGRAM))
    (note,) = lines(told, "note")
    assert "incomplete" in note or "without sending complete" in note
    assert source == "built"
    assert leftovers(tools) == []


def test_a_host_that_stops_in_the_middle_is_given_up(server, ensure, told, monkeypatch):
    monkeypatch.setattr(official, "_STALL", 0.2)
    content = archive({"hello/hello": PROGRAM})
    server.files["/official.test/hello"] = content[:-5]
    server.promised["/official.test/hello"] = len(content)
    monkeypatch.setattr(official, "silent_hosts", lambda *_: server.goes_on.clear() or [])
    source, tools = ensure(download(content, folder="hello", members=["hello"]))
    server.goes_on.set()
    assert source == "built"
    assert leftovers(tools) == []
    assert len(lines(told, "note")) == 1


def test_a_file_larger_than_any_of_the_tools_is_not_read_to_its_end(server, ensure, told, monkeypatch):
    monkeypatch.setattr(official, "_LARGEST", 10)
    server.files["/official.test/hello"] = PROGRAM
    assert ensure(download(PROGRAM))[0] == "built"
    assert "offers more than" in lines(told, "note")[0]


def test_a_file_that_is_absent_is_built_instead(server, ensure, told):
    assert ensure(download(PROGRAM))[0] == "built"
    (note,) = lines(told, "note")
    assert "answers 404" in note


def test_a_host_that_never_answers_is_named_in_one_line_and_the_tool_is_built(silent, ensure, told):
    assert ensure(download(PROGRAM), patience=0.2)[0] == "built"
    (note,) = lines(told, "note")
    assert note == f"downloads: {silent.removeprefix('http://')} cannot be reached, so hello will be built from source"


def test_a_host_that_refuses_connections_is_named_in_one_line(ensure, told, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv(official.MIRROR, f"http://127.0.0.1:{port}")
    assert ensure(download(PROGRAM))[0] == "built"
    assert lines(told, "note") == [f"downloads: 127.0.0.1:{port} cannot be reached, so hello will be built from source"]


def test_all_hosts_are_asked_at_once(monkeypatch):
    everyone = threading.Barrier(3, timeout=PATIENT)

    def answers(address: str, patience: float) -> bool:
        everyone.wait()  # one after the other would never pass
        return "b.test" in address

    monkeypatch.setattr(official, "_answers", answers)
    downloads = [Download("hello", "1", "amd64", f"https://{host}.test/x", "") for host in "abc"]
    assert official.silent_hosts(downloads, PATIENT) == ["a.test", "c.test"]


def test_downloads_go_through_the_proxy_of_the_environment(server, ensure, monkeypatch):
    monkeypatch.delenv(official.MIRROR)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.files["/hello"] = PROGRAM
    plain = Download("hello", "1.2.3", "amd64", "http://official.test/hello", hashlib.sha256(PROGRAM).hexdigest())
    assert ensure(plain)[0] == "download"
    assert set(server.asked) == {"http://official.test/hello"}


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that connects to the server's `reaches`, or to nothing; it notes what it is asked to connect to."""

    def handle(self) -> None:
        self.server.asked.append(self.rfile.readline().decode().split()[:2])
        while self.rfile.readline().strip():
            pass
        if self.server.reaches is None:
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(self.server.reaches) as there:
            back = threading.Thread(target=self._copy, args=(there, self.connection), daemon=True)
            back.start()
            self._copy(self.connection, there)
            back.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)


class Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.asked: list[list[str]] = []
        self.reaches: tuple[str, int] | None = None


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy that the environment names for https."""
    with Proxy() as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        yield proxy
        proxy.shutdown()


def test_https_goes_through_a_tunnel_of_the_proxy(server, proxy, ensure, tmp_path, monkeypatch):
    authority = pki.new_authority("test")
    pair = pki.issue(authority, "official.test", hosts=["official.test"])
    pair.write(tmp_path, "server")
    (tmp_path / "ca.pem").write_text(authority.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.delenv(official.MIRROR)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.files["/hello"] = PROGRAM
    proxy.reaches = server.server_address
    assert ensure(download(PROGRAM))[0] == "download"
    assert proxy.asked == [["CONNECT", "official.test:443"]] * 2


def test_a_proxy_that_reaches_nothing_means_building(proxy, ensure, told):
    assert ensure(download(PROGRAM))[0] == "built"
    assert proxy.asked == [["CONNECT", "official.test:443"]]
    assert lines(told, "note") == ["downloads: official.test cannot be reached, so hello will be built from source"]


def test_no_proxy_is_honoured(server, ensure, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.files["/official.test/hello"] = PROGRAM
    assert ensure(download(PROGRAM))[0] == "download"


def test_off_takes_no_download(ensure, told, monkeypatch):
    monkeypatch.setenv(official.MIRROR, "off")
    assert ensure(download(PROGRAM))[0] == "built"
    assert lines(told, "note") == []


def test_a_mirror_that_is_no_url_is_refused(ensure, monkeypatch):
    monkeypatch.setenv(official.MIRROR, "mirror.example")
    with pytest.raises(ModelworksError, match="MODELWORKS_DOWNLOADS must be the URL of a mirror, or `off`"):
        ensure(download(PROGRAM))


def test_a_download_for_another_architecture_is_not_taken(server, ensure):
    server.files["/official.test/hello"] = PROGRAM
    assert ensure(download(PROGRAM, arch="arm64"))[0] == "built"
    assert server.asked == []


def odd(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "strange"),
    [
        ({"hello/hello": PROGRAM, "../hello": b""}, []),
        ({"hello/hello": PROGRAM, "/tmp/hello": b""}, []),
        ({"hello/hello": PROGRAM, "hello/../../hello": b""}, []),
        ({"hello/hello": PROGRAM, "other/hello": b""}, []),
        ({"hello/hello": PROGRAM}, [odd("hello/hello-link", tarfile.SYMTYPE, "/etc/passwd")]),
        ({"hello/hello": PROGRAM}, [odd("hello/hello-link", tarfile.LNKTYPE, "hello/hello")]),
        ({"hello/hello": PROGRAM}, [odd("hello/hello-pipe", tarfile.FIFOTYPE)]),
        ({"hello/hello-host": b""}, []),
    ],
    ids=["above", "absolute", "climbing", "other folder", "symlink", "hard link", "pipe", "without the tool"],
)
def test_an_archive_of_another_shape_is_refused_whole(server, ensure, told, members, strange):
    content = archive(members, *strange)
    server.files["/official.test/hello"] = content
    source, tools = ensure(download(content, folder="hello", members=["hello", "hello-*"]))
    assert source == "built"
    assert len(lines(told, "note")) == 1
    assert leftovers(tools) == []


def test_what_is_no_archive_is_refused(server, ensure, told):
    server.files["/official.test/hello"] = PROGRAM
    assert ensure(download(PROGRAM, folder="hello", members=["hello"]))[0] == "built"
    assert "is not the archive it should be" in lines(told, "note")[0]


def test_every_pinned_download_is_of_a_pinned_version_and_there_for_both_architectures():
    pinned = official.pinned()
    assert {(each.tool, each.version) for each in pinned} == {
        (name, toolchain.TOOLS[name].version)
        for name in ("pulumi", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    }
    for tool in {each.tool for each in pinned}:
        assert sorted(each.arch for each in pinned if each.tool == tool) == ["amd64", "arm64"]


def test_every_pin_is_a_digest_of_its_own_and_an_address_with_version_and_architecture():
    pinned = official.pinned()
    assert len({each.sha256 for each in pinned}) == len(pinned)
    for each in pinned:
        assert len(bytes.fromhex(each.sha256)) == 32
        assert each.url.startswith("https://")
        assert f"v{each.version}" in each.url
        assert each.arch in each.url or (each.tool, each.arch) == ("pulumi", "amd64")
        assert not each.members or each.tool in each.members


def test_json_says_which_way_each_tool_was_taken(server, ensure):
    server.files["/official.test/hello"] = PROGRAM
    _, tools = ensure(download(PROGRAM))
    facts = tools.states()[0].facts()
    assert json.loads(json.dumps(facts))["from"] == "download"


ALONG = Tool("helper", "1.2.3", "hello", "example.com/helper", 5)


def test_what_comes_along_with_a_build_is_got_where_the_tool_is_built(server, ensure):
    tool = replace(TOOL, along=("helper",))
    _, tools = ensure(download(PROGRAM), tools={"hello": tool, "helper": ALONG})
    assert {state.name: state.source for state in tools.states()} == {"hello": "built", "helper": "built"}
    shutil.rmtree(tools.cache / "helper")
    assert set(tools.ensure(["hello"], lambda _: None)) == {"hello", "helper"}


def test_what_comes_along_with_a_build_is_not_missed_where_the_tool_was_downloaded(server, ensure):
    server.files["/official.test/hello"] = PROGRAM
    tool = replace(TOOL, along=("helper",))
    _, tools = ensure(download(PROGRAM), tools={"hello": tool, "helper": ALONG})
    assert [state.name for state in tools.states()] == ["hello"]


# -- While something else goes on -----------------------------------------------------------------------------------


class Slow:
    """A toolchain whose second tool is ready when the test says so, or never, until it is stopped."""

    def __init__(self, error: ModelworksError | None = None) -> None:
        self.second, self.error, self.stopped = threading.Event(), error, False

    def ensure(self, names, report, ready, stop) -> None:
        ready("etcd", Path("/etcd"))
        if self.error is not None:
            raise self.error
        while not self.second.wait(0.01):
            if stop.is_set():
                self.stopped = True
                raise golang.Stopped
        ready("caddy", Path("/caddy"))


def test_who_needs_some_tools_does_not_wait_for_the_others(told):
    slow = Slow()
    with toolchain.obtaining(slow, ["etcd", "caddy"], told.append) as tools:
        assert tools.wait(["etcd"]) == {"etcd": Path("/etcd")}
        slow.second.set()
        assert tools.wait_for_all() == {"etcd": Path("/etcd"), "caddy": Path("/caddy")}
    assert not slow.stopped


def test_leaving_early_stops_what_still_goes_on(told):
    slow = Slow()
    with toolchain.obtaining(slow, ["etcd", "caddy"], told.append) as tools:
        tools.wait(["etcd"])
    assert slow.stopped


def test_a_tool_that_cannot_be_had_fails_everyone_who_waits(told):
    slow = Slow(ModelworksError("caddy cannot be built"))
    with toolchain.obtaining(slow, ["etcd", "caddy"], told.append) as tools:
        with pytest.raises(ModelworksError, match="caddy cannot be built"):
            tools.wait(["caddy"])
        with pytest.raises(ModelworksError, match="caddy cannot be built"):
            tools.wait_for_all()


PLUGIN = replace(TOOL, irreplaceable="it is a plugin", plugin="greeting")
ENGINE = Tool("pulumi", "3.0.0", "hello", "example.com/pulumi", 5, ask=("version",), same=1)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ensure) -> Callable[[str], None]:
    """Puts an engine on PATH, whose `pulumi plugin install` is a script."""
    folder = tmp_path / "engine"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def install(script: str) -> None:
        path = folder / "pulumi"
        path.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo v3.1.0 && exit\n{script}\n')
        path.chmod(0o755)

    return install


INSTALLS = """
folder="$PULUMI_HOME/plugins/resource-greeting-v1.2.3"
mkdir -p "$folder"
echo "$@" > "$folder/hello"
chmod +x "$folder/hello"
"""


def test_the_engine_downloads_a_plugin_from_the_mirror_and_it_is_found_again(server, ensure, told, engine):
    engine(INSTALLS)
    tools = {"hello": PLUGIN, "pulumi": ENGINE}
    source, cache = ensure(tools=tools)
    assert source == "download"
    arguments = f"plugin install resource greeting 1.2.3 --server {server.url}/get.pulumi.com/releases/plugins\n"
    assert cache.states()[0].path.read_text() == arguments
    assert leftovers(cache) == []
    engine("exit 1")
    told.clear()
    assert ensure(tools=tools)[0] == "download"
    assert lines(told, "ready") == ["hello: cached"]


def test_a_plugin_that_the_engine_cannot_download_is_built(server, ensure, told, engine):
    engine("echo error: no such plugin >&2; exit 1")
    source, cache = ensure(tools={"hello": PLUGIN, "pulumi": ENGINE})
    assert source == "built"
    reason = "the engine cannot download the plugin: error: no such plugin"
    assert lines(told, "note") == [f"hello: {reason}; it is built from source"]
    assert reason in cache.states()[0].path.read_text()
    assert leftovers(cache) == []


def test_a_plugin_whose_host_does_not_answer_is_built_and_no_engine_is_started(silent, ensure, told):
    assert ensure(tools={"hello": PLUGIN}, patience=0.2)[0] == "built"
    host = silent.removeprefix("http://")
    assert lines(told, "note") == [f"downloads: {host} cannot be reached, so hello will be built from source"]


def test_a_plugin_is_built_where_downloads_are_off(ensure, monkeypatch):
    monkeypatch.setenv(official.MIRROR, "off")
    assert ensure(tools={"hello": PLUGIN})[0] == "built"
