"""Deployments, on the laptop and in a cloud: Pulumi's engine, its previews and its pending operations."""
