"""Requests to the Hub: retries and timeouts, commits, the destination of a run, and downloads of saved models."""
