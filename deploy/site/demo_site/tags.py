"""Surrogate-Key on every page: what it was made of, by which an editor purges it."""

from collections.abc import Callable, Iterator

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import ResolverMatch


class SurrogateKeys:
    """Django middleware: tags from the URL that was matched, and the name of the origin that answered."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, and tag the answer."""
        response = self._get_response(request)
        response["X-Origin"] = settings.ORIGIN_NAME
        if request.resolver_match is not None:
            response["Surrogate-Key"] = " ".join(tags(request.resolver_match))
        elif request.path.startswith("/static/"):
            response["Surrogate-Key"] = "static"
        return response


def tags(match: ResolverMatch) -> Iterator[str]:
    """`post-json` for a post, its comments and what the API says of it; `section-x`; `posts` for every list."""
    if "slug" in match.kwargs:
        yield f"post-{match.kwargs['slug']}"
    elif "name" in match.kwargs:
        yield f"section-{match.kwargs['name']}"
        yield "posts"
    else:
        yield "posts"
