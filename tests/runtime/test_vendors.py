"""Online features of Hopsworks and Tecton: the server speaks what their own clients speak, and our reader reads it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
import urllib3
from tecton_client import MetadataOptions, TectonClient
from tecton_client.exceptions import UnauthorizedError

from modelworks.errors import ModelworksError
from modelworks.runtime import feature_vectors
from modelworks.runtime.manifest import Feature, Manifest, Stored, StoredView
from modelworks.runtime.online import OnlineFeatures, UnreadableError
from modelworks.runtime.online_engine import Place
from modelworks.runtime.stored import decoded
from runtime.vendor_server import (
    KEY,
    Service,
    VendorServer,
    answers,
    cut_off,
    dripping,
    redirects,
    refuses,
    silent,
)
from waiting import PATIENCE, eventually

MOMENT = "2026-03-01T12:00:00Z"
SECONDS = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
BIG = 2**53 + 1
"""No float has it: it arrives whole only as text, or as JSON's own integer."""


@pytest.fixture
def server(monkeypatch):
    made = VendorServer()
    monkeypatch.setenv("TECTON_API_KEY", KEY)
    monkeypatch.setenv("HOPSWORKS_API_KEY", KEY)
    monkeypatch.setattr(feature_vectors, "TIMEOUT_SECONDS", PATIENCE)
    # The waits between attempts are random; their number is what is tested.
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)
    made.services["flight"] = Service(
        place="prod",
        keys={"tail": "string", "leg": "int64"},
        features={"delays.mean_delay": "float64", "delays.flights": "int64", "weather.sky": "string"},
        rows={
            ("N1", "7"): {
                "delays.mean_delay": (12.5, MOMENT),
                "delays.flights": (BIG, "2026-03-01T11:00:00Z"),
                "weather.sky": ("clear", None),
            }
        },
    )
    made.services["flight_view"] = Service(
        place="flights/3",
        keys={"tail": "string", "leg": "bigint"},
        features={
            "mean_delay": "double",
            "landed": "timestamp",
            "flights": "bigint",
            "sky": "string",
        },
        rows={
            ("N1", "7"): {
                "mean_delay": (12.5, None),
                "landed": ("2026-03-01 12:00:00", None),
                "flights": (BIG, None),
                "sky": ("clear", None),
            }
        },
    )
    yield made
    made.close()


def stored(engine: str, fallback: str = "error", ttl: float | None = None) -> Stored:
    keys = {"tail": "String", "leg": "Int64"}
    delays = StoredView(
        name="delays",
        keys=keys,
        features={"mean_delay": "Float64", "flights": "Int64"},
        digest="sha256:0",
        ttl_seconds=ttl,
        event_time="landed" if engine == "hopsworks" else "",
    )
    weather = StoredView(name="weather", keys=keys, features={"sky": "String"}, digest="sha256:0")
    return Stored(
        service="flight" if engine == "tecton" else "flight_view",
        views=(delays, weather),
        keys=(Feature(name="tail", type="string"), Feature(name="leg", type="integer")),
        fallback=fallback,
        engine=engine,
        place={"workspace": "prod"} if engine == "tecton" else {"project": "flights", "version": "3"},
    )


def online(server: VendorServer, engine: str, fallback: str = "error", **more: Any) -> OnlineFeatures:
    manifest = Manifest(
        model="flights",
        kind="regression",
        task="How late is it?",
        features=(
            Feature(name="mean_delay", type="number", nullable=True),
            Feature(name="flights", type="integer", nullable=True),
            Feature(name="sky", type="string", nullable=True),
        ),
        examples=({"tail": "N1", "leg": 7},),
        stored=stored(engine, fallback, **more),
    )
    return OnlineFeatures(manifest, Place(url=server.url))


FOUND = (12.5, BIG, "clear")
NOTHING = (None, None, None)
both = pytest.mark.parametrize("engine", ["hopsworks", "tecton"])


# -- The server speaks what the vendors' clients speak ---------------------------------------------------------------
def test_tectons_own_client_reads_the_server(server):
    client = TectonClient(server.url, KEY, default_workspace_name="prod")
    found = client.get_features(
        feature_service_name="flight", join_key_map={"tail": "N1", "leg": "7"}, metadata_options=MetadataOptions.all()
    )
    assert found.get_features_dict() == {
        "delays.mean_delay": 12.5,
        "delays.flights": BIG,
        "weather.sky": "clear",
    }
    assert found.metadata["features"][0]["effectiveTime"] == MOMENT
    [(path, theirs)] = server.asked
    online(server, "tecton").read([("N1", 7)])
    ours = server.asked[-1]
    assert ours[0] == path
    for field in ("workspaceName", "featureServiceName", "joinKeyMap", "requestContextMap"):
        assert ours[1]["params"][field] == theirs["params"][field]
    described = client.get_feature_service_metadata(feature_service_name="flight")
    assert [each["name"] for each in described.input_join_keys] == ["tail", "leg"]
    assert [each["name"] for each in described.feature_values] == [*server.services["flight"].features]


def test_tectons_own_client_is_refused_as_it_documents(server):
    with pytest.raises(UnauthorizedError, match="Invalid API key"):
        TectonClient(server.url, "another", default_workspace_name="prod").get_features(feature_service_name="flight")


def test_hopsworks_own_client_reads_the_server(server, monkeypatch):
    from hopsworks_common import client
    from hsfs.client import online_store_rest_client as rest
    from hsfs.core.online_store_rest_client_engine import OnlineStoreRestClientEngine

    class Group:
        id = 1

    class Column:
        label = inference_helper_column = training_helper_column = False
        feature_group = Group

        def __init__(self, name: str, kind: str) -> None:
            self.name, self.type = name, kind

    class Connected:
        """Stands for a login, which needs a whole Hopsworks: the vendor's client only looks whether there was one."""

        _connected = True

        def _get_ca_chain_path(self) -> None:
            return None

        def _is_external(self) -> bool:
            return False

    monkeypatch.setattr(client, "_client", Connected())
    monkeypatch.setattr(client, "_get_instance", Connected)
    monkeypatch.setattr(client, "_is_external", lambda: False)
    monkeypatch.setattr(rest.OnlineStoreRestClientSingleton, "_get_rondb_rest_server_endpoint", lambda _: server.url)
    monkeypatch.setattr(rest, "_online_store_rest_client", None)
    rest._init_or_reset_online_store_rest_client(optional_config={"use_ssl": False, "api_key": KEY})
    view = server.services["flight_view"]
    engine = OnlineStoreRestClientEngine(
        "flights_featurestore", "flight_view", 3, [Column(name, kind) for name, kind in view.features.items()]
    )
    one = engine._get_single_feature_vector({"tail": "N1", "leg": 7}, drop_missing=True)
    assert one == {"mean_delay": 12.5, "landed": "2026-03-01 12:00:00", "flights": BIG, "sky": "clear"}
    raw = engine._get_batch_feature_vectors(
        [{"tail": "N1", "leg": 7}, {"tail": "N2", "leg": 7}],
        metadata_options={"featureName": True, "featureType": True},
        return_type=engine.RETURN_TYPE_RESPONSE_JSON,
    )
    assert raw["status"] == ["COMPLETE", "MISSING"]
    assert raw["features"][0] == [12.5, "2026-03-01 12:00:00", BIG, "clear"]
    assert [each["featureType"] for each in raw["metadata"]] == [*view.features.values()]
    [(_, _), (path, theirs)] = server.asked
    online(server, "hopsworks").read([("N1", 7), ("N2", 7)])
    ours = server.asked[-1]
    assert ours[0] == path == "/0.1.0/batch_feature_store"
    differs = {"metadataOptions", "options"}  # we need neither the types nor the vendor's reading of what is missing
    assert {key: value for key, value in ours[1].items() if key not in differs} == {
        key: value for key, value in theirs.items() if key not in differs
    }


# -- Our reader ------------------------------------------------------------------------------------------------------
@both
def test_values_are_read_by_key_with_the_times_that_the_vendor_states(server, engine):
    found, failed = online(server, engine).read([("N1", 7), ("N2", 7), ("N1", 7)])
    assert found.values == [FOUND, NOTHING, FOUND]
    assert found.times[0] == (SECONDS, None)
    assert found.times[1] == (None, None)
    assert not failed
    assert len(server.asked) == {"hopsworks": 1, "tecton": 2}[engine]


@both
def test_a_row_without_a_whole_key_reads_nothing_and_asks_nothing(server, engine):
    found, failed = online(server, engine).read([(None, 7), ("N1", None)])
    assert (found.values, failed, server.asked) == ([NOTHING, NOTHING], False, [])


@both
def test_three_hundred_entities_are_read_in_bounded_requests(server, engine):
    found, _ = online(server, engine).read([(f"N{number}", 7) for number in range(300)])
    assert found.values == [FOUND if number == 1 else NOTHING for number in range(300)]
    assert len(server.asked) == {"hopsworks": 3, "tecton": 300}[engine]


@both
@pytest.mark.parametrize("ttl", [60.0, None])
def test_a_value_older_than_the_ttl_is_not_read(server, engine, ttl):
    found, _ = online(server, engine, ttl=ttl).read([("N1", 7)])
    assert found.values == [FOUND if ttl is None else (None, None, "clear")]


@both
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(refuses(429), id="throttled"),
        pytest.param(refuses(500), id="broken"),
        pytest.param(refuses(503), id="away"),
        pytest.param(cut_off, id="cut off"),
    ],
)
def test_trouble_that_passes_is_answered_by_the_third_attempt(server, engine, fault):
    server.faults = [fault, fault]
    assert online(server, engine).read([("N1", 7)])[0].values == [FOUND]
    assert len(server.asked) == 3


@both
@pytest.mark.parametrize("fallback", ["error", "default", "cached"])
@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        pytest.param(refuses(429), 3, id="throttled"),
        pytest.param(refuses(500), 3, id="broken"),
        pytest.param(refuses(504), 3, id="timed out behind its gateway"),
        pytest.param(cut_off, 3, id="cut off"),
        pytest.param(silent, 3, id="silent"),
        pytest.param(dripping, 3, id="dripping"),
        pytest.param(refuses(400), 1, id="a bad request"),
        pytest.param(refuses(401), 1, id="another key"),
        pytest.param(refuses(404), 1, id="no such service"),
        pytest.param(answers(b"<html>"), 1, id="no JSON"),
        pytest.param(answers([]), 1, id="another shape"),
        pytest.param(answers({"result": {"features": [1]}, "metadata": {"features": []}}), 1, id="another length"),
    ],
)
def test_trouble_that_lasts_is_bounded_and_then_the_fallback_answers(
    server, monkeypatch, engine, fallback, fault, attempts
):
    features = online(server, engine, fallback)
    assert features.read([("N1", 7)])[0].values == [FOUND]
    if fault in (silent, dripping):  # there is no answer to wait for
        monkeypatch.setattr(feature_vectors, "TIMEOUT_SECONDS", 0.2)
        features._engine._pool.connection_pool_kw["timeout"] = urllib3.Timeout(0.2, 0.2)
    server.asked.clear()
    server.for_ever = fault
    if fallback == "error":
        with pytest.raises(UnreadableError, match="features cannot be read"):
            features.read([("N1", 7)])
    else:
        found, failed = features.read([("N1", 7)])
        assert (found.values, failed) == ([FOUND if fallback == "cached" else NOTHING], True)
    eventually(lambda: len(server.asked) == attempts)


def test_one_entity_that_cannot_be_read_ends_the_rest(server):
    server.for_ever = refuses(404)
    with pytest.raises(UnreadableError):
        online(server, "tecton").read([(f"N{number}", 7) for number in range(500)])
    assert len(server.asked) < 500


@pytest.mark.parametrize(("status", "code"), [("ERROR", 500), ("ERROR", 400), ("MISSING", 400)])
def test_an_entity_that_hopsworks_could_not_read_is_no_missing_one(server, status, code):
    server.for_ever = answers(
        {
            "features": [None],
            "metadata": [{"featureName": name} for name in server.services["flight_view"].features],
            "status": [status],
            "detailedStatus": [[{"featureGroupId": 1, "httpStatus": code}]],
        }
    )
    with pytest.raises(UnreadableError):
        online(server, "hopsworks").read([("N1", 7)])


@both
def test_a_feature_that_the_vendor_dropped_is_an_error_and_not_a_missing_value(server, engine):
    del server.services["flight"].features["weather.sky"]
    del server.services["flight_view"].features["sky"]
    with pytest.raises(UnreadableError, match="the feature service was changed"):
        online(server, engine).read([("N1", 7)])


@both
def test_values_of_another_type_are_missing(server, engine):
    for service in server.services.values():
        service.rows[("N1", "7")] = {
            name: ({"a": 1} if "sky" in name else "many", moment)
            for name, (_, moment) in service.rows[("N1", "7")].items()
            if "landed" not in name
        }
    assert online(server, engine).read([("N1", 7)])[0].values == [NOTHING]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("Int64", str(BIG), BIG),
        ("Int64", "-3", -3),
        ("Int64", 3.0, 3),
        ("Int64", 3.5, None),
        ("Int64", True, None),
        ("Int64", "9" * 19, None),
        ("Int64", "²", None),
        ("Int32", 2**31, None),
        ("Float64", 2, 2.0),
        ("Float64", "NaN", None),
        ("Float64", float("nan"), None),
        ("Float64", 10**400, None),
        ("Float32", 0.1, 0.10000000149011612),
        ("Float32", 1e300, None),
        ("Bool", 1, True),
        ("Bool", 2, None),
        ("Bool", 1.0, None),
        ("String", 1, None),
        ("String", None, None),
    ],
)
def test_a_value_is_decoded_by_its_stated_type(kind, value, expected):
    found = decoded(kind, value)
    assert found == expected
    assert type(found) is type(expected)


# -- The key and the address -----------------------------------------------------------------------------------------
@both
def test_a_redirect_takes_the_key_nowhere(server, engine):
    other = VendorServer()
    try:
        server.for_ever = redirects(f"{other.url}/0.1.0/batch_feature_store")
        with pytest.raises(UnreadableError, match="307"):
            online(server, engine).read([("N1", 7)])
        assert other.asked == []
    finally:
        other.close()


@pytest.mark.parametrize(
    "url", ["http://acme.tecton.ai", "acme.tecton.ai", "https://", "https://me@acme.tecton.ai", "https://a/?b=c"]
)
def test_an_address_that_would_give_the_key_away_is_refused(server, url):
    manifest = Manifest(model="flights", kind="regression", task="?", features=(), examples=(), stored=stored("tecton"))
    with pytest.raises(ModelworksError, match="must be https://HOST"):
        OnlineFeatures(manifest, Place(url=url))


@both
def test_a_server_without_an_address_says_which_setting_is_missing(server, engine, monkeypatch):
    monkeypatch.setattr(VendorServer, "url", "")
    with pytest.raises(ModelworksError, match="MODELWORKS_FEATURE_URL is not set") as error:
        online(server, engine)
    assert "feature_api" in error.value.fix


@both
def test_a_key_that_would_be_two_headers_is_refused(server, engine, monkeypatch):
    monkeypatch.setenv(f"{engine.upper()}_API_KEY", "key\r\nX-Other: 1")
    with pytest.raises(ModelworksError, match="no single line of plain characters"):
        online(server, engine)


@both
def test_a_server_without_a_key_says_where_it_is_looked_for(server, engine, monkeypatch):
    monkeypatch.delenv(f"{engine.upper()}_API_KEY")
    with pytest.raises(ModelworksError, match=f"there is no API key for {engine}") as error:
        online(server, engine)
    assert f"{engine.upper()}_API_KEY" in error.value.fix


@pytest.fixture
def secret(aws_by_variables):
    """A secret in a Secrets Manager of its own."""
    import boto3

    client = boto3.client("secretsmanager")
    arn = client.create_secret(Name=f"key-{uuid.uuid4()}", SecretString=f"{KEY}\n")["ARN"]
    return lambda value=None: client.put_secret_value(SecretId=arn, SecretString=value) if value else arn


def with_secret(server: VendorServer, arn: str) -> OnlineFeatures:
    manifest = Manifest(
        model="flights",
        kind="regression",
        task="?",
        features=(
            Feature(name="mean_delay", type="number", nullable=True),
            Feature(name="flights", type="integer", nullable=True),
            Feature(name="sky", type="string", nullable=True),
        ),
        examples=({"tail": "N1", "leg": 7},),
        stored=stored("tecton"),
    )
    return OnlineFeatures(manifest, Place(url=server.url, key_secret=arn))


def test_a_key_that_is_rotated_is_read_again_without_a_restart(server, secret, monkeypatch):
    monkeypatch.delenv("TECTON_API_KEY")
    monkeypatch.setattr("modelworks.runtime.feature_vectors._RENEW_SECONDS", 0)
    features = with_secret(server, secret())
    assert features.read([("N1", 7)])[0].values == [FOUND]
    server.key = "another"
    with pytest.raises(UnreadableError, match="401"):
        features.read([("N1", 7)])
    secret("another")
    assert features.read([("N1", 7)])[0].values == [FOUND]


def test_a_secret_that_cannot_be_read_is_named(server, secret):
    with pytest.raises(ModelworksError, match="cannot be read from arn:aws:nowhere") as error:
        with_secret(server, "arn:aws:nowhere")
    assert "secretsmanager:GetSecretValue" in error.value.fix


@both
def test_a_mistake_in_the_settings_shows_before_anything_is_served(server, engine):
    features = online(server, engine)
    assert features.check(("N1", 7)) == ""
    server.services.clear()
    with pytest.raises(ModelworksError, match=f"cannot be read from {engine}"):
        features.check(("N1", 7))


@both
def test_a_vendor_that_is_away_does_not_keep_a_server_from_starting(server, engine):
    server.for_ever = refuses(503)
    assert "answered 503" in online(server, engine).check(("N1", 7))
