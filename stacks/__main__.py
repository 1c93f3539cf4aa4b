"""The reference program: one environment of machine learning, by its stack's settings alone."""

import pulumi

from modelworks import Environment
from modelworks.stack import commit, require_account, required_tags, stack_config, tag_everything

stack = pulumi.get_stack()
config = stack_config()
settings = config.settings
account = require_account(config.account_ids)
tag_everything(required_tags(environment=stack, owner=settings.owner, cost_centre=settings.cost_centre))

environment = Environment(
    stack,
    {
        "account_id": account,
        "alert_emails": settings.alerts.emails,
        "key_deletion_days": settings.key_deletion_days,
        "budget": settings.budget.model_dump() if settings.budget else None,
    },
)

pulumi.export("account", account)
pulumi.export("key_arn", environment.key_arn)
pulumi.export("alerts_topic_arn", environment.alerts_topic_arn)
pulumi.export("commit", commit())
