"""The offline side: models and images in, Parquet out. Needs torch; the page does not."""
