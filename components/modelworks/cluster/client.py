"""A client of a Kubernetes cluster: whatever a kubeconfig can name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from modelworks.cluster.rollout_objects import Object, RolloutObjects, pods_of
from modelworks.cluster.rollout_patches import Patches
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.cluster.training_job import RunObjects as Run

_ARGO = "/apis/argoproj.io/v1alpha1"
_TYPES = {"PATCH": "application/merge-patch+json", "POST": "application/json", "DELETE": "application/json"}
_POLL_SECONDS = 0.5
_MISSES = 60
"""How often in a row a watched cluster may not answer: an API server that restarts is back within seconds."""
_LAST_WORDS_SECONDS = 10.0
"""How long after its end a run's log may take to arrive."""
_T = TypeVar("_T")


class RefusedError(ModelworksError):
    """The API server answered, and did not do it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class KubernetesClient:
    """The API server of an environment.

    It runs the program that a kubeconfig names to sign in (`exec`).

    Args:
        kubeconfig: Path of the file, or what is in it; None for the user's own.
        context: Default: the current one.
        namespace: Where the environment's endpoints are.
    """

    def __init__(self, kubeconfig: str | Object | None, context: str | None, namespace: str) -> None:
        self.namespace = namespace
        self._kubeconfig, self._context = kubeconfig, context
        self._runner = asyncio.Runner()

    # -- Endpoints -------------------------------------------------------------------------------------------------
    def seen(self, model: str) -> RolloutObjects:
        """The cluster's objects of an endpoint.

        Raises:
            ModelworksError: It cannot be reached, or refuses.
        """
        return self._runner.run(self._seen(model))

    async def _seen(self, model: str) -> RolloutObjects:
        mine = {"labelSelector": pods_of(model)}
        core, apps = f"/api/v1/namespaces/{self.namespace}", f"/apis/apps/v1/namespaces/{self.namespace}"
        argo = f"{_ARGO}/namespaces/{self.namespace}"
        rollouts, sets, runs, pods, events = await asyncio.gather(
            self._list(f"{argo}/rollouts", mine),
            self._list(f"{apps}/replicasets", mine),
            self._list(f"{argo}/analysisruns"),
            self._list(f"{core}/pods", mine),
            self._list(f"{core}/events", {"fieldSelector": "type=Warning,involvedObject.kind=Pod"}),
        )
        rollout = max(rollouts, key=lambda item: str(item["metadata"]["creationTimestamp"]), default=None)
        if rollout is None:
            return RolloutObjects(pods=pods, events=events)
        return RolloutObjects(
            rollout, sets, [run for run in runs if _owner(run) == rollout["metadata"]["uid"]], pods, events
        )

    def pods_of_cluster(self, selector: str) -> list[Object]:
        """Pods of every namespace that have these labels.

        Raises:
            ModelworksError: The cluster cannot be reached, or refuses.
        """
        return self._runner.run(self._list("/api/v1/pods", {"labelSelector": selector}))

    def get(self, path: str) -> Object | None:
        """The object at a path of the API; None where there is none.

        Raises:
            ModelworksError: The cluster cannot be reached, or refuses.
        """
        address, _, query = path.partition("?")
        try:
            return self._runner.run(self._call("GET", address, query=dict(parse_qsl(query))))
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def patch(self, rollout: Object, patches: Patches) -> None:
        """Change a Rollout as `kubectl argo rollouts` does: its status first, then its spec.

        Raises:
            ModelworksError: The API server refuses, or cannot be reached.
        """
        path = f"{_ARGO}/namespaces/{self.namespace}/rollouts/{rollout['metadata']['name']}"
        if patches.status:
            self._runner.run(self._call("PATCH", f"{path}/status", {"status": patches.status}))
        if patches.spec:
            self._runner.run(self._call("PATCH", path, {"spec": patches.spec}))

    def annotate(self, rollout: Object, name: str, value: str) -> None:
        """Leave a note on a Rollout; an empty one takes it away.

        Raises:
            ModelworksError: The API server refuses, or cannot be reached.
        """
        path = f"{_ARGO}/namespaces/{self.namespace}/rollouts/{rollout['metadata']['name']}"
        self._runner.run(self._call("PATCH", path, {"metadata": {"annotations": {name: value or None}}}))

    # -- Logs ------------------------------------------------------------------------------------------------------
    def logs(self, model: str, say: Callable[[Object, str], None], *, follow: bool, lines: int, previous: bool) -> int:
        """Hand every line that the pods of an endpoint wrote to `say`, with its pod.

        Args:
            model: The endpoint's model.
            say: Takes a pod and a line.
            follow: Go on with what is written, and with pods that come, until interrupted.
            lines: How many of the last lines of each pod.
            previous: Of the container that ended last, in each pod that restarted.

        Returns:
            How many pods there were.

        Raises:
            ModelworksError: The cluster cannot be reached, or refuses.
        """
        return self._runner.run(self._logs(model, say, follow=follow, lines=lines, previous=previous))

    async def _logs(
        self, model: str, say: Callable[[Object, str], None], *, follow: bool, lines: int, previous: bool
    ) -> int:
        readers: dict[str, asyncio.Task[None]] = {}
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        while True:
            pods = await self._list(path, {"labelSelector": pods_of(model)})
            for pod in pods:
                name = pod["metadata"]["name"]
                if previous and not _restarts(pod):
                    continue
                if name not in readers or (follow and readers[name].done()):
                    # A container that restarted is read from where the last one ended.
                    tail = lines if name not in readers else 0
                    readers[name] = asyncio.create_task(self._read(pod, say, follow, tail, previous))
            if not follow:
                await asyncio.gather(*readers.values())
                return len(readers)
            await asyncio.sleep(1)

    async def _read(
        self, pod: Object, say: Callable[[Object, str], None], follow: bool, lines: int, previous: bool
    ) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/log"
        query = {"tailLines": str(lines), "follow": str(follow).lower(), "previous": str(previous).lower()}
        try:
            async with self._answer("GET", path, query=query, stream=True) as response:
                async for line in response.aiter_lines():
                    say(pod, line)
        except ModelworksError as error:
            say(pod, f"({error.message})")  # a pod that is starting or going has no log; the others do

    # -- Runs ------------------------------------------------------------------------------------------------------
    def start(self, job: Object) -> None:
        """Make a Job.

        Raises:
            ModelworksError: The API server refuses, or cannot be reached.
        """
        self._runner.run(self._call("POST", self._jobs, job))

    def cancel(self, job: str) -> None:
        """Delete a Job with its pods; one that is gone is as good.

        Raises:
            ModelworksError: The API server refuses, or cannot be reached.
        """
        try:
            self._runner.run(self._call("DELETE", f"{self._jobs}/{job}", {"propagationPolicy": "Background"}))
        except RefusedError as error:
            if error.status != 404:
                raise

    def follow(
        self, job: str, judge: Callable[[Run], _T | None], say: Callable[[str], None], note: Callable[[str], None]
    ) -> _T:
        """Hand every line that a Job's pods write to `say`, once, until `judge` makes something of what is seen.

        Args:
            job: Its name.
            judge: Takes what the cluster shows of it; what it returns, if anything, ends this.
            say: Takes a line.
            note: Takes what else is worth knowing meanwhile.

        Raises:
            ModelworksError: The cluster refuses, or cannot be reached for long.
        """
        return self._runner.run(self._follow(job, judge, say, note))

    async def _follow(
        self, job: str, judge: Callable[[Run], _T | None], say: Callable[[str], None], note: Callable[[str], None]
    ) -> _T:
        from modelworks.cluster import training_job as jobs  # commands about endpoints go without it

        readers: dict[str, asyncio.Task[bool]] = {}
        said: dict[str, int] = {}
        missed, noted = 0, ""
        while True:
            try:
                run = await self._run(job)
            except ModelworksError as error:
                missed += 1
                if missed == 1:
                    note(f"{error.message}; trying again")
                if missed > _MISSES:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
                continue
            missed = 0
            for pod in run.pods:
                name = pod["metadata"]["name"]
                if jobs.started(pod) and (name not in readers or _to_read_again(readers[name], pod)):
                    readers[name] = asyncio.create_task(self._copy(name, said, say))
            if (ended := judge(run)) is not None:
                if readers:
                    await asyncio.wait(readers.values(), timeout=_LAST_WORDS_SECONDS)
                return ended
            if (waits := jobs.waiting_for(run)) and waits != noted:
                note(f"waiting: {waits}")
                noted = waits
            await asyncio.sleep(_POLL_SECONDS)

    async def _run(self, job: str) -> Run:
        from modelworks.cluster.training_job import RunObjects as Run

        try:
            found = await self._call("GET", f"{self._jobs}/{job}")
        except RefusedError as error:
            if error.status != 404:
                raise
            return Run(None)
        # Asked after the Job, its pods are no older than what the Job says of them.
        core = f"/api/v1/namespaces/{self.namespace}"
        about = f"type=Warning,involvedObject.kind=Job,involvedObject.name={job}"
        pods, events = await asyncio.gather(
            self._list(f"{core}/pods", {"labelSelector": f"batch.kubernetes.io/job-name={job}"}),
            self._list(f"{core}/events", {"fieldSelector": about}),
        )
        return Run(found, sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])), events)

    async def _copy(self, pod: str, said: dict[str, int], say: Callable[[str], None]) -> bool:
        """Report the new lines of a pod's log; False if the log broke off."""
        path, count = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log", 0
        try:
            async with self._answer("GET", path, query={"follow": "true"}, stream=True) as response:
                async for line in response.aiter_lines():
                    count += 1
                    if count > said.get(pod, 0):
                        said[pod] = count
                        say(line)
        except ModelworksError:
            return False  # read again as long as the pod is there
        return True

    @property
    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs"

    # -- Requests --------------------------------------------------------------------------------------------------
    async def _list(self, path: str, query: Mapping[str, str] | None = None) -> list[Object]:
        return list((await self._call("GET", path, query=query)).get("items") or [])

    async def _call(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        async with self._answer(method, path, body, query=query) as response:
            answer: dict[str, Any] = response.json()
            return answer

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> AsyncIterator[Any]:
        import httpx  # a client is loaded only where a cluster is asked
        import kr8s

        base, _, rest = path.lstrip("/").partition("/")
        more: dict[str, Any] = {"params": dict(query or {})}
        if body is not None:
            more |= {"content": json.dumps(body), "headers": {"Content-Type": _TYPES[method]}}
        if stream:
            more["timeout"] = httpx.Timeout(15, read=None)
        try:
            api = await self._api
            async with api.call_api(method, version="", base=f"/{base}", url=rest, stream=stream, **more) as response:
                yield response
        except (kr8s.ServerError, httpx.HTTPStatusError) as error:
            status = error.response.status_code if error.response is not None else 0
            raise RefusedError(f"the cluster refuses {method} {path}: {error}", status) from error
        except (httpx.HTTPError, OSError, kr8s.APITimeoutError, kr8s.ConnectionClosedError, ValueError) as error:
            raise ModelworksError(
                f"the cluster of this environment cannot be reached: {error or type(error).__name__}",
                fix="On the laptop: `modelworks laptop status`. Else try `kubectl get namespaces` in that context.",
            ) from error

    @cached_property
    def _api(self) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self._sign_in())

    async def _sign_in(self) -> Any:
        from kr8s.asyncio import api

        # Its types know the path alone.
        kubeconfig: Any = self._kubeconfig
        try:
            return await api(kubeconfig=kubeconfig, context=self._context, namespace=self.namespace)
        except RuntimeError as error:  # kr8s has no other for a program that failed
            raise ModelworksError(
                f"signing in to the cluster of this environment failed: {error}",
                fix="Sign in to its account; `kubectl get namespaces` in that context shows whether it works.",
            ) from error


def _to_read_again(reader: asyncio.Task[bool], pod: Object) -> bool:
    """Whether a log that ended is not all that its pod wrote."""
    over = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    return reader.done() and not (over and reader.result())


def _owner(item: Object) -> str:
    owners = item["metadata"].get("ownerReferences") or [{}]
    return str(owners[0].get("uid", ""))


def _restarts(pod: Object) -> int:
    return sum(item.get("restartCount", 0) for item in (pod.get("status") or {}).get("containerStatuses") or [])
