"""Whatever is sent: an answer in time, never a 5xx, and the next request is served."""

from __future__ import annotations

import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.example_bundle import rows

SHARED = [HealthCheck.function_scoped_fixture]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None, suppress_health_check=SHARED)
@given(changes=st.dictionaries(st.sampled_from([f"x{n}" for n in range(14)] + ["carrier", "rows", "y"]), values))
def test_any_json_gets_a_prediction_or_a_reason(server, changes):
    status, body, _ = server.ask("POST", "/v1/predict", {**rows(1)[0], **changes})
    assert status in {200, 422}
    assert "predictions" in body or body["detail"]


@settings(max_examples=100, deadline=None, suppress_health_check=SHARED)
@given(body=st.binary(max_size=2000))
def test_any_bytes_get_a_reason(server, body):
    assert server.ask("POST", "/v1/predict", body)[0] in {400, 422}


@settings(max_examples=100, deadline=None, suppress_health_check=SHARED)
@given(
    start=st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /v1/predict HTTP/1.1\r\nhost: x\r\n", b"PRI * HTTP/2.0"]),
    noise=st.binary(max_size=500),
)
def test_any_bytes_on_a_connection_leave_the_server_well(server, start, noise):
    with server.connect() as client:
        client.sendall(start + noise + b"\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        try:
            answer = client.recv(1 << 16)
        except ConnectionResetError:
            answer = b""
    assert answer[9:10] != b"5"
    assert server.ask("GET", "/readyz")[0] == 200
