"""Pure functions of tensors: what goes in is never written to, randomness comes in as `rng`."""
