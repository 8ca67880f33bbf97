"""From a run's folder to the Hub: export, model card, push, and back again."""
