"""Rows to labels: training data, models and their contract."""

import os

# Said before a library that brings OpenMP is loaded: its threads would otherwise spin while they wait.
# Beside other work, as on a gateway, that makes training the transformer several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
