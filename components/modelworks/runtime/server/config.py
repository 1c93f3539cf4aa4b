"""The configuration of a served pod, from its environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime.online_engine import Place, read_place


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server. See `modelworks.contract` for what each variable means."""

    bundle_uri: str
    digest: str
    model: str
    version: str = ""
    environment: str = "local"
    host: str = "127.0.0.1"
    pod: str = "pod"
    port: int = contract.DEFAULT_PORT
    grpc_port: int | None = None
    allow_anonymous: bool = False
    token_file: Path | None = None
    trusted_keys: Path | None = None
    prediction_log: str = ""
    prediction_log_sample: float = 1.0
    prediction_log_seconds: float = 60.0
    cloudwatch: bool = True
    metrics_seconds: float = 10.0
    workers: int = 1
    scratch: Path | None = None
    drain_seconds: float = 5.0
    max_body_bytes: int = 1 << 20
    latency_objective_ms: float | None = None
    access_log: float = 0.01
    features: Place = Place()

    @property
    def release(self) -> str:
        """The release's digest, shortened: the `version` dimension of metrics."""
        return contract.short_digest(self.digest)


def read_config(environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in `environ`.

    Raises:
        ModelworksError: A variable is missing or is not what it should be.
    """
    tokens = environ.get(contract.ENV_TOKEN_FILE)
    allow_anonymous = _flag(environ, contract.ENV_ALLOW_ANONYMOUS)
    if not tokens and not allow_anonymous:
        raise ModelworksError(
            f"neither {contract.ENV_TOKEN_FILE} nor {contract.ENV_ALLOW_ANONYMOUS} is set",
            fix="Access is closed by default: name a file with bearer tokens, or set "
            f"{contract.ENV_ALLOW_ANONYMOUS}=true.",
        )
    digest = _required(environ, contract.ENV_BUNDLE_DIGEST)
    try:
        contract.short_digest(digest)
    except ValueError as error:
        raise ModelworksError(f"{contract.ENV_BUNDLE_DIGEST}: {error}") from error
    keys = environ.get(contract.ENV_TRUSTED_KEYS)
    scratch = environ.get(contract.ENV_SCRATCH)
    objective = environ.get(contract.ENV_LATENCY_OBJECTIVE_MS)
    log = environ.get(contract.ENV_PREDICTION_LOG, "")
    if log and not log.startswith("s3://"):
        raise ModelworksError(f"{contract.ENV_PREDICTION_LOG} must be s3://bucket/prefix, got {log!r}")
    metrics = environ.get(contract.ENV_METRICS, "cloudwatch")
    if metrics not in {"cloudwatch", "none"}:
        raise ModelworksError(f"{contract.ENV_METRICS} must be cloudwatch or none, got {metrics!r}")
    port = int(_number(environ, contract.ENV_PORT, contract.DEFAULT_PORT, 0, 65535))
    grpc_port = int(_number(environ, contract.ENV_GRPC_PORT, 0, 1, 65535)) or None
    return Config(
        bundle_uri=_required(environ, contract.ENV_BUNDLE_URI),
        digest=digest,
        model=_required(environ, contract.ENV_MODEL),
        version=environ.get(contract.ENV_VERSION, ""),
        environment=environ.get(contract.ENV_ENVIRONMENT, "local"),
        host=environ.get(contract.ENV_POD_IP, "127.0.0.1"),
        pod=environ.get(contract.ENV_POD_NAME) or environ.get("HOSTNAME") or "pod",
        port=port,
        grpc_port=grpc_port,
        allow_anonymous=allow_anonymous,
        token_file=Path(tokens) if tokens else None,
        trusted_keys=Path(keys) if keys else None,
        prediction_log=log.rstrip("/"),
        prediction_log_sample=_number(environ, contract.ENV_PREDICTION_LOG_SAMPLE, 1.0, 0, 1),
        prediction_log_seconds=_number(environ, contract.ENV_PREDICTION_LOG_SECONDS, 60.0, 0.1, 3600),
        cloudwatch=metrics == "cloudwatch",
        metrics_seconds=_number(environ, contract.ENV_METRICS_SECONDS, 10.0, 0.1, 3600),
        workers=int(_number(environ, contract.ENV_WORKERS, 1, 1, 256)),
        scratch=Path(scratch) if scratch else None,
        drain_seconds=_number(environ, contract.ENV_DRAIN_SECONDS, 5.0, 0, 600),
        max_body_bytes=int(_number(environ, contract.ENV_MAX_BODY_BYTES, 1 << 20, 1024, 1 << 30)),
        latency_objective_ms=_number(environ, contract.ENV_LATENCY_OBJECTIVE_MS, 0, 0.001, 600_000)
        if objective
        else None,
        access_log=_number(environ, contract.ENV_ACCESS_LOG, 0.01, 0, 1),
        features=read_place(environ),
    )


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise ModelworksError(
            f"{name} is not set", fix="The endpoint's pod template sets it; see docs/guides/serving.md."
        )
    return value


def _flag(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "false").lower()
    if value not in {"true", "false"}:
        raise ModelworksError(f"{name} must be true or false, got {value!r}")
    return value == "true"


def _number(environ: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environ.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise ModelworksError(f"{name} must be a number, got {text!r}") from None
    if not low <= value <= high:
        raise ModelworksError(f"{name} must be between {low:g} and {high:g}, got {text}")
    return value
