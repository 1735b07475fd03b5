"""Three nats-servers that keep one log together: fixed members, each file of theirs made in one go.

Owns that layout; nobody enrols there, and none of it starts anything. `python -m services.three_servers --help`.
"""
