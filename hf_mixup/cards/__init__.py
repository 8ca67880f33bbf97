"""The model card of a run, made from its record alone."""
