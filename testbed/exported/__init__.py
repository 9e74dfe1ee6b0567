"""A set of rows as files for others: an image folder or JSON lines, with a data card and a Croissant description."""
