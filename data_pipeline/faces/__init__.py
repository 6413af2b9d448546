"""Faces: detection, landmarks, crops and regions."""
