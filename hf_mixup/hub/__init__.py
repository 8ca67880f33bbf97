"""Talking to the Hub: what is tried again, one commit at a time, where a run belongs, and saved models as they come."""
