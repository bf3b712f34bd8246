"""Configurations, read by `--config=configs/NAME.py:VARIANT`."""
