"""Stage two: a feature store and labels in, a trained model and its measured worth out."""
