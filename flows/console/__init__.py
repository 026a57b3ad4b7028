"""The console: one web app in which people see and decide everything."""
