"""Stage `bundle`: everything that serving and monitoring need, in one folder."""
