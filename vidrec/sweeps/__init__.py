"""Train tables of trials: ablations, what trains together, clusters."""
