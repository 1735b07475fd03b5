"""Reading the event log: what is stored, then what is appended, without a gap and nothing twice.

Owns nothing itself; see log_reader.py and events.py.
"""
