"""Pulumi provider plugins of the laptop cloud: `aws` against moto, `kubernetes` against the local API server.

The engine attaches to them through `PULUMI_DEBUG_PROVIDERS`. On a real cloud nothing of this is loaded.
"""

from __future__ import annotations
