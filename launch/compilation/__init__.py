"""What `launch.compile` is made of."""
