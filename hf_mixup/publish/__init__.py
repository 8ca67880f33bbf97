"""Export a run with its model card, push it to the Hub, and load or resume it from there."""
