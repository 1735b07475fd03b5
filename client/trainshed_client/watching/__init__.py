"""Watching records: the present of a bucket, then the newest of each of its keys as they change.

Owns nothing itself; see watch.py.
"""
