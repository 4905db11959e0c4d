"""From a trained forest to a signed bundle: ONNX, the proof of parity, keys, signing, `axlebox`."""
