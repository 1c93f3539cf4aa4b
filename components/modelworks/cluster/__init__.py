"""An environment's cluster, seen from outside: a client, rollouts and training jobs."""
