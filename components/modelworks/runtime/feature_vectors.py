"""Feature vectors of Hopsworks and Tecton, read through their documented REST APIs.

Sources: https://docs.tecton.ai/http-api (`get-features`), and
https://docs.hopsworks.ai/latest/user_guides/fs/feature_view/feature-server (`batch_feature_store`, version 0.1.0).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.feature_items import Key, require_encrypted, unqualified
from modelworks.runtime.manifest import Stored
from modelworks.runtime.online_engine import ATTEMPTS, READS_AT_ONCE, TIMEOUT_SECONDS, Place, View
from modelworks.runtime.stored import decoded

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row

Vector = Mapping[str, tuple[Any, float | None]]
"""Raw value and event time, in seconds since the epoch, of each feature by its name in the answer."""

_PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_RENEW_SECONDS = 30
"""A key that is refused is read again at most this often."""
_MOST_BYTES = 16 << 20
"""Largest answer that is read."""
_TOGETHER = 100
"""Entities in one request to Hopsworks."""


class UnansweredError(Exception):
    """The vendor did not answer, or not with feature vectors, at any attempt."""


class RefusedError(Exception):
    """The vendor refused the request: a repetition does not help."""


# -- Vectors --------------------------------------------------------------------------------------------------------
class _Vector(View):
    """How the values of one view are found in the vector of its service."""

    def __init__(self, protocol: _Protocol, *args: Any) -> None:
        super().__init__(*args)
        self._service = protocol.service
        self._names = [(protocol.feature(self.name, name), kind) for name, kind in self.features.items()]

    def key(self, request: Row) -> Key | None:
        entity = self.entity(request)
        if entity is None:
            return None
        return self._service, json.dumps({name: value for name, (_, value) in entity.items()}, sort_keys=True)

    def values(self, item: Vector | None, now: datetime) -> tuple[tuple[Any, ...], float | None]:
        if item is None:
            return (None,) * len(self._names), None
        read = [item[name] for name, _ in self._names]
        times = [moment for value, moment in read if value is not None and moment is not None]
        newest = max(times, default=None)
        if self.ttl and newest is not None and now.timestamp() - newest > self.ttl.total_seconds():
            return (None,) * len(self._names), None
        return tuple(decoded(kind, value) for (_, kind), (value, _) in zip(self._names, read, strict=True)), newest


# -- The protocols ---------------------------------------------------------------------------------------------------
class _Protocol(ABC):
    """The requests of a vendor's API, and the meaning of its answers."""

    header: str
    together: int
    """Entities in one request."""
    path: str

    def __init__(self, stored: Stored) -> None:
        self.service, self._stored = stored.service, stored
        self._wanted = [self.feature(view.name, name) for view in stored.views for name in view.features]

    @abstractmethod
    def feature(self, view: str, name: str) -> str:
        """A feature's name in an answer."""

    @abstractmethod
    def authorization(self, key: str) -> str:
        """The value of the header."""

    @abstractmethod
    def body(self, entities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A request for these entities."""

    @abstractmethod
    def vectors(self, answer: Any) -> list[Vector]:
        """The vector of each entity of a request, in its order. An answer of another shape raises."""

    def _require(self, names: Sequence[str]) -> None:
        if missing := [name for name in self._wanted if name not in names]:
            raise RefusedError(f"the answer has no feature {', '.join(missing)}: the feature service was changed")


class _Tecton(_Protocol):
    """Tecton: one entity a request, as its own clients do by default; times come with the values."""

    header, together = "Authorization", 1
    path = "/api/v1/feature-service/get-features"

    def feature(self, view: str, name: str) -> str:
        return f"{unqualified(self.service, view)}.{name}"

    def authorization(self, key: str) -> str:
        return f"Tecton-key {key}"

    def body(self, entities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        [entity] = entities
        params = {
            "workspaceName": self._stored.place["workspace"],
            "featureServiceName": self.service,
            # A 64-bit integer is sent as text: JSON's numbers have 53 bits.
            "joinKeyMap": {name: str(value) for name, value in entity.items()},
            "requestContextMap": {},
            "metadataOptions": {"includeNames": True, "includeEffectiveTimes": True},
        }
        return {"params": params}

    def vectors(self, answer: Any) -> list[Vector]:
        values, described = answer["result"]["features"], answer["metadata"]["features"]
        names = [each["name"] for each in described]
        self._require(names)
        times = [_moment(each.get("effectiveTime")) for each in described]
        return [dict(zip(names, zip(values, times, strict=True), strict=True))]


class _Hopsworks(_Protocol):
    """Hopsworks: up to a hundred entities a request; a time comes only where the feature view has it as a feature."""

    header, together = "X-API-KEY", _TOGETHER
    path = "/0.1.0/batch_feature_store"

    def __init__(self, stored: Stored) -> None:
        super().__init__(stored)
        self._wanted += [view.event_time for view in stored.views if view.event_time]
        self._time_of = {name: view.event_time for view in stored.views for name in view.features}

    def feature(self, view: str, name: str) -> str:  # noqa: ARG002 - the names of a feature view are unique
        return name

    def authorization(self, key: str) -> str:
        return key

    def body(self, entities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "featureStoreName": self._stored.place["project"],
            "featureViewName": self.service,
            "featureViewVersion": int(self._stored.place["version"]),
            "entries": [dict(entity) for entity in entities],
            "passedFeatures": [],
            "metadataOptions": {"featureName": True, "featureType": False},
            "options": {"validatePassedFeatures": False, "includeDetailedStatus": True},
        }

    def vectors(self, answer: Any) -> list[Vector]:
        for status, details in zip(answer["status"], answer["detailedStatus"], strict=True):
            codes = [each["httpStatus"] for each in details]
            if 400 in codes:  # a key of the view is not among those that were sent
                raise RefusedError("a feature group has other keys: the feature view was changed")
            if status not in {"COMPLETE", "MISSING"} or any(code not in {200, 404} for code in codes):
                raise UnansweredError(f"Hopsworks could not read an entity: {status} {codes}")
        names = [each["featureName"] for each in answer["metadata"]]
        self._require(names)
        return [self._vector(dict(zip(names, values, strict=True))) for values in answer["features"]]

    def _vector(self, values: Mapping[str, Any]) -> Vector:
        return {name: (value, _moment(values.get(self._time_of.get(name) or ""))) for name, value in values.items()}


def _moment(value: Any) -> float | None:
    """A time in an answer, in seconds since the epoch: ISO 8601, or milliseconds as Hopsworks counts them."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float):
        return value / 1000
    found = datetime.fromisoformat(value)
    return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).timestamp()


_PROTOCOLS: Mapping[str, type[_Protocol]] = {"hopsworks": _Hopsworks, "tecton": _Tecton}


# -- Reading ---------------------------------------------------------------------------------------------------------
class FeatureVectors:
    """A feature service of a vendor.

    Args:
        model: Who reads.
        stored: The features of the model.
        where: The vendor's address, and the secret of the API key.
        place: Position of each value in the row of a request.

    Raises:
        ModelworksError: There is no address or key, or the address is not encrypted.
    """

    def __init__(self, model: str, stored: Stored, where: Place, place: Mapping[str, int]) -> None:
        import urllib3  # only models with stored features pay for it

        if not where.url:
            raise ModelworksError(
                f"{model} reads the feature service {stored.service!r} from {stored.engine}, and "
                f"{contract.ENV_FEATURE_URL} is not set",
                fix="State it: features.url in the stack's settings, or the endpoint's argument feature_api.",
            )
        require_encrypted(where.url)
        self._engine, self._where = stored.engine, where
        self._protocol = _PROTOCOLS[stored.engine](stored)
        self._url = where.url + self._protocol.path
        self._key = ApiKey(stored.engine, where.key_secret)
        self._pool = urllib3.PoolManager(
            maxsize=2 * READS_AT_ONCE, retries=False, timeout=urllib3.Timeout(TIMEOUT_SECONDS, TIMEOUT_SECONDS)
        )
        self._threads = ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="vectors")
        self._unreachable = urllib3.exceptions.HTTPError
        self.views: Sequence[View] = [_Vector(self._protocol, view, place) for view in stored.views]
        self.errors: tuple[type[Exception], ...] = (UnansweredError, RefusedError)

    def read(self, keys: Sequence[Key]) -> Mapping[Key, Vector]:
        """The vectors of these keys, each request in a thread of its own."""
        size = self._protocol.together
        parts = [keys[start : start + size] for start in range(0, len(keys), size)]
        if len(parts) <= 1:
            return self._read(parts[0]) if parts else {}
        futures = [self._threads.submit(self._read, part) for part in parts]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()  # those that wait behind one that failed: the fallback answers for all
        if failed := [future for future in futures if not future.cancelled() and future.done() and future.exception()]:
            failed[0].result()
        return {key: vector for future in futures for key, vector in future.result().items()}

    def mistake(self, error: Exception) -> ModelworksError | None:
        """The error of a service that is not there, or may not be read."""
        if not isinstance(error, RefusedError):
            return None
        return ModelworksError(
            f"the feature service {self._protocol.service!r} cannot be read from {self._engine}: {error}",
            fix="Check features.url and the API key of the stack, and that models/features.json is what the vendor "
            "has: `modelworks features pull`.",
        )

    def _read(self, keys: Sequence[Key]) -> dict[Key, Vector]:
        body = json.dumps(self._protocol.body([json.loads(entity) for _, entity in keys])).encode()
        answer = self._ask(body)
        try:
            return dict(zip(keys, self._protocol.vectors(answer), strict=True))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnansweredError(f"{self._engine} answered with no feature vector: {error!r}") from error

    def _ask(self, body: bytes) -> Any:
        trouble = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - spreads retries, guards nothing
            key = self._key.value
            try:
                status, data = self._send(body, key)
            except (self._unreachable, TimeoutError) as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                try:
                    return json.loads(data)
                except ValueError as error:
                    raise UnansweredError(f"{self._engine} answered with no JSON: {error}") from error
            trouble = f"{self._engine} answered {status}: {data[:200].decode(errors='replace')}"
            if status in {401, 403} and self._key.renew(key):
                continue  # it was rotated
            if status not in _PASSING_STATUSES:
                raise RefusedError(trouble)
        raise UnansweredError(f"{trouble} (after {ATTEMPTS} attempts)")

    def _send(self, body: bytes, key: str) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", self._protocol.header: self._protocol.authorization(key)}
        # A redirect would carry the key to wherever it points.
        answer = self._pool.request(
            "POST", self._url, body=body, headers=headers, redirect=False, preload_content=False
        )
        try:
            return answer.status, _whole(answer)
        except BaseException:
            answer.close()  # what is left of it is not another answer
            raise
        finally:
            answer.release_conn()


def _whole(answer: Any) -> bytes:
    """The body of an answer, within the bounds of time and size: a timeout of urllib3 begins again with each packet."""
    end, data = time.monotonic() + TIMEOUT_SECONDS, bytearray()
    while part := answer.read1(1 << 16):
        data += part
        if len(data) > _MOST_BYTES:
            raise UnansweredError(f"an answer has more than {_MOST_BYTES} bytes")
        if time.monotonic() > end:
            raise TimeoutError(f"an answer took longer than {TIMEOUT_SECONDS} s")
    return bytes(data)


class ApiKey:
    """The vendor's API key: the secret in Secrets Manager, or the variable that the vendor's SDK reads.

    Args:
        engine: The vendor.
        secret: ARN of the secret; empty for the variable.

    Raises:
        ModelworksError: There is none, or it cannot be read.
    """

    def __init__(self, engine: str, secret: str) -> None:
        self._secret, self._lock, self._read_at = secret, threading.Lock(), time.monotonic()
        variable = contract.FEATURE_KEY_VARIABLES[engine]
        self.value = self._fetch() if secret else os.environ.get(variable, "").strip()
        if not (self.value.isascii() and self.value.isprintable() and self.value):
            raise ModelworksError(
                f"there is no API key for {engine}, or one that is no single line of plain characters",
                fix=f"An endpoint gets it from Secrets Manager ({contract.ENV_FEATURE_KEY_SECRET}); elsewhere set "
                f"{variable}.",
            )

    def renew(self, refused: str) -> bool:
        """Read the secret again, unless that was done just now; whether the key is another than the refused one."""
        if not self._secret:
            return False
        with self._lock:
            if self.value != refused:
                return True
            if time.monotonic() - self._read_at < _RENEW_SECONDS:
                return False
            self._read_at = time.monotonic()
            try:
                self.value = self._fetch()
            except ModelworksError:
                return False  # the vendor's refusal is what the caller learns, and it says which key
            return self.value != refused

    def _fetch(self) -> str:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        config = Config(connect_timeout=2, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 3})
        try:
            client = botocore.session.get_session().create_client("secretsmanager", config=config)
            found: str = client.get_secret_value(SecretId=self._secret)["SecretString"]
        except (BotoCoreError, ClientError, KeyError) as error:
            raise ModelworksError(
                f"the API key of the feature store cannot be read from {self._secret}: {error}",
                fix="The endpoint's role needs secretsmanager:GetSecretValue on it, as the argument feature_api gives "
                "it, and the secret needs a value.",
            ) from error
        return found.strip()
