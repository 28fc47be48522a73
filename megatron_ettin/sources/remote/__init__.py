"""Input files that lie on a hub, in a bucket or on a web server: found there, staged here, verified."""
