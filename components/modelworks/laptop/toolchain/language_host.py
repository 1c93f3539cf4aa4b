#!/usr/bin/env python3
# ruff: noqa: EXE001 (it is data here; the copy beside `pulumi` is executable)
"""Runs Python programs for a `pulumi` that came without its own Python host.

The engine starts this file under the name `pulumi-language-python`, with the address of its own service as the last
argument, and reads the port of a `LanguageRuntime` service from the first line of stdout. It stands alone: it is
copied beside the built `pulumi`, is used by any project on this machine, and needs nothing but the `pulumi` package of
the Python that the project's programs run with.

Which Python that is, the first that applies: `runtime.options.virtualenv` of the project file, the activated
environment (`VIRTUAL_ENV`), `python3` of PATH. Where that is another than the one running this, it starts itself again
in it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

_CHOSEN = "MODELWORKS_LANGUAGE_HOST_PYTHON"


def _project_file() -> Path | None:
    here = Path.cwd()
    for folder in (here, *here.parents):
        for name in ("Pulumi.yaml", "Pulumi.yml", "PulumiPolicy.yaml", "PulumiPlugin.yaml"):
            if (folder / name).is_file():
                return folder / name
    return None


def _python_for(root: Path | None, virtualenv: str | None) -> str | None:
    """The interpreter of the project's programs, or None where PATH has none."""
    folders = []
    if virtualenv:
        folders.append((root or Path.cwd()) / virtualenv)
    elif os.environ.get("VIRTUAL_ENV"):
        folders.append(Path(os.environ["VIRTUAL_ENV"]))
    for folder in folders:
        if (folder / "bin" / "python").exists():
            return str(folder / "bin" / "python")
    return shutil.which("python3") or shutil.which("python")


def _start_in_the_right_python() -> None:
    if os.environ.pop(_CHOSEN, None) == "1":
        return
    project = _project_file()
    virtualenv = None
    if project is not None:
        # No YAML parser before the right Python is found; both the block and the flow style look like this.
        found = re.search(r"\bvirtualenv:\s*[\"']?([^\s\"',}#]+)", project.read_text(encoding="utf-8"))
        virtualenv = found.group(1) if found else None
    python = _python_for(project.parent if project else None, virtualenv)
    if python is not None and os.path.abspath(python) != os.path.abspath(sys.executable):  # noqa: PTH100 (links stay)
        os.environ[_CHOSEN] = "1"
        os.execv(python, [python, "-u", __file__, *sys.argv[1:]])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    _start_in_the_right_python()
    # The folder of this file is not the program's business.
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]

try:
    import asyncio
    import importlib.metadata
    import logging
    import queue
    import runpy
    import select
    import signal
    import subprocess
    import threading
    import time
    import traceback
    from concurrent.futures import Future, ThreadPoolExecutor
    from contextlib import suppress
    from typing import TYPE_CHECKING, Any

    import grpc
    import pulumi
    import pulumi.runtime
    from pulumi.automation._server import LanguageServer
    from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2
except ImportError as missing:
    sys.stderr.write(
        f"The Python of this project, {sys.executable}, cannot import Pulumi's SDK ({missing}).\n"
        "Install it there (`pip install pulumi`), activate another environment, or name one in Pulumi.yaml: "
        "runtime.options.virtualenv.\n"
    )
    sys.exit(1)

if TYPE_CHECKING:
    from collections.abc import Iterator

_MESSAGE_BYTES = 400 * 1024 * 1024  # what the engine itself allows
_GENERATOR = "pulumi-generate-python"
_GENERATE_BOUND = 120  # seconds; the schema of a large package takes ten
_GRACE = 5.0  # seconds a plugin gets between being asked and being made to end


class Host(LanguageServer):
    """The SDK's own language server, for programs that are files instead of functions, and for plugins."""

    def __init__(self, engine: str) -> None:
        super().__init__(lambda: None)
        self.engine = engine
        self.programs: queue.Queue[tuple[Any, Future[Any]] | None] = queue.Queue()
        self.plugins: set[subprocess.Popen[bytes]] = set()

    def Handshake(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        self.engine = request.engine_address or self.engine
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return plugin_pb2.PluginInfo(version=importlib.metadata.version("pulumi"))

    def GetProgramDependencies(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        installed = {(found.metadata["Name"], found.version) for found in importlib.metadata.distributions()}
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[
                language_pb2.DependencyInfo(name=name, version=version) for name, version in sorted(installed)
            ]
        )

    def GenerateProgram(self, request: Any, context: Any) -> Any:  # noqa: N802
        # Asked by `pulumi import` once all is imported; without this, "Method not implemented!" hides that it is.
        generator = shutil.which(_GENERATOR)
        if generator is None:
            return context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                f"the resources are imported, and code for them was not written: there is no {_GENERATOR} on PATH "
                "(`modelworks laptop up` builds it, and `modelworks env` puts it there). Declare them yourself "
                "(`pulumi stack export` has their inputs; `pulumi preview` must show no change), or import with "
                "--generate-code=false.",
            )
        answer = subprocess.run(
            [generator], input=request.SerializeToString(), capture_output=True, timeout=_GENERATE_BOUND, check=False
        )
        if answer.returncode:
            said = answer.stderr.decode(errors="replace").strip()
            context.abort(
                grpc.StatusCode.INTERNAL, f"the resources are imported, and code for them could not be written: {said}"
            )
        return language_pb2.GenerateProgramResponse.FromString(answer.stdout)

    def Run(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        # The program gets the main thread, as it would have it in a process of its own (signals, asyncio).
        answer: Future[Any] = Future()
        self.programs.put((request, answer))
        return answer.result()

    def RunPlugin(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """A policy pack or a provider in Python: its output as it comes, then its exit code."""
        info = request.info
        virtualenv = dict(info.options).get("virtualenv")
        python = _python_for(Path(info.root_directory), virtualenv) if virtualenv else sys.executable
        if request.kind == "analyzer":
            argv = [python, "-u", "-m", "pulumi.policy", *request.args, info.program_directory]
        else:
            argv = [python, "-u", info.program_directory, *request.args]
        environment = dict(entry.split("=", 1) for entry in request.env) or dict(os.environ)
        process = subprocess.Popen(
            argv,
            cwd=request.pwd or None,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.plugins.add(process)
        context.add_callback(lambda: _end(process))
        output: queue.Queue[Any] = queue.Queue()
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            threading.Thread(target=_pump, args=(name, stream, output), daemon=True).start()
        still = 2
        while still:
            piece = output.get()
            if piece is None:
                still -= 1
            else:
                yield piece
        yield language_pb2.RunPluginResponse(exitcode=process.wait())
        self.plugins.discard(process)

    def Cancel(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        from google.protobuf import empty_pb2

        for process in list(self.plugins):
            _end(process)
        return empty_pb2.Empty()

    def leave(self, code: int) -> None:
        """End this process and its plugins at once and without a word."""
        for process in list(self.plugins):
            with suppress(OSError):
                process.kill()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody may be left to read it
                stream.flush()
        os._exit(code)


def _pump(name: str, stream: Any, output: queue.Queue[Any]) -> None:
    while piece := stream.read1(65536):
        output.put(language_pb2.RunPluginResponse(**{name: piece}))
    output.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def _run(request: Any, engine: str) -> Any:
    """Run one program to its end, as the engine's own host would."""
    _configure(request, engine)
    os.chdir(request.pwd or request.info.program_directory)
    entry = request.info.entry_point or request.program or "."
    program = Path(request.info.program_directory, entry).resolve()
    sys.argv = [str(program), *request.args]
    if program.is_dir() and not (program / "__main__.py").is_file():
        pulumi.log.error(f"unable to find main python program `__main__.py` in `{program}`")
        return language_pb2.RunResponse(bail=True)
    try:
        _evaluate(program, workers=4 * max(request.parallel, 1))
    except SystemExit as leaving:
        return _left(leaving.code)
    except Exception as error:  # noqa: BLE001 (whatever a program raises is the user's to read)
        return _failed(error, program)
    return language_pb2.RunResponse()


def _configure(request: Any, engine: str) -> None:
    pulumi.runtime.set_all_config(dict(request.config), list(request.configSecretKeys))
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            monitor=request.monitor_address,
            engine=engine,
            project=request.project,
            stack=request.stack,
            parallel=request.parallel,
            dry_run=request.dryRun,
            organization=request.organization or "organization",
            root_directory=request.info.root_directory,
        )
    )


def _evaluate(program: Path, *, workers: int) -> None:
    """Run a program in an event loop of its own, until all that it declares is registered."""
    # A failing program leaves tasks behind that nobody waits for; asyncio would complain about each.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(max_workers=workers)
    loop.set_default_executor(executor)

    def run() -> None:
        runpy.run_path(str(program), run_name="__main__")

    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(run))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                loop.run_until_complete(task)
        executor.shutdown(wait=False, cancel_futures=True)
        loop.close()
        sys.stdout.flush()
        sys.stderr.flush()


def _left(code: Any) -> Any:
    """The answer to a program that called `sys.exit(code)`."""
    if code in (None, 0):
        return language_pb2.RunResponse()
    if not isinstance(code, int):
        pulumi.log.error(str(code))
    return language_pb2.RunResponse(error=f"Program exited with non-zero exit code: {code}")


def _failed(error: Exception, program: Path) -> Any:
    """The answer to a program that raised `error`, which is logged."""
    if isinstance(error, pulumi.RunError):
        pulumi.log.error(str(error))
    # An engine that is shutting down prints the reason itself.
    elif not (isinstance(error, grpc.RpcError) and error.code() == grpc.StatusCode.UNAVAILABLE):
        pulumi.log.error("Program failed with an unhandled exception:\n" + _traceback_from(error, program))
    return language_pb2.RunResponse(bail=True)


def _traceback_from(error: Exception, program: Path) -> str:
    """The traceback of `error`, from the program's own first line on."""
    main = str(program / "__main__.py" if program.is_dir() else program)
    frames = traceback.extract_tb(error.__traceback__)
    first = next((index for index, frame in enumerate(frames) if Path(frame.filename) == Path(main)), 0)
    return "".join(traceback.format_exception(error, limit=first - len(frames)))


def _watch(host: Host) -> None:
    # An engine that was killed says nothing, but nobody reads the pipe of stdout any more. (The parent would be a worse
    # sign: who was orphaned before looking has another one.)
    pipe = select.poll()
    pipe.register(sys.stdout, 0)
    while not pipe.poll(0):
        time.sleep(0.5)
    host.leave(1)


def main() -> None:
    """Serve until the engine goes away."""
    host = Host(sys.argv[-1])
    # The engine gives each plugin a process group of its own, so a Ctrl-C of the terminal never comes here: this is the
    # engine saying that it is done, and it waits five seconds before it kills.
    signal.signal(signal.SIGINT, lambda *_: host.leave(0))
    signal.signal(signal.SIGTERM, lambda *_: host.leave(0))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    options = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=options)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    threading.Thread(target=_watch, args=(host,), daemon=True).start()
    print(port, flush=True)
    while (job := host.programs.get()) is not None:
        request, answer = job
        try:
            answer.set_result(_run(request, host.engine))
        except BaseException as error:  # noqa: BLE001 (the engine waits for an answer whatever happens here)
            answer.set_exception(error)


if __name__ == "__main__":
    main()
