"""Arithmetic on tensors and arrays that knows no network."""
