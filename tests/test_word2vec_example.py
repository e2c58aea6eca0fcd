"""`examples/word2vec.py`: its gradient, its pairs, its files, what it prints, and its errors."""

import struct

import keras
import numpy as np
import pytest
from matplotlib import image
from scipy import stats

import keras_cool as kc
from program.errors import UserError
from support.examples import script, step_by_hand
from words import corpus, pairs, vectors

RNG = np.random.default_rng(0)
WORDS, SIZE = 20, 6


@pytest.fixture(scope="module")
def example():
    return script("word2vec")


def batch(width, samples=12, negatives=4):
    """Neighbours, with gaps and repeated, and words with others, some of them the true one."""
    neighbours = RNG.integers(-1, WORDS, (samples, width)).astype("int32")
    neighbours[:, 0] = RNG.integers(0, WORDS, samples)
    words = RNG.integers(0, WORDS, (samples, 1 + negatives)).astype("int32")
    words[0, 2] = words[0, 0]
    return neighbours, words


def tables():
    return [RNG.normal(size=(WORDS, SIZE)) for _ in range(2)]


def numpy_gradient(x, vectors_of_words, targets):
    """Word by word: the loss of the batch and the gradients by both tables."""
    loss, gradients = 0.0, [np.zeros_like(vectors_of_words), np.zeros_like(targets)]
    for neighbours, (word, *others) in zip(*x, strict=True):
        around = neighbours[neighbours >= 0]
        mean = vectors_of_words[around].mean(axis=0)
        for target, label in [(word, 1), *((o, 0) for o in others if o != word)]:
            score = mean @ targets[target]
            loss += np.log1p(np.exp(score)) - label * score
            error = 1 / (1 + np.exp(-score)) - label
            np.add.at(gradients[0], around, error * targets[target] / len(around))
            gradients[1][target] += error * mean
    return loss / len(x[0]), [g / len(x[0]) for g in gradients]


@pytest.mark.parametrize("width", [1, 6], ids=["skip-gram", "cbow"])
def test_the_gradient_is_that_of_numpy(example, width):
    x, (first, second) = batch(width), tables()
    model = example.Word2Vec(WORDS, SIZE)
    model.set_weights([first, second])
    model.compile(keras.optimizers.SGD(1.0))
    assert kc.check_gradient(model, (x,)) < 1e-5
    loss, gradients = numpy_gradient(x, first, second)
    history = model.fit(x, batch_size=12, verbose=0).history
    assert history["loss"][0] == pytest.approx(loss, rel=1e-6)
    for after, before, gradient in zip(
        model.get_weights(), (first, second), gradients, strict=True
    ):
        np.testing.assert_allclose(before - after, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 6], ids=["skip-gram", "cbow"])
def test_steps_by_hand_lead_to_the_same_weights(example, width):
    x, start = batch(width, samples=48), tables()
    rate = keras.optimizers.schedules.PolynomialDecay(0.5, 10, 0.0)
    found = []
    for kind in (example.Word2Vec, step_by_hand("word2vec")):
        model = kind(WORDS, SIZE)
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(rate))
        model.fit(x, batch_size=12, epochs=2, shuffle=False, verbose=0)
        assert int(model.optimizer.iterations.numpy()) == 8
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


MODULE = '''"""Sorts the n_rows of x.

Sorts the n_rows of x.

>>> sort(table)
hidden

The end.
"""
def f():
    "Found: (twice)."
    return "not read"
'''


def test_docstrings_are_read_without_code_and_each_sentence_once(tmp_path, monkeypatch):
    for folder, text in (("", MODULE), ("tests", '"""Left out."""'), ("part", '"""Found: so."""')):
        (tmp_path / "sorting" / folder).mkdir(exist_ok=True)
        (tmp_path / "sorting" / folder / "__init__.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = corpus.docstrings({"sorting": "sorting"}).split("\n\n")
    assert found == ["Sorts the _rows of .", "", "The end.", "Found:", "(twice).", "so."]
    with pytest.raises(UserError, match="pip install so-rare"):
        corpus.docstrings({"so_rare": "so-rare"})


TEXT = "The cat sat. The dog ran! A cat ran; the dog sat on it.\n\nOn it the cat ran."


def test_words_are_numbered_by_their_count():
    found = corpus.numbered(TEXT, min_count=2)
    assert found.vocabulary[:2] == ["the", "cat"]
    assert dict(zip(found.vocabulary, found.counts, strict=True)) == {
        "the": 4, "cat": 3, "ran": 3, "sat": 2, "dog": 2, "on": 2, "it": 2
    }  # fmt: skip
    words = [found.vocabulary[i] for i in found.ids]
    assert words == [w for w in TEXT.lower().replace(";", ".").replace("!", ".").replace(".", " ")
                     .split() if w != "a"]  # fmt: skip
    assert list(np.bincount(found.sentences)) == [3, 3, 2, 5, 0, 5]


@pytest.mark.parametrize("model", ["skip-gram", "cbow"])
def test_pairs_are_those_of_a_slow_loop(model):
    """Each word with the words of its sentence that its reach, drawn in the same order, covers."""
    text = corpus.numbered(TEXT * 3, 1)
    sampling = pairs.Sampling(model, window=3, negatives=2, threshold=0, batch=4)
    blocks = list(pairs.drawn(text, sampling, np.random.default_rng(5)))
    rng = np.random.default_rng(5)
    rng.random(len(text.ids))  # the sub-sampling
    expected = []
    for i, reach in enumerate(rng.integers(1, 4, len(text.ids))):
        around = [
            int(text.ids[j])
            for j in range(max(0, i - reach), min(len(text.ids), i + reach + 1))
            if j != i and text.sentences[j] == text.sentences[i]
        ]
        word = int(text.ids[i])
        if model == "skip-gram":
            expected += [(word, (neighbour,)) for neighbour in around]
        elif around:
            expected.append((word, tuple(around)))
    found = [
        (int(word), tuple(int(n) for n in row if n >= 0))
        for around, words in blocks
        for row, word in zip(around, words, strict=True)
    ]
    assert found == expected


def test_frequent_words_are_left_out_and_negatives_drawn_as_word2vec_does():
    counts = np.array([900, 90, 10])
    share = pairs.kept_share(counts, 0.01)
    expected = [np.sqrt(0.01 * 1000 / c) + 0.01 * 1000 / c for c in counts]
    np.testing.assert_allclose(share, np.minimum(1, expected))
    np.testing.assert_array_equal(pairs.kept_share(counts, 0), 1)
    frequency = np.bincount(pairs.negative_table(counts)) / pairs.TABLE
    np.testing.assert_allclose(frequency, counts**0.75 / (counts**0.75).sum(), atol=1e-5)


def long_text(length=60_000):
    """One sentence of five words, some of them frequent."""
    ids = np.random.default_rng(1).choice(5, length, p=[0.6, 0.2, 0.1, 0.07, 0.03])
    counts = np.bincount(ids)
    return corpus.Corpus(list("abcde"), counts, ids.astype("int32"), np.zeros(length, "int32"))


def test_the_text_is_sub_sampled_as_often_as_it_should_be():
    text, rng = long_text(), np.random.default_rng(2)
    sampling = pairs.Sampling("cbow", window=1, negatives=1, threshold=0.02, batch=8)
    kept = np.bincount(np.concatenate([words for _, words in pairs.drawn(text, sampling, rng)]))
    share = pairs.kept_share(text.counts, 0.02)
    assert share[0] < 0.3 < share[-1]
    deviation = (kept - text.counts * share) / np.sqrt(text.counts * share * (1.001 - share))
    assert np.abs(deviation).max() < 4


def test_the_negatives_of_batches_have_their_distribution():
    text = long_text()
    sampling = pairs.Sampling("skip-gram", window=2, negatives=3, threshold=0, batch=1000)
    made = pairs.batches(text, sampling, np.random.default_rng(3))
    others = np.concatenate([next(made)[1][:, 1:] for _ in range(20)]).ravel()
    expected = text.counts**0.75 / np.sum(text.counts**0.75) * len(others)
    assert stats.chisquare(np.bincount(others), expected).pvalue > 1e-3


def test_batches_go_through_the_text_in_one_shape():
    text = corpus.numbered(TEXT * 5, 1)
    sampling = pairs.Sampling("skip-gram", window=1, negatives=3, threshold=0, batch=8)
    with pairs.made_ahead(pairs.batches(text, sampling, np.random.default_rng(0)), 2) as made:
        some = [next(made) for _ in range(40)]
    assert {(a.shape, b.shape) for a, b in some} == {((8, 1), (8, 4))}
    neighbours = {
        (a, b)
        for a, b, same in zip(
            text.ids[:-1], text.ids[1:], text.sentences[:-1] == text.sentences[1:], strict=True
        )
        if same
    }
    for around, words in some:
        for a, b in zip(around[:, 0], words[:, 0], strict=True):
            assert (a, b) in neighbours or (b, a) in neighbours


def test_an_error_in_the_thread_is_raised_where_its_items_are_used():
    def failing():
        yield 1
        raise RuntimeError("in the thread")

    with pairs.made_ahead(failing(), 1) as made:
        assert next(made) == 1
        with pytest.raises(RuntimeError, match="in the thread"):
            next(made)


def read_back(path):
    """A reader from the description of the format of the program word2vec."""
    data = path.read_bytes()
    head, rest = data.split(b"\n", 1)
    count, size = (int(n) for n in head.split())
    found = {}
    for _ in range(count):
        word, rest = rest.split(b" ", 1)
        if path.suffix == ".bin":
            found[word.decode()] = struct.unpack(f"<{size}f", rest[: 4 * size])
            rest = rest[4 * size + 1 :]
        else:
            line, rest = rest.split(b"\n", 1)
            found[word.decode()] = tuple(float(c) for c in line.split())
    assert not rest
    return found


@pytest.mark.parametrize("suffix", [".txt", ".vec", ".bin"])
def test_files_are_read_back(tmp_path, suffix):
    path = tmp_path / "new" / f"vectors{suffix}"
    names, table = ["the", "naïve", "x"], RNG.normal(size=(3, 4)).astype("float32")
    vectors.write(path, names, table)
    found = read_back(path)
    assert list(found) == names
    np.testing.assert_array_equal(np.array(list(found.values()), "float32"), table)


@pytest.mark.parametrize("suffix", [".txt", ".bin"])
def test_gensim_reads_the_files(tmp_path, suffix):
    models = pytest.importorskip("gensim.models", reason="compared where it is installed")
    path = tmp_path / f"vectors{suffix}"
    names, table = ["the", "naïve", "x"], RNG.normal(size=(3, 4)).astype("float32")
    vectors.write(path, names, table)
    found = models.KeyedVectors.load_word2vec_format(path, binary=suffix == ".bin")
    assert list(found.index_to_key) == names
    np.testing.assert_array_equal(found.vectors, table)


def planted(groups=4, each=5, sentences=600):
    """A text whose words come with those of their group alone."""
    rng = np.random.default_rng(0)
    names = [[f"{'abcd'[g]}{'vwxyz'[i]}" for i in range(each)] for g in range(groups)]
    lines = [" ".join(rng.choice(names[rng.integers(groups)], 8)) for _ in range(sentences)]
    return ".\n".join(lines)


@pytest.mark.parametrize("model", ["skip-gram", "cbow"])
def test_words_of_a_group_are_near(example, tmp_path, capsys, model):
    text, output = tmp_path / "text.txt", tmp_path / "vectors.txt"
    drawing = tmp_path / "deep" / "words.png"
    text.write_text(planted(), encoding="utf-8")
    options = [f"--text={text}", f"--model={model}", f"--output={output}", f"--picture={drawing}"]
    options += ["--size=16", "--epochs=6", "--batch=64", "--sample=0", "--rate=0.1", "--window=3"]
    options += ["--words", "av", "bw"]
    assert example.main(options) == 0
    printed = capsys.readouterr().out
    assert "100%" in printed
    assert "words a second" in printed
    nearest = [line for line in printed.splitlines() if line.startswith(("av: ", "bw: "))]
    assert len(nearest) == 2
    for line in nearest:
        word, others = line.split(": ")
        assert {o[0] for o in others.split(", ")[:4]} == {word[0]}
    assert len(read_back(output)) == 20
    assert image.imread(drawing).std() > 0.01


def test_words_that_are_far_apart_are_chosen():
    directions = np.array([[1, 0], [0.9, 0.1], [-1, 0.1], [0, 1], [0.1, 0.9]])
    assert vectors.far_apart(directions, 3) == [0, 2, 3]
    many = np.concatenate([np.ones((50, 2)), directions])
    assert vectors.far_apart(many, 3) == [50, 52, 53]


def test_an_output_that_cannot_be_written_is_refused(example, tmp_path, capsys, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 10, encoding="utf-8")
    monkeypatch.setattr(example, "train", lambda text, _: RNG.normal(size=(len(text.counts), 4)))
    for option in ("--picture={}/below.png", "--output={}/below.bin"):
        options = [f"--text={text}", f"--picture={tmp_path}/w.png", option.format(text)]
        with pytest.raises(SystemExit) as stopped:
            example.main(options)
        assert stopped.value.code == 2
        assert "give a place that can be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text=nowhere.txt"], "give the path of a text file in UTF-8"),
        (["--text={short}"], "give a longer --text or a smaller --min-count"),
        (["--text={long}", "--words", "zebra"], "does not have zebra 10 times"),
        (["--text={apart}"], "no word has a neighbour"),
        (["--sample=-1"], "is not a finite number of at least 0"),
        (["--output=vectors.csv"], "is not the path of a .txt, .vec or .bin file"),
        (["--picture=x.jpg"], "is not the path of a .png file"),
    ],
)
def test_errors(example, tmp_path, capsys, options, message):
    files = {"short": tmp_path / "short.txt", "long": tmp_path / "long.txt"}
    files["apart"] = tmp_path / "apart.txt"
    files["short"].write_text("one two", encoding="utf-8")
    files["long"].write_text(TEXT * 10, encoding="utf-8")
    files["apart"].write_text("one. two. " * 10, encoding="utf-8")
    with pytest.raises(SystemExit) as error:
        example.main([o.format(**files) for o in options])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
