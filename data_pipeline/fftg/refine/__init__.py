"""Refinement of captions by a multimodal LLM, checked against the annotation."""
