# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # From text to translation, step by step
# Everything here runs in under a minute on the built-in corpus. Set `KERAS_BACKEND` before the first cell to choose a backend.

# %%
import keras
import numpy as np
from keras import ops

import keras_transformer as kt
from keras_transformer.text import demo_corpus

corpus = demo_corpus(num_train=3000, num_valid=100, num_test=100)
print(corpus.train.source[0], "->", corpus.train.target[0])

# %% [markdown]
# ## Text to ids
# One vocabulary serves both languages. Ids 0 to 3 are padding, unknown, begin and end of sentence; an unknown letter falls back to
# bytes, so that every text survives the way to ids and back.

# %%
tokenizer = kt.Tokenizer.train(corpus.train.source + corpus.train.target, vocabulary_size=900)
ids = tokenizer.encode("The dog sleeps 🐕.", add_eos=True)
print(ids, tokenizer.decode(ids))

# %% [markdown]
# ## Ids to batches
# Pairs of similar length share a shape, and rows x the longer side stays within a budget, padding included. The target begins
# with bos, the labels are the same one position ahead.

# %%
batches = kt.Batches(corpus.train.source, corpus.train.target, tokenizer, batch_tokens=1024, seed=1)
inputs, labels = batches[0]
print(batches.shapes, f"padding {batches.padding_share:.0%}")
print(inputs["target"][0], labels[0], sep="\n")

# %% [markdown]
# ## The model
# A `keras.Model` from `{"source": (B, S), "target": (B, T)}` to logits (B, T, V).

# %%
model = kt.Transformer(
    tokenizer.vocabulary_size, d_model=64, num_heads=4, num_layers=1, dropout=0.0, norm="pre", seed=1
)
print(model.count_params(), "parameters;", tuple(model(inputs).shape))

# %% [markdown]
# Padding changes nothing: masks come from the ids.

# %%
longer = {"source": np.pad(inputs["source"], ((0, 0), (0, 5))), "target": inputs["target"]}
print("largest difference:", float(ops.max(ops.abs(model(inputs) - model(longer)))))

# %% [markdown]
# ## Training
# The rate climbs for `warmup_steps` updates and then falls with the square root.

# %%
schedule = kt.WarmupInverseSqrt.from_peak(5e-3, d_model=64, warmup_steps=150)
print([round(float(schedule(step)), 5) for step in (0, 149, 600)])
model.compile(optimizer=keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0))
history = model.fit(batches, epochs=3, verbose=2)

# %% [markdown]
# ## Translating
# Greedy search takes the best token at each step; beam search keeps several hypotheses.

# %%
translator = kt.Translator(model, tokenizer)
for source, translation in zip(corpus.test.source[:4], translator.translate(corpus.test.source[:4]), strict=True):
    print(source, "->", translation)
print(kt.bleu(translator.translate(corpus.test.source, beam_size=1), corpus.test.target))
