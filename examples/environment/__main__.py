"""The ground of an environment: an encryption key, an alerts topic and a budget."""

import pulumi

from modelworks import Environment
from modelworks.stack import require_account, required_tags, tag_everything

account = require_account(pulumi.Config("aws").require_object("allowedAccountIds"))
tag_everything(required_tags(environment=pulumi.get_stack(), owner="growth", cost_centre="4711"))

churn = Environment("churn", {"account_id": account, "budget": {"monthly_usd": 200}})

pulumi.export("key", churn.key_arn)
pulumi.export("alerts", churn.alerts_topic_arn)
