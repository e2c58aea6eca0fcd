"""Problems, models, ways to train and comparisons that several test files share."""
