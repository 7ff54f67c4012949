"""The one exception that a user can cause and is meant to read."""


class MASTProError(ValueError):
    """Bad input: says what it got, what it wanted, and what to do. `mastpro` prints it and exits 2."""
