"""Train tables of trials: plan what trains together, and train it here or on a cluster."""
