"""A feature store that throttles, refuses or is gone: what a read makes of it, against DynamoDB's own protocol."""

from __future__ import annotations

import json
import struct
import threading
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modelworks.errors import ModelworksError
from modelworks.feature_items import entity_id
from modelworks.runtime import feature_tables
from modelworks.runtime.manifest import Feature, Manifest, Stored, StoredView
from modelworks.runtime.online import OnlineFeatures, UnreadableError
from modelworks.runtime.online_engine import Place, read_tables
from waiting import PATIENCE, eventually

TABLE = "flights.delays"
THROTTLED = "ProvisionedThroughputExceededException"
Reply = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


def item(tail: str, delay: float, age: timedelta = timedelta(0)) -> dict[str, Any]:
    encoded = b64encode(b"\x29" + struct.pack("<d", delay)).decode()
    return {
        "entity_id": {"S": entity_id({"tail": ("String", tail)})},
        "event_ts": {"S": (datetime.now(UTC) - age).isoformat()},
        "values": {"M": {"mean_delay": {"B": encoded}}},
    }


def stored(*items: dict[str, Any]) -> Reply:
    return lambda _: (200, {"Responses": {TABLE: list(items)}, "UnprocessedKeys": {}})


def refused(code: str, status: int = 400) -> Reply:
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "said by the test"}
    return lambda _: (status, body)


def unread(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """All that was asked for is left for later, as DynamoDB does under load."""
    return 200, {"Responses": {}, "UnprocessedKeys": request["RequestItems"]}


def cut_off(_: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The connection ends without an answer."""
    raise ConnectionResetError


class Scripted:
    """A DynamoDB that gives these replies in turn, the last one for ever."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[dict[str, Any]] = []
        self.silent = threading.Event()
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                script.asked.append(request)
                if script.silent.is_set():
                    script.over.wait()
                    return
                try:
                    status, body = script._next()(request)
                except ConnectionResetError:
                    self.close_connection = True
                    return
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/x-amz-json-1.0")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def _next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def says(self, *replies: Reply) -> None:
        self.replies, self.asked = list(replies), []


@pytest.fixture
def dynamodb(monkeypatch):
    made = Scripted()
    made.thread.start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.server.server_port}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(feature_tables, "TIMEOUT_SECONDS", PATIENCE)
    # The waits between attempts are random; their number is what is tested.
    monkeypatch.setattr("random.random", lambda: 0.0)
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)
    yield made
    made.over.set()
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def online(fallback: str = "error", tables: dict[str, str] | None = None) -> OnlineFeatures:
    view = StoredView(
        name="delays", keys={"tail": "String"}, features={"mean_delay": "Float64"}, digest="sha256:0", ttl_seconds=3600
    )
    manifest = Manifest(
        model="flights",
        kind="regression",
        task="How late is it?",
        features=(Feature(name="mean_delay", type="number", nullable=True),),
        examples=({"tail": "N1"},),
        stored=Stored(service="flight", views=(view,), keys=(Feature(name="tail", type="string"),), fallback=fallback),
    )
    return OnlineFeatures(manifest, Place({"delays": TABLE} if tables is None else tables))


def read(features: OnlineFeatures, *tails: str) -> tuple[list[Any], bool]:
    found, failed = features.read([(tail,) for tail in tails])
    return [value for (value,) in found.values], failed


def test_a_read_that_is_throttled_twice_is_answered_by_the_third(dynamodb):
    dynamodb.says(refused(THROTTLED), refused(THROTTLED), stored(item("N1", 12.5)))
    assert read(online(), "N1") == ([12.5], False)
    assert len(dynamodb.asked) == 3


def test_keys_that_dynamodb_left_unread_are_asked_for_again(dynamodb):
    dynamodb.says(unread, stored(item("N1", 12.5)))
    assert read(online(), "N1") == ([12.5], False)
    assert len(dynamodb.asked) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param([refused(THROTTLED)], id="throttled"),
        pytest.param([refused("ThrottlingException")], id="throttled by the account"),
        pytest.param([refused("RequestLimitExceeded")], id="above the account's quota"),
        pytest.param([refused("InternalServerError", 500)], id="broken"),
        pytest.param([unread], id="unread"),
        pytest.param([unread, refused(THROTTLED)] * 9, id="unread, then throttled"),
        pytest.param([refused(THROTTLED), refused(THROTTLED), unread] * 9, id="throttled twice, then unread"),
        pytest.param([refused("InternalServerError", 503), unread, cut_off] * 9, id="broken, unread, cut off"),
    ],
)
@pytest.mark.parametrize("fallback", ["error", "default", "cached"])
def test_trouble_that_lasts_is_asked_about_three_times_and_then_the_fallback_answers(dynamodb, trouble, fallback):
    features = online(fallback)
    dynamodb.says(stored(item("N1", 12.5)))
    assert read(features, "N1", "N2") == ([12.5, None], False)
    dynamodb.says(*trouble)
    if fallback == "error":
        with pytest.raises(UnreadableError, match="features cannot be read"):
            read(features, "N1", "N3")
    else:
        expected = {"default": [None, None], "cached": [12.5, None]}[fallback]
        assert read(features, "N1", "N3") == (expected, True)
    assert len(dynamodb.asked) == 3


@pytest.fixture
def silence(dynamodb, monkeypatch):
    """A store that answers nothing, where no read waits for long."""
    monkeypatch.setattr(feature_tables, "TIMEOUT_SECONDS", 0.2)
    dynamodb.silent.set()
    return dynamodb


def test_a_store_that_says_nothing_is_given_up_after_three_attempts(silence):
    assert read(online("default"), "N1") == ([None], True)
    eventually(lambda: len(silence.asked) == 3)


@pytest.mark.usefixtures("silence")
def test_a_store_that_says_nothing_does_not_keep_a_server_from_starting():
    assert "timeout" in online().check(("N1",)).lower()


def test_the_store_is_read_again_as_soon_as_it_answers(dynamodb):
    features = online("cached")
    dynamodb.says(refused(THROTTLED))
    assert read(features, "N1") == ([None], True)
    dynamodb.says(stored(item("N1", 1.0)))
    assert read(features, "N1") == ([1.0], False)


def test_a_remembered_value_is_not_used_beyond_its_ttl(dynamodb, monkeypatch):
    features = online("cached")
    dynamodb.says(stored(item("N1", 12.5, age=timedelta(minutes=59))))
    assert read(features, "N1") == ([12.5], False)
    dynamodb.says(refused(THROTTLED))
    assert read(features, "N1") == ([12.5], True)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(minutes=2)

    monkeypatch.setattr("modelworks.runtime.online.datetime", Later)
    assert read(features, "N1") == ([None], True)


def test_what_was_deleted_from_the_store_is_forgotten_too(dynamodb):
    features = online("cached")
    dynamodb.says(stored(item("N1", 12.5)))
    read(features, "N1")
    dynamodb.says(stored())
    assert read(features, "N1") == ([None], False)
    dynamodb.says(refused(THROTTLED))
    assert read(features, "N1") == ([None], True)


def test_a_request_without_a_whole_key_asks_nothing(dynamodb):
    dynamodb.says(refused(THROTTLED))
    assert read(online(), None) == ([None], False)
    assert dynamodb.asked == []


def test_a_server_starts_while_the_store_is_throttled_and_says_so(dynamodb):
    dynamodb.says(refused(THROTTLED))
    assert THROTTLED in online().check(("N1",))


@pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException"])
def test_a_server_does_not_start_where_the_table_may_not_be_read_or_is_not_there(dynamodb, code):
    dynamodb.says(refused(code))
    with pytest.raises(ModelworksError, match=f"tables {TABLE} cannot be read: .*{code}") as error:
        online().check(("N1",))
    assert "feature_services" in error.value.fix
    assert len(dynamodb.asked) == 1


def test_a_view_without_a_table_is_named_with_the_service_to_add():
    with pytest.raises(
        ModelworksError, match="flights reads the feature view delays, and MODELWORKS_FEATURE_TABLES"
    ) as e:
        online(tables={"weather": "flights.weather"})
    assert "Name the feature service 'flight' in the endpoint's setting feature_services" in e.value.fix


@pytest.mark.parametrize("text", ["[]", "{", '{"weather": 1}', '"weather"'])
def test_a_variable_that_is_no_mapping_of_tables_is_refused(text):
    with pytest.raises(ModelworksError, match="MODELWORKS_FEATURE_TABLES must be a JSON object"):
        read_tables(text)
