"""What a step takes on given hardware, by compiling it."""
