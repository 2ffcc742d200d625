"""From a request to a table: evaluating, shards, statistics, claims, figures."""
