"""The record format, and the input pipeline that reads it."""
