"""Visual-linguistic face forgery detection in JAX."""
