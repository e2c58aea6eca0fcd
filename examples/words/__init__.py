"""What `word2vec.py` needs beside its model: the text, the pairs, and what becomes of the vectors."""
