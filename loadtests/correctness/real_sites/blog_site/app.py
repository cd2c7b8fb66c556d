"""The blog as an application of Django."""

from django.apps import AppConfig


class BlogApp(AppConfig):
    """Its models need a label of their own."""

    name = "blog_site"
    label = "blog"
