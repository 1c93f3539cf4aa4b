"""The CrossGuard policy pack: `pulumi preview --policy-pack policy`, which `modelworks preview` and `up` always do."""

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from rules import RULES, Rule, unguarded_buckets


def _policy(rule: Rule) -> ResourceValidationPolicy:
    def validate(args: ResourceValidationArgs, report_violation: ReportViolation) -> None:
        if rule.applies_to(args.resource_type):
            for problem in rule.check(args.props):
                report_violation(problem, None)

    return ResourceValidationPolicy(name=rule.name, description=rule.meaning, validate=validate)


def _buckets(args: StackValidationArgs, report_violation: ReportViolation) -> None:
    for urn, problem in unguarded_buckets(args.resources):
        report_violation(problem, urn)


PolicyPack(
    name="modelworks",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[
        *(_policy(rule) for rule in RULES),
        StackValidationPolicy(
            name="guarded-bucket",
            description="Every bucket has a block of public access, and an encryption",
            validate=_buckets,
        ),
    ],
)
