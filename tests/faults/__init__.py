"""The fault suite: a whole cluster of real processes under seeded faults, and what must hold all the same."""
