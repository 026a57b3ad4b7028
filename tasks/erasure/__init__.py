"""Find and remove the traces of erased images in files of any format."""
