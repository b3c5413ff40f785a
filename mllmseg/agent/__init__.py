"""A conversation about pictures: a planner turns what is said into calls of tools, and every call is on record."""
