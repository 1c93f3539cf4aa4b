"""Private: how components declare what they have in common: roles, buckets, objects of a cluster."""
