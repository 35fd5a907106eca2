"""The one exception a user is meant to see."""


class UserError(Exception):
    """A mistake of the user's, or trouble of the outside world, told in one line that says the fix."""
