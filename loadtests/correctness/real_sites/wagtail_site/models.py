"""What a page is."""

from typing import ClassVar

from django.db import models
from wagtail.admin.panels import FieldPanel
from wagtail.models import Page


class ArticlePage(Page):
    """A title and a text."""

    text = models.TextField(blank=True)
    content_panels: ClassVar = [*Page.content_panels, FieldPanel("text")]
