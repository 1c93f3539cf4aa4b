"""Write the context that a stack's file names into the kubeconfig. A stack that makes its cluster names none."""

import subprocess
import sys
from pathlib import Path

import yaml

config = yaml.safe_load(Path(f"stacks/Pulumi.{sys.argv[1]}.yaml").read_text(encoding="utf-8"))["config"]
if context := config.get("kubernetes:context"):
    # The context is called as the cluster, or by its ARN, as the AWS CLI calls it by itself.
    named = ["--region", config["aws:region"], "--name", context.rpartition("/")[2], "--alias", context]
    subprocess.run(["aws", "eks", "update-kubeconfig", *named], check=True)
