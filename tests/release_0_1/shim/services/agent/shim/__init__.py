"""The shim: the small process that owns one attempt's worker, outlives the agent and writes down its exit.

Owns the worker's start, limits, stop and end; imports nothing but the standard library and knows no agent, no NATS.
"""
