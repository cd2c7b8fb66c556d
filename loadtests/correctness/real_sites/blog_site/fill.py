"""Make the blog's database of the packages on standard input (JSON), and print what there is to ask for (JSON)."""

import datetime
import json
import os
import random
import sys

import django


def main() -> None:
    """Create tables, users, posts and comments."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "blog_site.settings")
    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command

    given = json.load(sys.stdin)
    call_command("migrate", run_syncdb=True, verbosity=0)
    for name in given["users"]:
        User.objects.create_user(name, password=given["password"])
    User.objects.create_superuser("root", password=given["password"])
    posts = _posts(given["packages"])
    months = sorted({(post.published.year, post.published.month) for post in posts})
    print(
        json.dumps(
            {
                "posts": [post.slug for post in posts],
                "sections": sorted({post.section for post in posts}),
                "months": [f"{year}/{month}" for year, month in months],
                "static": _static(),
            }
        )
    )


def _posts(packages: list[dict[str, str]]) -> list:
    """A post for each package, published some day of the last ten years, some with comments."""
    from blog_site.models import Comment, Post
    from django.utils.text import slugify

    chance = random.Random(7)
    start = datetime.datetime(2016, 1, 1, tzinfo=datetime.UTC)
    made = {}
    for package in packages:
        slug = slugify(package["name"])
        published = start + datetime.timedelta(seconds=chance.randrange(9 * 365 * 86400))
        made[slug] = Post(
            slug=slug,
            title=f"{package['name']}: {package['summary']}"[:200],
            section=slugify(package["section"]),
            text=package["text"],
            published=published,
        )
    Post.objects.bulk_create(made.values())
    stored = list(Post.objects.order_by("slug"))
    Comment.objects.bulk_create(
        Comment(post=chance.choice(stored), author="reader", text=f"Remark {n}") for n in range(500)
    )
    return stored


def _static() -> list[str]:
    """The static files that Django's finders know."""
    from django.contrib.staticfiles.finders import get_finders

    return sorted("/static/" + path for finder in get_finders() for path, _ in finder.list([]))


if __name__ == "__main__":
    main()
