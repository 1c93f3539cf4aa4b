"""The road to an environment, on the laptop and in a cloud alike: Pulumi's engine, its previews, its unfinished work."""
