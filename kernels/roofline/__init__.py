"""What the kernels could reach on an H200: operations, bytes and the resource that bounds each, from formulas."""
