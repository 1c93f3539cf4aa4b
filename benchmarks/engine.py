"""The cost of our components compared with bare Pulumi, and the growth of the engine.

    .venv/bin/python benchmarks/engine.py [--repeats 3] [--largest 1000]

Brings up the AWS side of a laptop cloud of its own in a temporary folder and takes it down again. Prints one JSON
object; nothing is asserted. Seconds and MiB; medians of the repeats, in which ours and bare take turns. `ours` and
`bare` declare the same resources, by `modelworks.Environment` and by hand, once and ten times in one program: the
difference is what a resource costs, free of what starting costs. Memory is the largest sum of resident sets of the
engine, the language host and the program.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from modelworks.laptop import cloud, environments, toolchain
from modelworks.laptop.state_dir import StateDir

ROOT = Path(__file__).parents[1]
FEW, MANY = 1, 10
TAGS = {"environment": "local", "owner": "you", "cost-centre": "laptop", "project": "bench", "managed-by": "pulumi"}

OURS = f"""
from modelworks import Environment
from modelworks.stack import require_account, tag_everything

account = require_account(["000000000000"])
tag_everything({TAGS})
for number in range(NUMBER):
    Environment(
        f"local-{{number}}",
        {{
            "account_id": account,
            "alert_emails": ["you@example.com"],
            "budget": {{"monthly_usd": 100}},
            "key_deletion_days": 7,
            "protect": False,  # the run ends with a destroy
        }},
    )
"""

BARE = f"""
import json
import pulumi
import pulumi_aws as aws

tags = {TAGS}
account = aws.get_caller_identity().account_id
source = {{"StringEquals": {{"aws:SourceAccount": account}}}}
services = {{"Service": ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"]}}


def document(*statements):
    return json.dumps({{"Version": "2012-10-17", "Statement": statements}})


def topic_policy(arn):
    insecure = {{"Bool": {{"aws:SecureTransport": "false"}}}}
    return document(
        {{"Effect": "Allow", "Principal": services, "Action": "sns:Publish", "Resource": arn, "Condition": source}},
        {{"Effect": "Deny", "Principal": "*", "Action": "sns:Publish", "Resource": arn, "Condition": insecure}},
    )


def alert(kind, percent, arn):
    return aws.budgets.BudgetNotificationArgs(
        comparison_operator="GREATER_THAN",
        notification_type=kind,
        threshold=percent,
        threshold_type="PERCENTAGE",
        subscriber_sns_topic_arns=[arn],
    )


for number in range(NUMBER):
    name = f"local-{{number}}"
    root = {{"AWS": f"arn:aws:iam::{{account}}:root"}}
    usage = ["kms:Decrypt", "kms:GenerateDataKey*"]
    key = aws.kms.Key(
        f"{{name}}-key",
        description="Encrypts what the environment stores",
        enable_key_rotation=True,
        deletion_window_in_days=7,
        policy=document(
            {{"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}},
            {{"Effect": "Allow", "Principal": services, "Action": usage, "Resource": "*", "Condition": source}},
        ),
        tags=tags,
    )
    aws.kms.Alias(f"{{name}}-key-alias", target_key_id=key.key_id)
    topic = aws.sns.Topic(f"{{name}}-alerts", kms_master_key_id=key.arn, tags=tags)
    aws.sns.TopicPolicy(f"{{name}}-alerts-policy", arn=topic.arn, policy=topic.arn.apply(topic_policy))
    aws.sns.TopicSubscription(f"{{name}}-email", topic=topic.arn, protocol="email", endpoint="you@example.com")
    aws.budgets.Budget(
        f"{{name}}-budget",
        budget_type="COST",
        limit_amount="100.00",
        limit_unit="USD",
        time_unit="MONTHLY",
        notifications=[alert("ACTUAL", 80, topic.arn), alert("FORECASTED", 100, topic.arn)],
        tags=tags,
    )
"""

BUCKETS = """
import pulumi_aws as aws

for number in range(NUMBER):
    aws.s3.Bucket(f"store-{number}")
"""

EVALUATION = """
import json, runpy, sys
sys.path.insert(0, "tests")
from mocks import Declared, declare
from ruamel.yaml import YAML
config = YAML(typ="safe").load(open("stacks/local.template.yaml"))["config"]
config["modelworks:secrets"] = {"registry_password": "of the benchmark alone"}
config = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
declare(
    lambda: runpy.run_path("stacks", run_name="__main__"),
    stack="local",
    config=config,
    mocks=Declared(caller_arn="arn:aws:iam::000000000000:user/somebody"),
)
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--largest", type=int, default=1000, help="buckets of the largest program that is previewed")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelworks-benchmark-"))
    place = StateDir(folder / "place")
    try:
        print(json.dumps(measure(place, folder, options.repeats, options.largest), indent=2))
    finally:
        cloud.down(place)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(place: StateDir, folder: Path, repeats: int, largest: int) -> dict[str, Any]:
    """All of it, in one run."""
    toolchain.ensure(["pulumi"])
    cloud.up(place, kubernetes=False, report=_say)
    cloud.down(place, keep=True)
    warm = _timed(lambda: cloud.up(place, kubernetes=False, report=_say))
    variables = {**os.environ, **environments.environment_variables(place, "local")}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    stack = _Stack(folder / "program", variables)
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "aws_warm_start_s": warm,
        "evaluation_s": _evaluation(folder, variables, repeats),
        "environment": _beside_bare(stack, repeats),
    }
    found["preview_growth"] = _growth(stack, [size for size in (10, 100, 300, 1000) if size <= largest])
    return found


class _Stack:
    """One stack whose program is exchanged."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables
        folder.mkdir()
        runtime = f"runtime:\n  name: python\n  options:\n    virtualenv: {Path(sys.executable).parents[1]}\n"
        (folder / "Pulumi.yaml").write_text(f"name: bench\n{runtime}")
        (folder / "Pulumi.local.yaml").write_text("config:\n  aws:region: eu-central-1\n")
        self.pulumi("stack", "init", "local")

    def program(self, text: str, number: int) -> None:
        (self.folder / "__main__.py").write_text(textwrap.dedent(text).replace("NUMBER", str(number)))

    def pulumi(self, *arguments: str) -> tuple[float, float]:
        """Run it: seconds, and the largest memory of its processes."""
        began, most = time.monotonic(), 0.0
        argv = ["pulumi", *arguments, "--non-interactive"]
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                argv, cwd=self.folder, env=self.variables, stdout=output, stderr=subprocess.STDOUT
            )
            while process.poll() is None:
                most = max(most, _resident(process.pid))
                time.sleep(0.05)
            seconds = time.monotonic() - began
            if process.returncode:
                output.seek(0)
                raise SystemExit(f"pulumi {arguments[0]} failed: {output.read()}")
        return seconds, most


def _beside_bare(stack: _Stack, repeats: int) -> dict[str, Any]:
    """Preview, up and no-change preview of both programs at both sizes, and what that is a resource."""
    runs: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for number in (FEW, MANY):
            for name, text in (("ours", OURS), ("bare", BARE)):
                stack.program(text, number)
                for step, arguments in (
                    ("preview", ("preview",)),
                    ("up", ("up", "--yes", "--skip-preview")),
                    ("preview_unchanged", ("preview", "--expect-no-changes")),
                ):
                    runs.setdefault((name, number, step), []).append(stack.pulumi(*arguments, "--stack", "local"))
                stack.pulumi("destroy", "--yes", "--skip-preview", "--stack", "local")
    found: dict[str, Any] = {}
    for step in ("preview", "up", "preview_unchanged"):
        seconds = {
            (name, number): statistics.median(run[0] for run in runs[name, number, step])
            for name in ("ours", "bare")
            for number in (FEW, MANY)
        }
        # A component is a resource of the engine's too: seven ours, six bare, beside the stack itself.
        each = {
            name: (seconds[name, MANY] - seconds[name, FEW]) / ((MANY - FEW) * count)
            for name, count in (("ours", 7), ("bare", 6))
        }
        found[step] = {
            **{f"{name}_{number}_s": round(value, 2) for (name, number), value in seconds.items()},
            **{f"{name}_ms_per_resource": round(value * 1000, 1) for name, value in each.items()},
            "ratio_per_resource": round(each["ours"] / each["bare"], 2),
            "ratio_whole": round(seconds["ours", MANY] / seconds["bare", MANY], 2),
        }
    memory = {
        name: max(most for (who, _, _), measured in runs.items() if who == name for _, most in measured)
        for name in ("ours", "bare")
    }
    found["peak_memory_mib"] = {name: round(value) for name, value in memory.items()}
    found["peak_memory_ratio"] = round(memory["ours"] / memory["bare"], 2)
    return found


def _growth(stack: _Stack, sizes: list[int]) -> dict[str, float]:
    """Seconds of a first preview, by the number of buckets, and what one more of them costs at either end."""
    found = {}
    for size in sizes:
        stack.program(BUCKETS, size)
        found[str(size)] = round(stack.pulumi("preview", "--stack", "local")[0], 2)
    if len(sizes) > 2:
        for name, (low, high) in {"first": sizes[:2], "last": sizes[-2:]}.items():
            found[f"ms_per_resource_{name}"] = round((found[str(high)] - found[str(low)]) / (high - low) * 1000, 1)
    return found


def _evaluation(folder: Path, variables: dict[str, str], repeats: int) -> float:
    """The whole reference program under mocks, in a fresh process: no engine, no provider."""
    script = folder / "evaluate.py"
    script.write_text(EVALUATION)

    def once() -> None:
        subprocess.run([sys.executable, str(script)], cwd=ROOT, env=variables, check=True)

    once()  # compiles bytecode
    return round(statistics.median(_timed(once) for _ in range(max(3, repeats))), 2)


def _resident(pid: int) -> float:
    total = 0.0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0
    return total


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 2)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
