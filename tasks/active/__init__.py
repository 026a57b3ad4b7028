"""Which unlabelled images to label next, and what more labels would bring. Array cores only."""
