"""The parts of `launch.annotate` and `launch.calibrate_fftg`."""
