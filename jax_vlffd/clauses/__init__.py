"""Grammar and words by which captions are read, clause by clause."""
