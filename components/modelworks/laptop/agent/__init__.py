"""The node agent: a kubelet for local processes.

It registers the node `laptop`, runs each container's `command` as a process of this machine, and reports to the API
server what a kubelet reports. `docs/guides/node-agent.md` lists what it does and what it does not enforce.
"""
