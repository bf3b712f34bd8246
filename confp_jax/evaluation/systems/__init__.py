"""Fingerprinters side by side: each behind one small protocol, in a process of its own, given the
same WAV files.
"""
