"""docs/methods.md, made from what stands in conf/, from the code, and from runs: nothing in it is typed by hand."""
