"""The rules of ``evolve`` by number, as an Elected names them (docs/protocol.md rule 17).

Owns the numbers and what each brought; the rules themselves stand where they are applied.
"""

FIRST = 1
"""Those of release 0.1, whose Elected names none."""
FORGETTING = 2
"""A node that is gone is forgotten, and a grant to an incarnation that is not there is owed its end (rule 18)."""
BLAMING = 3
"""Whose fault it is that a worker was not started counts, and where it was tried (rule 19); what the log has Started of was
started (rule 9)."""
KNOWN = BLAMING
"""The newest that this code knows: what its own Elected names."""
