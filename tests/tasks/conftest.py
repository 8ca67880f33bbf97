"""A local Hub for each test file."""

from fixtures.hub import api, here, hub, online  # noqa: F401
