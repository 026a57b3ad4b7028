"""Safe readers of folders, manifests and S3 prefixes that users provide."""
