"""The weights of several models as those of one, for compilation; see backend.compiled."""


class Weights:
    """What has the variables of all its holders.

    Args:
        holders: models, samplers: whatever has ``variables``. Compiled as the first is.
    """

    def __init__(self, *holders):
        self.holders = holders

    @property
    def variables(self):
        return [variable for holder in self.holders for variable in holder.variables]

    @property
    def jit_compile(self):
        return getattr(self.holders[0], "jit_compile", False)
