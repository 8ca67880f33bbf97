"""A local Hub for each test file; `online` sets no endpoint: use `api`, `here`, or run with `hub_environment`."""

from fixtures.hub import api, here, hub, logged_in, online  # noqa: F401
