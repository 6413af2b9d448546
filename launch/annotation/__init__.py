"""What `launch.annotate` is made of."""
