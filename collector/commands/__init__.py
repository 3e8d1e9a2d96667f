"""The command line's commands: wiring only. Heavy imports live inside of them."""
