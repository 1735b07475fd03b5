"""Callbacks of training frameworks that report by `trainshed_client.notify`: a module for each, which imports its framework.

Owns nothing itself; must import no framework.
"""
