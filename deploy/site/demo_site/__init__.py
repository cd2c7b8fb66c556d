"""The blog of loadtests/real_sites as a site behind a CDN: it tags its pages, and has an API for editors."""
