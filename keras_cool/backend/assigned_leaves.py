"""`AssignedLeaves`: gradients of a variable that a layer assigns to while it is differentiated."""


class AssignedLeaves:
    """Lets what a variable is assigned be differentiated by, from there on.

    Spectral normalisation assigns to the kernel that is trained. On TensorFlow and PyTorch Keras'
    own step then has the gradient by the new value, and applies it to that.

    Args:
        scope: The `OverlayScope` in which variables have the leaves for values.
        leaves: List of tensors.
        make_leaf: A function of a value that gives a tensor to differentiate by.
        add: A function that adds two gradients.
    """

    def __init__(self, scope, leaves, make_leaf, add):
        self._leaves = leaves
        self._make_leaf = make_leaf
        self._add = add
        self._further = []  # pairs: the place of the leaf that it has taken the place of, and it
        scope.on_assigning = self._assign

    def all_leaves(self):
        """The leaves, and those that have taken the place of some."""
        return [*self._leaves, *(leaf for _, leaf in self._further)]

    def joined(self, gradients):
        """Returns one gradient for each leaf, from the gradients by `all_leaves`."""
        joined, further = gradients[: len(self._leaves)], gradients[len(self._leaves) :]
        for (place, _), gradient in zip(self._further, further, strict=True):
            if joined[place] is None:
                joined[place] = gradient
            elif gradient is not None:
                joined[place] = self._add(joined[place], gradient)
        return joined

    def _assign(self, place, value):
        leaf = self._make_leaf(value)
        self._further.append((place, leaf))
        return leaf
