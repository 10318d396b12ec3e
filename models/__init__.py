"""The maths: tensors in, tensors out. Importing `models` costs nothing."""
