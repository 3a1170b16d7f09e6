"""The weights of several models as those of one, for compilation; see backend.compiled."""


class Weights:
    """Has the variables of all its holders.

    Args:
        holders: models, samplers, or other objects with ``variables``. Whether XLA compiles is decided by the first.
    """

    def __init__(self, *holders):
        self.holders = holders

    @property
    def variables(self):
        return [variable for holder in self.holders for variable in holder.variables]

    @property
    def jit_compile(self):
        return getattr(self.holders[0], "jit_compile", False)
