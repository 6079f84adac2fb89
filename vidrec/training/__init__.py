"""Train groups of trials: batches, optimisers, steps, devices and the loop over epochs."""
