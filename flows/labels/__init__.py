"""What people do with labels of the data set: correct, exclude, undo, explain."""
