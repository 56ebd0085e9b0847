"""Text operators: StringConcat, StringSplit, StringNormalizer, RegexFullMatch, TfIdfVectorizer.

Strings are Python objects here: they have no native layout, so that these operators run on the host, and this file has
no rows. What follows them in a graph (embeddings, classifiers) is native again.
"""
