"""S3 and its dialects."""
