"""What a run costs: parameters, memory, messages, time."""
