"""What the blog has beside its pages: a page by country, and an API through which editors change posts."""

import hmac
import json

from blog_site.models import Post
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.utils.timezone import now
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods
from django.views.decorators.vary import vary_on_headers


@cache_control(public=True, max_age=600)
@vary_on_headers("Edgecache-Geo-Country")
def here(request: HttpRequest) -> HttpResponse:
    """The page of a country: stored once for each."""
    country = request.headers.get("Edgecache-Geo-Country", "")
    region = request.headers.get("Edgecache-Geo-Region", "")
    return JsonResponse({"country": country, "region": region, "origin": settings.ORIGIN_NAME})


@never_cache
def health(_: HttpRequest) -> HttpResponse:
    """200 while the database answers."""
    Post.objects.exists()
    return HttpResponse("ok\n", content_type="text/plain")


@csrf_exempt
@require_http_methods(["GET", "PUT"])
@cache_control(public=True, max_age=600)
def api_post(request: HttpRequest, slug: str) -> HttpResponse:
    """One post as JSON; an editor who has the token PUTs another text."""
    post = get_object_or_404(Post, slug=slug)
    if request.method == "PUT":
        given = request.headers.get("Authorization", "")
        if not settings.EDITOR_TOKEN or not hmac.compare_digest(given, f"Bearer {settings.EDITOR_TOKEN}"):
            return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
        post.text = str(json.loads(request.body)["text"])
        post.published = now()
        post.save()
    return JsonResponse({"slug": post.slug, "title": post.title, "section": post.section, "text": post.text})
