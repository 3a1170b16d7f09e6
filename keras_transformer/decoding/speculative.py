"""Speculative decoding: a small model drafts some tokens, the large one checks them all in one pass.

Beside search.py's GreedySearch, whose translations it finds in fewer passes of the large model. Leviathan et al. 2023; Xia et al.
2023 (for translation).
"""

import numpy as np
from keras import ops

from keras_transformer.backend import compiled, max_and_argmax, write_slice
from keras_transformer.backend_decoding import repeat_while
from keras_transformer.decoding.errors import check_finite, check_integer, checked_source
from keras_transformer.decoding.rules import IMPOSSIBLE, Rules
from keras_transformer.decoding.weights import Weights
from keras_transformer.layers.masking import padding_mask


class SpeculativeSearch:
    """Greedy search of a large model with the help of a small one of the same vocabulary.

    The draft model writes ``num_draft`` tokens; the large model reads them in one pass and says what it would have written at
    each place. What agrees is kept, and the large model's own next token behind it. So each pass gives at least one token, and
    the translation is the large model's greedy one, but where two of its logits are equal up to rounding. It pays for one
    sentence at a time, when a pass over several tokens costs hardly more than over one; sentences are worked on one by one.

    Args:
        model: the Transformer, or Ensemble, whose translation is wanted.
        draft: a smaller Transformer with the same vocabulary and special ids.
        num_draft: tokens drafted at a time.
        max_length: most tokens a translation may have, twice the source's and ten at most; None for these.

    Call arguments:
        source: (B, S) integer ids. There is no prefix.

    Returns:
        ids (B, 1, L) int32 and scores (B, 1) float32, the log-probability, as GreedySearch with length_penalty=0. The attribute
        ``passes`` then holds how often the large model was run for each sentence, (B,).

    Raises:
        ValueError: the vocabularies differ, an id is outside them, or the model's logits are not finite.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(20, d_model=16, num_heads=2, num_layers=2, seed=1)
    >>> draft = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, seed=2)
    >>> ids, scores = kt.decoding.SpeculativeSearch(model, draft, max_length=4)(np.array([[5, 6, 3]]))
    >>> ids.shape
    (1, 1, 4)

    Reference: Leviathan et al. 2023, section 2, for temperature 0; https://arxiv.org/abs/2211.17192
    """

    beam_size = 1

    def __init__(self, model, draft, num_draft=4, max_length=None):
        for name in ("vocabulary_size", "num_source_pieces", "pad_id", "bos_id", "eos_id"):
            if getattr(model, name) != getattr(draft, name):
                raise ValueError(
                    "Model and draft must share their vocabulary. Received: "
                    f"{name} of {getattr(model, name)} and {getattr(draft, name)}."
                )
        check_integer("num_draft", num_draft, 1)
        if max_length is not None:
            check_integer("max_length", max_length, 1)
        self.model = model
        self.draft = draft
        self.num_draft = num_draft
        self.max_length = max_length
        self.passes = None
        self._search = compiled(self._one, Weights(model, draft))

    def __call__(self, source, prefix=None):
        if prefix is not None:
            raise ValueError(
                "A SpeculativeSearch forces no prefix. Take a GreedySearch, whose translations are the same."
            )
        source = checked_source(self.model, source)
        if not len(source):
            raise ValueError("A SpeculativeSearch needs at least one sentence. Received none.")
        found = [self._search(ops.convert_to_tensor(row[None], dtype="int32")) for row in source]
        ids, scores, passes = (np.stack([ops.convert_to_numpy(row[part]) for row in found]) for part in range(3))
        check_finite(scores)
        self.passes = passes
        return ids, scores

    def _one(self, source):
        """Ids (1, L), score (1,) and passes () of one sentence, source (1, S)."""
        model, drafted = self.model, self.num_draft
        length = ops.sum(ops.cast(ops.not_equal(source, model.pad_id), "int32"))
        limit, longest = Rules().limit(length), Rules().limit(ops.shape(source)[1])
        if self.max_length is not None:
            limit, longest = ops.minimum(limit, self.max_length), self.max_length
        mask = padding_mask(source, model.pad_id)
        room = longest + drafted + 1  # what is drafted may reach beyond the end
        large = model.init_cache(model.encode(source, mask), 1, room)
        small = self.draft.init_cache(self.draft.encode(source, mask), 1, room)

        def unfinished(step, end, passes, ids, score, mask, large, small):
            return step < end

        def extend(step, end, passes, ids, score, mask, large, small):
            block, small = self._drafted(ids, step, small, mask)  # (1, K + 1): the last token there is, and the drafted
            logits, large = model.decode_block(block, large, step, mask)  # (1, K + 1, V)
            log_probabilities = ops.log_softmax(logits, axis=-1)
            said = self._best(log_probabilities)  # what the large model says at each place
            agrees = ops.cast(said[:, :-1] == block[:, 1:], "int32")
            kept = ops.sum(ops.cumprod(agrees, axis=1)) + 1  # of ``said``
            places = ops.arange(drafted + 1, dtype="int32")
            ends = ops.min(ops.where(said[0] == model.eos_id, places + 1, drafted + 2))
            written = ops.minimum(ops.minimum(kept, ends), end - step)
            # NaN where a logit is NaN or infinite.
            gained = ops.take_along_axis(log_probabilities, said[:, :, None], axis=2)[0, :, 0]
            gained = ops.where(places < written, gained, 0.0)
            ids = write_slice(ids, said, step + 1, axis=1)  # what is too much will be written over, or cut off
            end = ops.where(ends <= kept, ops.minimum(end, step + ends), end)
            return step + written, end, passes + 1, ids, score + ops.sum(gained), mask, large, small

        ids = ops.full((1, room + 1), model.bos_id, dtype="int32")
        zero = ops.zeros((), dtype="int32")
        start = (zero, ops.cast(limit, "int32"), zero, ids, ops.zeros((), dtype="float32"), mask, large, small)
        step, _, passes, ids, score, *_ = repeat_while(unfinished, extend, start, place=0, ahead=drafted + 1)
        ids = ids[:, 1 : longest + 1]
        written = ops.arange(longest, dtype="int32") < step
        return ops.where(written, ids, model.pad_id), ops.reshape(score, (1,)), passes

    def _drafted(self, ids, step, cache, mask):
        """The last token of ids (1, N), at ``step``, and the draft model's next ones: (1, K + 1); and its cache."""
        # The token before, too: if all were kept, the last drafted is not in the cache yet. At step 0 the second is a filler.
        start = ops.maximum(step - 1, 0)
        pair = ops.take(ids, start + ops.arange(2, dtype="int32"), axis=1)
        logits, cache = self.draft.decode_block(pair, cache, start, mask)  # (1, 2, V)
        logits = ops.take(logits, step - start, axis=1)
        block = [ops.take(ids, step, axis=1), self._best(logits)]  # each (1,)
        for more in range(1, self.num_draft):
            logits, cache = self.draft.decode_step(block[-1], cache, step + more, mask)
            block.append(self._best(logits))
        return ops.stack(block, axis=1), cache

    def _best(self, logits):
        """The most probable tokens (...) by logits (..., V); not pad or bos, as in any search."""
        entries = ops.arange(self.model.vocabulary_size, dtype="int32")
        never = ops.logical_or(entries == self.model.pad_id, entries == self.model.bos_id)
        return ops.cast(max_and_argmax(ops.where(never, IMPOSSIBLE, logits))[1], "int32")
