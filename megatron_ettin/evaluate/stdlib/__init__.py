"""Tasks from text that every machine has: functions of Python's standard library, kept out of the training text."""
