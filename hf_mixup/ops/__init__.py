"""Pure functions of tensors: arguments are not modified, and every random draw takes `rng`."""
