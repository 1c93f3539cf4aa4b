"""The laptop's gateway: one local port that follows the cluster's Ingresses, Services and ready Pods.

Two processes: Caddy, which carries the requests, and `python -m modelworks.laptop.gateway`, which watches the API
server and sends Caddy the routes. Either may be killed: Caddy continues with its routes, a new Caddy reads them.
"""

from __future__ import annotations

from modelworks.laptop.gateway.caddy import caddy_program

__all__ = ["caddy_program"]
