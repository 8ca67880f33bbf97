"""A local Hub for each test file."""

from fixtures.hub import api, hub, online  # noqa: F401
