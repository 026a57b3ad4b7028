"""Creating a project, suggesting its params, taking images in."""
