"""What runs in an environment's cluster, as it is reached from outside: a client, rollouts and training jobs."""
