"""What `word2vec.py` needs beside its model: text, pairs, and what becomes of the vectors."""
