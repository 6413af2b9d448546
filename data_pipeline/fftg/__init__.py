"""FFTG, the face forgery text generator: mask, regions, types, words, refinement."""
