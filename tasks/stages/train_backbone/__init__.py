"""Stage `train_backbone`: fine-tuning on the natural class distribution."""
