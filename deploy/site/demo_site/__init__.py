"""The blog of the load tests as a site behind a CDN: it tags its pages, and has an API for editors."""
