"""The laptop cloud: a real engine, a real Kubernetes control plane and an AWS emulator on loopback.

A place that holds several environments, each with a Pulumi backend, an AWS account and a namespace of its own.
Nobody imports it but the command line and the tests.
"""
