"""Private and pure: schedules as a CronJob of Kubernetes takes them."""


def _field(value: str) -> str:
    item = rf"(\*|({value})(-({value}))?)(/[1-9]\d*)?"
    return f"{item}(,{item})*"


SCHEDULE = " ".join(
    map(
        _field,
        (
            r"[0-5]?\d",
            r"[01]?\d|2[0-3]",
            r"0?[1-9]|[12]\d|3[01]",
            r"0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC",
            r"[0-6]|SUN|MON|TUE|WED|THU|FRI|SAT",
        ),
    )
)
"""Pattern of the five fields of cron: minute, hour, day of the month, month, day of the week (Sunday is 0)."""
