"""Training recipes: each module has get_config(), and get_sweep() where it has one."""
