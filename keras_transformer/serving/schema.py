"""What requests and replies look like: checked by Pydantic, and described in /openapi.json.

Lists stop at their first error, which is the one that is told: a body has room for half a million.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

Text = Annotated[StrictStr, Field(description="A sentence. A line break in it is a blank, and ends none.")]


class TranslateRequest(BaseModel):
    """Texts to translate."""

    model_config = ConfigDict(extra="forbid")

    texts: list[Text] = Field(
        min_length=1, fail_fast=True, description="Translated in order; a blank text gives a blank translation."
    )
    beam_size: StrictInt | None = Field(None, ge=1, description="Hypotheses searched; null for the server's.")
    num_hypotheses: StrictInt = Field(1, ge=1, description="How many to return of them, best first.")
    attention: StrictBool = Field(
        False, description="Whether to return pieces, the attention between them, and the alignment of words."
    )


class Hypothesis(BaseModel):
    """One translation of a text."""

    text: str
    score: float = Field(description="log p / ((5 + length) / 6) ** length_penalty; 0 is certain.")
    pieces: list[str] | None = Field(None, description="Of the translation, the end of the sentence included.")
    attention: list[list[float]] | None = Field(
        None, description="For each piece, how much it looked at each source piece."
    )
    alignment: list[tuple[int, int]] | None = Field(
        None, description="For each word, counted from 0: the source word that it looked at most, and itself."
    )


class Translation(BaseModel):
    """What became of one text."""

    text: str = Field(description="The best hypothesis.")
    hypotheses: list[Hypothesis]
    source_pieces: list[str] | None = None


class TranslateReply(BaseModel):
    """Translations in the order of the texts."""

    model: str
    translations: list[Translation]


class StreamRequest(BaseModel):
    """A text to translate greedily, piece by piece."""

    model_config = ConfigDict(extra="forbid")

    text: Text


Ids = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(fail_fast=True)]
Encoded = Annotated[dict[str, StrictStr], Field(description="{'b64': base64 of a text in UTF-8}.")]
Instance = StrictStr | Ids | dict[str, Ids | StrictStr | Encoded]
Instances = Annotated[list[Instance], Field(fail_fast=True)]


class PredictRequest(BaseModel):
    """TensorFlow Serving's predict request: ``instances`` by row, or ``inputs`` by column."""

    signature_name: StrictStr = "serving_default"
    instances: Instances | None = Field(None, description="Rows of ids, or {'source': ids}; texts for translate_text.")
    inputs: Instances | dict[str, Instances] | None = Field(None, description="The same by column.")


class Failure(BaseModel):
    """Why there is no answer."""

    error: str
