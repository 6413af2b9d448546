"""What `launch.evaluate` is made of."""
