"""A server on loopback that speaks the documented REST APIs of Tecton and of Hopsworks, and fails when told to.

Sources: https://docs.tecton.ai/http-api and
https://docs.hopsworks.ai/latest/user_guides/fs/feature_view/feature-server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "the-key-of-tests"
Fault = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Service:
    """A feature service, or a feature view of Hopsworks, with what is stored."""

    place: str
    keys: Mapping[str, str]
    features: Mapping[str, str]
    """Type of each, as the vendor names both."""
    rows: dict[tuple[Any, ...], dict[str, tuple[Any, str | None]]] = field(default_factory=dict)
    """Value and effective time of each feature, by the values of the keys."""

    def row(self, keys: Mapping[str, Any]) -> dict[str, tuple[Any, str | None]]:
        return self.rows.get(tuple(str(keys[name]) for name in self.keys), {})


class VendorServer:
    """Both APIs on one port. Faults are taken in turn; without one, requests are answered."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.faults: list[Fault] = []
        self.for_ever: Fault | None = None
        self.key = KEY
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                say(self, 200 if self.path == "/0.1.0/ping" else 404, {})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, request))
                if fault := outer._fault():
                    fault(self)
                    return
                try:
                    status, answer = outer._answer(self.path, self.headers, request)
                except (KeyError, TypeError, ValueError) as error:
                    status, answer = 400, {"code": 3, "message": repr(error)}
                say(self, status, answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _fault(self) -> Fault | None:
        return self.faults.pop(0) if self.faults else self.for_ever

    def _answer(self, path: str, headers: Any, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path.startswith("/api/v1/feature-service/"):
            if headers["authorization"] != f"Tecton-key {self.key}":
                return 401, {"error": "Unauthorized", "code": 16, "message": "Invalid API key"}
            return self._tecton(path, request["params"])
        if path in {"/0.1.0/feature_store", "/0.1.0/batch_feature_store"}:
            if headers["x-api-key"] != self.key:
                return 401, {"code": 16, "message": "", "reason": "Access unshared feature store failed"}
            return self._hopsworks(path, request)
        return 404, {"message": "no such endpoint"}

    def _tecton(self, path: str, params: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        service = self.services.get(params["featureServiceName"])
        if service is None or service.place != params["workspaceName"]:
            return 404, {"error": "Not Found", "code": 5, "message": "Unable to query FeatureService"}
        if path.endswith("/metadata"):
            named = [{"name": name, "dataType": {"type": kind}} for name, kind in service.keys.items()]
            values = [{"name": name, "dataType": {"type": kind}} for name, kind in service.features.items()]
            return 200, {"featureServiceType": "DEFAULT", "inputJoinKeys": named, "featureValues": values}
        keys = params["joinKeyMap"]
        if set(keys) != set(service.keys) or not all(isinstance(value, str) for value in keys.values()):
            return 400, {"error": "Bad Request", "code": 3, "message": "Missing or invalid join key"}
        row, options = service.row(keys), params.get("metadataOptions") or {}
        described = []
        for name, kind in service.features.items():
            moment = row.get(name, (None, None))[1]
            each: dict[str, Any] = {"name": name} if options.get("includeNames") else {}
            each |= {"dataType": {"type": kind}} if options.get("includeDataTypes") else {}
            each |= {"effectiveTime": moment} if options.get("includeEffectiveTimes") and moment else {}
            described.append(each)
        values = [
            str(value) if kind == "int64" and isinstance(value, int) else value
            for name, kind in service.features.items()
            for value in [row.get(name, (None, None))[0]]
        ]
        return 200, {"result": {"features": values}, "metadata": {"features": described}}

    def _hopsworks(self, path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name, version = request["featureViewName"], request["featureViewVersion"]
        service = self.services.get(name)
        if service is None or service.place != f"{request['featureStoreName']}/{version}":
            return 400, {"code": 2, "message": "", "reason": "Feature view does not exist."}
        single = path.endswith("/feature_store")
        entries = [request["entries"]] if single else request["entries"]
        found = [self._vector(service, entry, single=single) for entry in entries]
        options = request.get("metadataOptions") or {}
        described = [
            ({"featureName": feature} if options.get("featureName") else {})
            | ({"featureType": kind} if options.get("featureType") else {})
            for feature, kind in service.features.items()
        ]
        answer: dict[str, Any] = {
            "features": [values for values, _, _ in found],
            "status": [status for _, status, _ in found],
            "detailedStatus": [details for _, _, details in found],
        }
        if single:
            answer = {key: value[0] for key, value in answer.items()}
        if not (request.get("options") or {}).get("includeDetailedStatus"):
            answer["detailedStatus"] = None
        return 200, answer | {"metadata": described if any(options.values()) else None}

    def _vector(self, service: Service, entry: dict[str, Any], *, single: bool) -> tuple[Any, str, Any]:
        if any(value is None for value in entry.values()):
            raise ValueError("Incorrect primary key.")
        complete = set(service.keys) <= set(entry)
        row = service.row(entry) if complete else {}
        code = 200 if row else 404 if complete else 400
        values = [row.get(feature, (None, None))[0] for feature in service.features]
        return values, "COMPLETE" if row else "MISSING", [{"featureGroupId": 1, "httpStatus": code}]


def say(handler: BaseHTTPRequestHandler, status: int, answer: Any) -> None:
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


# -- Faults ----------------------------------------------------------------------------------------------------------
def refuses(status: int) -> Fault:
    return lambda handler: say(handler, status, {"message": "said by the test"})


def answers(answer: Any) -> Fault:
    return lambda handler: say(handler, 200, answer)


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    """The connection ends without an answer."""
    handler.close_connection = True


def silent(handler: BaseHTTPRequestHandler) -> None:
    """There is no answer as long as the client waits."""
    handler.rfile.read(1)
    handler.close_connection = True


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """An answer that never ends, a byte at a time: none of them keeps a socket waiting for long."""
    handler.send_response(200)
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        handler.close_connection = True


def redirects(where: str) -> Fault:
    def fault(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("location", where)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return fault
