"""Posts and the comments on them."""

from django.db import models


class Post(models.Model):
    """A post: what one package is for."""

    slug = models.SlugField(max_length=120, unique=True)
    title = models.CharField(max_length=200)
    section = models.CharField(max_length=80)
    text = models.TextField()
    published = models.DateTimeField()

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        """Where it is read."""
        return f"/post/{self.slug}/"


class Comment(models.Model):
    """What a reader who has logged in says of a post."""

    post = models.ForeignKey(Post, on_delete=models.CASCADE, related_name="comments")
    author = models.CharField(max_length=80)
    text = models.TextField()

    def __str__(self) -> str:
        return self.text[:40]
