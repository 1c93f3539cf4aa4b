"""A Pulumi provider plugin: everything about the engine's protocol, and nothing about a cloud.

`Plugin` speaks gRPC with the engine and hands plain values (see `property_values`) to a `Provider`, one for each
connection: an engine opens one connection for each provider of a program (the default one and every explicit one) and
configures each only once. For the reasons to use the protocol and not `pulumi.provider.experimental`: see `docs/adr/`.
"""

# The protocol gives the servicer's methods their names, and arguments that not every method needs.
# ruff: noqa: N802, ARG002

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
    status_pb2,
)

from modelworks.errors import ModelworksError
from modelworks.laptop.providers.property_values import (
    Path,
    Secret,
    from_wire,
    keep_secret,
    parsed_path,
    path_text,
    revealed,
    to_wire,
    walk,
)
from modelworks.laptop.providers.provider import (
    Call,
    Change,
    Diff,
    Incomplete,
    InvalidInputs,
    Naming,
    Provider,
    ProviderError,
)

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_LARGEST_MESSAGE = 400 * 1024 * 1024  # what the engine itself allows
_CONNECTIONS = 256  # configurations kept; one engine run needs one for each provider of its program


@dataclass(eq=False)
class _Connection:
    """The state of one connection of one engine."""

    provider: Provider | None = None
    engine: engine_pb2_grpc.EngineStub | None = None
    program: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)


class Plugin(provider_pb2_grpc.ResourceProviderServicer):
    """Serves one provider package to engines.

    Args:
        name: Package name, as in `pulumi-resource-NAME`.
        version: Answer of `GetPluginInfo`: the version of the SDK that programs use.
        connect: Makes the provider of a connection from its checked configuration. Raises `ModelworksError` where the
            configuration does not fit.
        check_config: Checks a configuration, given the resource's name; raises `InvalidInputs`. Default: as given.
        replaces_provider: Configuration keys whose change replaces the provider, and so everything it manages.
        schema: The package's schema, for `pulumi import` to write code. May be costly: requested only when needed.
    """

    def __init__(
        self,
        name: str,
        version: str,
        connect: Callable[[dict[str, Any]], Provider],
        *,
        check_config: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        replaces_provider: Sequence[str] = (),
        schema: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._name = name
        self._version = version
        self._connect = connect
        self._check_config = check_config or (lambda values: values)
        self._replaces_provider = frozenset(replaces_provider)
        self._schema = schema or (lambda: {"name": name, "version": version})
        self._connections: OrderedDict[str, _Connection] = OrderedDict()
        self._lock = threading.Lock()

    def serve(self) -> tuple[grpc.Server, int]:
        """Start serving on loopback; the server and its port."""
        # Waiting for a workload holds a thread for minutes, and `--parallel` sets how many the engine starts at once.
        server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=64, thread_name_prefix=self._name),
            options=[
                ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
                ("grpc.max_send_message_length", _LARGEST_MESSAGE),
                ("grpc.so_reuseport", 0),
            ],
        )
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return server, port

    # ---- the connection

    def Handshake(
        self, request: provider_pb2.ProviderHandshakeRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ProviderHandshakeResponse:
        connection = self._connection(context)
        connection.program = request.program_directory if request.HasField("program_directory") else ""
        if request.engine_address:
            connection.engine = _engine(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(
            accept_secrets=True,
            accept_resources=False,
            accept_outputs=False,
            supports_autonaming_configuration=True,
        )

    def Attach(self, request: plugin_pb2.PluginAttach, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._connection(context).engine = _engine(request.address)
        return empty_pb2.Empty()

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

    def GetSchema(
        self, request: provider_pb2.GetSchemaRequest, context: grpc.ServicerContext
    ) -> provider_pb2.GetSchemaResponse:
        return provider_pb2.GetSchemaResponse(schema=json.dumps(self._schema()))

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._connection(context).cancelled.set()
        return empty_pb2.Empty()

    def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        return self._answered(context, request.urn, lambda: self._checked(request.news, self._check_config))

    def DiffConfig(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        old = from_wire(request.old_inputs if request.HasField("old_inputs") else request.olds)
        new = from_wire(request.news)
        changes: dict[Path, Change] = {
            (key,): Change("update", replaces=key in self._replaces_provider)
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and not key.startswith("__") and key != "version"
        }
        return _diff_response(Diff(changes))

    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        def answer() -> provider_pb2.ConfigureResponse:
            connection = self._connection(context)
            connection.cancelled.clear()
            connection.provider = self._connect(revealed(from_wire(request.args)))
            return provider_pb2.ConfigureResponse(
                acceptSecrets=True,
                supportsPreview=True,
                acceptResources=False,
                acceptOutputs=False,
                supports_autonaming_configuration=True,
            )

        return self._answered(context, "the configuration of the provider", answer)

    # ---- resources

    def Check(self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        options = request.autonaming if request.HasField("autonaming") else None
        modes = provider_pb2.CheckRequest.AutonamingOptions
        naming = Naming(
            name=request.name or _name(request.urn),
            seed=request.randomSeed,
            proposed=options.proposed_name if options else "",
            enforced=options is not None and options.mode == modes.ENFORCE,
            disabled=options is not None and options.mode == modes.DISABLE,
        )

        def answer() -> provider_pb2.CheckResponse:
            provider, call = self._called(context, request)
            old = revealed(from_wire(request.olds))
            return self._checked(request.news, lambda values: provider.check(call, old, values, naming))

        return self._answered(context, request.urn, answer)

    def Diff(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        def answer() -> provider_pb2.DiffResponse:
            provider, call = self._called(context, request)
            state, inputs = revealed(from_wire(request.olds)), revealed(from_wire(request.news))
            old = revealed(from_wire(request.old_inputs)) if request.HasField("old_inputs") else dict(state)
            # `ignoreChanges` needs nothing here: the engine puts the old inputs back before it asks.
            return _diff_response(provider.diff(call, request.id, old, state, inputs))

        return self._answered(context, request.urn, answer)

    def Create(self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        marked = from_wire(request.properties)

        def answer() -> provider_pb2.CreateResponse:
            provider, call = self._called(context, request)
            id_, state = provider.create(call, revealed(marked))
            return provider_pb2.CreateResponse(id=id_, properties=to_wire(_marked(state, marked)))

        return self._answered(context, request.urn, answer, marked)

    def Read(self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        inputs, state = from_wire(request.inputs), from_wire(request.properties)

        def answer() -> provider_pb2.ReadResponse:
            provider, call = self._called(context, request)
            found = provider.read(call, request.id, revealed(inputs), revealed(state))
            if found is None:
                return provider_pb2.ReadResponse()
            return provider_pb2.ReadResponse(
                id=found.id,
                properties=to_wire(_marked(keep_secret(dict(found.state), state), inputs)),
                inputs=to_wire(keep_secret(dict(found.inputs), inputs)),
            )

        return self._answered(context, request.urn, answer, inputs)

    def Update(self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        marked = from_wire(request.news)

        def answer() -> provider_pb2.UpdateResponse:
            provider, call = self._called(context, request)
            state = revealed(from_wire(request.olds))
            old = revealed(from_wire(request.old_inputs)) if request.HasField("old_inputs") else dict(state)
            new = provider.update(call, request.id, old, state, revealed(marked))
            return provider_pb2.UpdateResponse(properties=to_wire(_marked(new, marked)))

        return self._answered(context, request.urn, answer, marked)

    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        def answer() -> empty_pb2.Empty:
            provider, call = self._called(context, request)
            inputs, state = revealed(from_wire(request.old_inputs)), revealed(from_wire(request.properties))
            provider.delete(call, request.id, inputs, state)
            return empty_pb2.Empty()

        return self._answered(context, request.urn, answer)

    def Invoke(self, request: provider_pb2.InvokeRequest, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        def answer() -> provider_pb2.InvokeResponse:
            provider, call = self._called(context, request)
            try:
                result = provider.invoke(call, revealed(from_wire(request.args)))
            except InvalidInputs as error:
                return provider_pb2.InvokeResponse(failures=_failures(error))
            return provider_pb2.InvokeResponse(**{"return": to_wire(result)})

        return self._answered(context, request.tok, answer)

    def Construct(
        self, request: provider_pb2.ConstructRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConstructResponse:
        def answer() -> provider_pb2.ConstructResponse:
            connection = self._connection(context)
            if connection.provider:
                connection.provider.construct(request.type)
            raise ProviderError(f"the laptop's {self._name} provider builds no {request.type}")

        return self._answered(context, request.name, answer)

    # ---- shared by the methods above

    def _connection(self, context: grpc.ServicerContext) -> _Connection:
        peer = context.peer()
        with self._lock:
            connection = self._connections.setdefault(peer, _Connection())
            self._connections.move_to_end(peer)
            while len(self._connections) > _CONNECTIONS:
                self._connections.popitem(last=False)
        return connection

    def _called(self, context: grpc.ServicerContext, request: Any) -> tuple[Provider, Call]:
        connection = self._connection(context)
        if connection.provider is None:
            raise ProviderError(
                f"the {self._name} provider is not configured on this connection: one of them was restarted",
                fix="Run the command again.",
                code=grpc.StatusCode.UNAVAILABLE,
            )
        urn = getattr(request, "urn", "")

        def show(message: str, severity: str, passing: bool) -> None:
            if connection.engine is None:
                return
            level = engine_pb2.LogSeverity.Value(severity.upper())
            try:
                connection.engine.Log(
                    engine_pb2.LogRequest(severity=level, message=message, urn=urn, ephemeral=passing), timeout=5
                )
            except grpc.RpcError:
                _log.warning("the engine is gone; it would have shown at %s: %s", urn, message)

        return connection.provider, Call(
            type=getattr(request, "type", "") or getattr(request, "tok", "") or _type(urn),
            name=getattr(request, "name", "") or _name(urn),
            urn=urn,
            preview=getattr(request, "preview", False),
            timeout=getattr(request, "timeout", 0) or None,
            cancelled=connection.cancelled,
            ignored=[parsed_path(path) for path in getattr(request, "ignoreChanges", ())],
            show=show,
        )

    @staticmethod
    def _checked(
        news: struct_pb2.Struct, check: Callable[[dict[str, Any]], Mapping[str, Any]]
    ) -> provider_pb2.CheckResponse:
        marked = from_wire(news)
        try:
            checked = check(revealed(marked))
        except InvalidInputs as error:
            return provider_pb2.CheckResponse(inputs=news, failures=_failures(error))
        return provider_pb2.CheckResponse(inputs=to_wire(keep_secret(dict(checked), marked)))

    def _answered(
        self,
        context: grpc.ServicerContext,
        subject: str,
        answer: Callable[[], _T],
        marked: Mapping[str, Any] | None = None,
    ) -> _T:
        """The result of `answer`, or its error in the engine's form. Secrets of `marked` never get into it."""
        try:
            return answer()
        except Incomplete as error:
            detail = provider_pb2.ErrorResourceInitFailed(
                id=error.id,
                properties=to_wire(_marked(error.state, marked)),
                reasons=[_masked(reason, marked) for reason in error.reasons],
                inputs=to_wire(keep_secret(dict(error.inputs), marked) if error.inputs is not None else marked or {}),
            )
            status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=_masked(error.message, marked))
            status.details.add().Pack(detail)
            failure = _Status(grpc.StatusCode.UNKNOWN, status.message, status.SerializeToString())
        except ModelworksError as error:
            code = error.code if isinstance(error, ProviderError) else grpc.StatusCode.FAILED_PRECONDITION
            failure = _Status(code, _masked(str(error), marked))
        except Exception as error:  # noqa: BLE001  the engine must get an answer, and the log what it takes to mend it
            trace = "".join(traceback.format_exception(error))
            _log.error("%s: %s", subject, _masked(trace, marked))
            text = f"the laptop's {self._name} provider failed at {subject}: {type(error).__name__}: {error}"
            failure = _Status(grpc.StatusCode.INTERNAL, _masked(text, marked))
        context.abort_with_status(failure)
        raise AssertionError("unreachable: abort_with_status raises")


class _Status(grpc.Status):  # type: ignore[misc]  # grpc ships no types
    def __init__(self, code: grpc.StatusCode, details: str, packed: bytes = b"") -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = (("grpc-status-details-bin", packed),) if packed else ()


def _engine(address: str) -> engine_pb2_grpc.EngineStub:
    return engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))


def _failures(error: InvalidInputs) -> list[provider_pb2.CheckFailure]:
    return [provider_pb2.CheckFailure(property=path_text(path), reason=reason) for path, reason in error.failures]


def _diff_response(diff: Diff) -> provider_pb2.DiffResponse:
    kinds = provider_pb2.PropertyDiff.Kind
    detailed = {
        path_text(path): provider_pb2.PropertyDiff(
            kind=kinds.Value(change.kind.upper() + ("_REPLACE" if change.replaces else "")), inputDiff=True
        )
        for path, change in diff.changes.items()
    }
    response = provider_pb2.DiffResponse
    return response(
        changes=response.DIFF_SOME if diff.changes else response.DIFF_NONE,
        diffs=sorted({str(path[0]) for path in diff.changes}),
        replaces=sorted({str(path[0]) for path, change in diff.changes.items() if change.replaces}),
        stables=list(diff.stable),
        deleteBeforeReplace=diff.delete_before_replace,
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


def _masked(text: str, marked: Mapping[str, Any] | None) -> str:
    """`text` without the secrets of `marked`. Ones of one or two characters would make it unreadable, and are kept."""
    for _, value in walk(marked or {}):
        if isinstance(value, Secret):
            for _, hidden in walk(value.value):
                if isinstance(hidden, str) and len(hidden) > 2:
                    text = text.replace(hidden, "[secret]")
    return text


def _marked(state: Mapping[str, Any], inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """`state` with the secrets of `inputs` marked, also in the copy of them that Kubernetes resources keep in it."""
    kept = {"__inputs": keep_secret(state["__inputs"], inputs)} if "__inputs" in state else {}
    return {**keep_secret(dict(state), inputs), **kept}


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]


def _type(urn: str) -> str:
    """The type in a URN, without those of its parents."""
    parts = urn.split("::")
    return parts[2].rpartition("$")[2] if len(parts) > 3 else ""
