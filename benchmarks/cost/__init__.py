"""What a step costs: time, memory, operations, bytes on the wire."""
