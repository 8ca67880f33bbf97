"""A local hub for each file of tests; `online` points no client at it: pass its address, or run with `hub_environment`."""

from fixtures.hub import api, here, hub, logged_in, online  # noqa: F401
