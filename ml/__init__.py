"""Rows to labels: training data, models and their contract."""
