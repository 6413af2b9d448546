"""A trained detector as files for elsewhere: transformers, PEFT, StableHLO, a model card."""
