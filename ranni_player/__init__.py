"""Plays an exported policy with NumPy, OpenCV and onnxruntime: no JAX, no zarr."""
