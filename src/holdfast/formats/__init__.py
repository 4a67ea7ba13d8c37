"""Classifiers in the forms that users have them: run folders, ONNX, exported programs, Hugging Face, timm, weights."""
