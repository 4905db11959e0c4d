"""The four pipelines of a training; each module has `create_pipeline()`."""
