"""What is kept on disk, and how it stays whole: fingerprints, files, fetched files, shared values, progress."""
