"""What a person touches: the command line, messages, the demo."""
