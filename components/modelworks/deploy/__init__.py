"""The road to an environment, on the laptop and in a cloud: Pulumi's engine, its previews and its unfinished work."""
