"""Exports of a trained detector: for transformers, PEFT and StableHLO, and for our own commands."""
