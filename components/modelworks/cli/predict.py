"""`predict`: send a row to an endpoint."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks.cli.console import OBSERVE, Json, Model, err, out
from modelworks.cli.context import DEFAULT_ENVIRONMENT, Env, EnvironmentContext
from modelworks.cli.exit_codes import epilog
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_EXAMPLES_A_SECOND = 20
"""Requests a second to the laptop's idle endpoint, while a rollout waits for evidence."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("predict", rich_help_panel=OBSERVE, epilog=epilog("predict"))(predict)


def predict(
    model: Model,
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    example: Annotated[bool, typer.Option("--example", help="Send the model's own example. The default.")] = False,
    data: Annotated[str, typer.Option("--data", metavar="JSON|@FILE", help='One row, or {"rows": [...]}.')] = "",
    token_file: Annotated[Path | None, typer.Option("--token-file", help="File with the bearer token.")] = None,
    as_json: Json = False,
) -> None:
    """Send a row to an endpoint, and print its prediction.

    Without --token-file, the command uses a token of the stack's secrets, if there is one.

    Example: `modelworks predict flight-delay --env dev --data '{"rows": [{"carrier": "UA", "distance": 1400}]}'`.
    """
    if example and data:
        raise ModelworksError("--example and --data exclude each other", fix="Give one of them.")
    target = EnvironmentContext.of(env)
    endpoint = endpoint_of(target, model, token_of(target, model, token_file))
    body = _read(data) if data else endpoint.example()
    sent = time.perf_counter()
    answer, version = endpoint.predict(body)
    milliseconds = (time.perf_counter() - sent) * 1000
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    if not data:
        out.print(f"[dim]sent:[/] {escape(json.dumps(body))}", soft_wrap=True)
    for prediction in answer.get("predictions", []):
        out.print("  ".join(f"{name} [bold]{escape(_shown(value))}[/]" for name, value in prediction.items()))
    out.print(f"[dim]{escape(str(answer.get('model', model)))} {escape(version)}, {milliseconds:.0f} ms[/]")


# -- Endpoints -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class EndpointClient:
    """Where a model answers."""

    model: str
    client: Any
    """An httpx client, with its token if it needs one."""

    def example(self) -> Any:
        """A request that is valid, as the model itself documents it.

        Raises:
            ModelworksError: The endpoint does not answer, or documents no example.
        """
        answer = self._ask("GET", "/openapi.json")
        content = answer["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
        if "example" in content:
            return content["example"]
        examples = list((content.get("examples") or {}).values())
        if not examples:
            raise ModelworksError(f"{self.model} documents no example", fix="Give one with --data.")
        return examples[0]["value"]

    def predict(self, body: Any) -> tuple[dict[str, Any], str]:
        """The endpoint's answer, and the version that gave it.

        Raises:
            ModelworksError: The endpoint does not answer, or refuses the request.
        """
        answer = self._ask("POST", "/v1/predict", body)
        return answer, str(answer.get("version", ""))

    def first_answer(self, *, within: float, pause: Callable[[float], object] = time.sleep) -> tuple[Any, Any]:
        """Predict a row of the model's own example, again until an answer comes.

        Args:
            within: Seconds after which the last failure is raised.
            pause: Waits these seconds between two tries, or raises what ends them.

        Returns:
            The row, and the answer to it.

        Raises:
            ModelworksError: It does not answer in time.
        """
        deadline = time.monotonic() + within
        while True:
            try:
                body = self.example()
                row = body["rows"][0] if "rows" in body else body
                return row, self.predict(row)[0]
            except ModelworksError:
                if time.monotonic() > deadline:
                    raise
            pause(0.1)

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        import httpx

        try:
            response = self.client.request(method, path, json=body) if body is not None else self.client.get(path)
        except httpx.HTTPError as error:
            raise ModelworksError(
                f"{self.model} does not answer at {self.client.base_url}: {error or type(error).__name__}",
                fix="Run `modelworks status`.",
            ) from error
        try:
            answer = response.json()
        except ValueError:
            answer = {"detail": response.text[:500]}
        if response.is_error:
            raise ModelworksError(
                f"{self.model} answers {response.status_code}: {_problem(answer)}", fix=_fix(response)
            )
        if not isinstance(answer, dict):
            raise ModelworksError(f"{self.model} returned no JSON object at {path}")
        return answer


def endpoint_of(target: EnvironmentContext, model: str, token: str) -> EndpointClient:
    import httpx

    url = target.models.get(model)
    if not url:
        have = ", ".join(sorted(target.models)) or "none"
        raise ModelworksError(
            f"{target.environment} has no endpoint {model!r}; it has {have}",
            fix=f"Release it and run `modelworks up {target.environment}`.",
        )
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return EndpointClient(
        model, httpx.Client(base_url=url, headers=headers, timeout=10, trust_env=not target.engine.on_laptop)
    )


def token_of(target: EnvironmentContext, model: str, file: Path | None = None) -> str:
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelworksError(f"cannot read the token file {file}: {error.strerror}") from error
    else:
        from modelworks.stack_config import load

        tokens = load(target.stack_file).secrets.tokens
        text = target.secret(f"tokens.{model}") if model in tokens else ""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _read(data: str) -> Any:
    try:
        if data == "@-":
            return json.loads(sys.stdin.read())
        return json.loads(Path(data[1:]).read_text(encoding="utf-8") if data.startswith("@") else data)
    except OSError as error:
        raise ModelworksError(f"cannot read {data[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise ModelworksError(f"--data is not JSON: {error}", fix='Give one row, or {"rows": [...]}.') from error


def _problem(answer: Mapping[str, Any] | Any) -> str:
    if not isinstance(answer, dict):
        return str(answer)[:500]
    said = str(answer.get("detail") or answer.get("title") or answer)
    return f"{answer['field']}: {said}" if answer.get("field") else said


def _fix(response: Any) -> str:
    return {
        401: "Give a token of the stack's secrets with --token-file.",
        422: "See the schema at /v1/schema, or send the model's own with --example.",
        429: "The endpoint is overloaded; retry later.",
    }.get(response.status_code, "See `modelworks status` and `modelworks logs`.")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if not isinstance(value, str) else value


@contextmanager
def examples(target: EnvironmentContext, model: str) -> Iterator[None]:
    """On the laptop, send the endpoint its example meanwhile: a rollout without other traffic needs evidence."""
    if not target.engine.on_laptop:
        yield
        return
    over = threading.Event()
    # Whatever needs the engine is asked before: it is no question for a thread.
    try:
        endpoint = endpoint_of(target, model, token_of(target, model))
    except ModelworksError as error:
        err.print(f"examples are not sent: {escape(error.message)}", soft_wrap=True)
        yield
        return

    def ask() -> None:
        body: Any = None
        while not over.wait(1 / _EXAMPLES_A_SECOND):
            try:
                body = endpoint.example() if body is None else body
                endpoint.predict(body)
            except ModelworksError:
                over.wait(1)  # what fails here is counted by the endpoint itself, and judged by the rollout

    sender = threading.Thread(target=ask, name="examples", daemon=True)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join(timeout=5)
