"""The one exception of files that cannot be trusted."""


class ArtifactError(ValueError):
    """A file or folder that this package wrote, or was said to have written, is damaged, incomplete, or does not belong here.

    Nothing has been loaded when it is raised: loading is all or nothing.

    Args:
        path: the file or folder.
        reason: what is wrong with it, as a clause.
        advice: what to do about it, as a sentence.

    Attributes:
        path: str.
        reason: str.

    Example:

    >>> from keras_transformer.artifacts import ArtifactError
    >>> str(ArtifactError("run/step-3", "a file is missing: state.json", "Take the one before."))
    'run/step-3 cannot be used: a file is missing: state.json. Take the one before.'
    """

    def __init__(self, path, reason, advice="Write it anew, or take another copy."):
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{self.path} cannot be used: {reason}. {advice}")
