"""Training runs and their workdirs."""
