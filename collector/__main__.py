"""`python -m collector` is `flowml`."""

from collector.cli import main

main()
