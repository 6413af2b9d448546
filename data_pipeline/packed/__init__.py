"""Packed sets: the schema of an annotation line and of a record, building, reading and splitting."""
