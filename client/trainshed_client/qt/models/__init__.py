"""Tables of runs, slots, nodes, the queue and metrics for Qt's views, and the proxy that sorts and filters them.

Owns nothing itself; the names are in `trainshed_client.qt`.
"""
