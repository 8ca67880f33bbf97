"""From a run's folder to the Hub: what is written for others (export), and when it goes there (stages).

`python -m hf_mixup.publish FOLDER` pushes a finished run, now or again.
"""
