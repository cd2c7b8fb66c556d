"""Make the site's database: `fill.py` with users, articles and their number as JSON on standard input."""

import json
import os
import sys

import django


def main() -> None:
    """Create tables, users and pages; what there is to ask for, as JSON."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wagtail_site.settings")
    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from wagtail.models import Page, PageViewRestriction, Site
    from wagtail_site.models import ArticlePage

    given = json.load(sys.stdin)
    call_command("migrate", verbosity=0)
    User.objects.create_superuser(given["editor"], password=given["password"])
    User.objects.create_user(given["member"], password=given["password"])
    Site.objects.all().delete()
    Page.objects.filter(depth=2).delete()
    home = Page.objects.get(depth=1).add_child(instance=ArticlePage(title="Home", slug="site-home"))
    Site.objects.create(hostname=given["host"], port=80, root_page=home, is_default_site=True)
    pages = [
        home.add_child(
            instance=ArticlePage(title=f"Article {number}", slug=f"article-{number}", text=f"Text {number}. " * 400)
        )
        for number in range(given["articles"])
    ]
    members = home.add_child(instance=ArticlePage(title="Members only", slug="members", text="For members."))
    PageViewRestriction.objects.create(page=members, restriction_type=PageViewRestriction.LOGIN)
    print(json.dumps({"targets": [page.get_url() for page in pages], "ids": [page.pk for page in pages]}))


if __name__ == "__main__":
    main()
