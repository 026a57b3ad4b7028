"""Images in the console: the grid with facets, one image, thumbnails, the map, search."""
