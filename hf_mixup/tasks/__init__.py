"""A task turns a batch into `(net, x, y)`: one function each, called as `task(net, batch, rng)`."""
