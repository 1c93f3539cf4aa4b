"""Code that runs inside an environment: the served model, its metrics and its prediction log.

Never imports pulumi, and starts lean: a pod is ready a second after its bundle is there.
"""
