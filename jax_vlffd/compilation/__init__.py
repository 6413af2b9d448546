"""What a step takes on given hardware, read from its compiled program."""
