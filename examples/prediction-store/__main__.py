"""A bucket of prediction logs that keeps them for a month, and a role that reads it."""

import pulumi

from modelworks import Environment, PredictionStore
from modelworks.stack import require_account

account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))
environment = Environment("serving", {"account_id": account})

predictions = PredictionStore("predictions", {"days": 30, "key_arn": environment.key_arn, "account_id": account})

pulumi.export("prediction_bucket", predictions.bucket)
pulumi.export("prediction_reader_role_arn", predictions.reader_role_arn)
