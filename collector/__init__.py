"""Packets to rows, rows to lines: the collector of flowml."""
