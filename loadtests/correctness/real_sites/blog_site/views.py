"""The pages. Each says about caching what a site of its kind would say."""

import csv
import hashlib
import secrets
from collections.abc import Iterator

from blog_site.models import Comment, Post
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.syndication.views import Feed
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils.cache import patch_response_headers
from django.utils.translation import get_language
from django.views.decorators.cache import cache_control
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import last_modified, require_POST

TEN_MINUTES = 600


@cache_control(public=True, max_age=TEN_MINUTES)
def index(request: HttpRequest) -> HttpResponse:
    """The latest posts, ten a page."""
    posts = Post.objects.order_by("-published", "slug")
    return render(request, "index.html", {"page": Paginator(posts, 10).get_page(request.GET.get("page"))})


def _published(_: HttpRequest, slug: str) -> object:
    return Post.objects.filter(slug=slug).values_list("published", flat=True).first()


@last_modified(_published)
def post(request: HttpRequest, slug: str) -> HttpResponse:
    """One post: Last-Modified, and no word about freshness."""
    return render(request, "post.html", {"post": get_object_or_404(Post, slug=slug)})


@csrf_protect
@cache_control(public=True, max_age=TEN_MINUTES)
def comments(request: HttpRequest, slug: str) -> HttpResponse:
    """What is said of a post, for everyone; a POST of one who has logged in adds to it."""
    commented = get_object_or_404(Post, slug=slug)
    if request.method == "POST":
        if not request.user.is_authenticated:
            return HttpResponse("log in first\n", status=403, content_type="text/plain")
        Comment.objects.create(post=commented, author=request.user.get_username(), text=request.POST["text"])
        return HttpResponseRedirect(request.path)
    return render(request, "comments.html", {"post": commented, "comments": commented.comments.order_by("id")})


@cache_control(max_age=0, s_maxage=TEN_MINUTES)
def section(request: HttpRequest, name: str) -> HttpResponse:
    """The posts of one section: for shared caches only."""
    return render(request, "section.html", {"name": name, "posts": Post.objects.filter(section=name).order_by("slug")})


def archive(request: HttpRequest, year: int, month: int) -> HttpResponse:
    """The posts of one month: Expires and max-age, as Django's cache would set them."""
    posts = Post.objects.filter(published__year=year, published__month=month).order_by("slug")
    response = render(request, "archive.html", {"posts": posts, "first": posts.first(), "language": get_language()})
    patch_response_headers(response, cache_timeout=TEN_MINUTES)
    return response


@cache_control(max_age=TEN_MINUTES, stale_while_revalidate=30)
def search(request: HttpRequest) -> HttpResponse:
    """The posts that hold a word."""
    word = request.GET.get("q", "")
    found = Post.objects.filter(text__contains=word).order_by("slug")[:20] if word else []
    return render(request, "search.html", {"word": word, "posts": found})


def about(request: HttpRequest) -> HttpResponse:
    """A page without a word about caching: only the ETag that ConditionalGetMiddleware adds."""
    return render(request, "about.html")


@login_required
@cache_control(private=True, max_age=TEN_MINUTES)
def account(request: HttpRequest) -> HttpResponse:
    """The page of one user, which their own browser may keep."""
    request.session["seen"] = True  # so that the session's cookie is set anew
    return render(request, "account.html", {"secret": _secret(request)})


@cache_control(max_age=TEN_MINUTES)
def greeting(request: HttpRequest) -> HttpResponse:
    """A greeting by name, fresh for ten minutes: `Vary: Cookie` is all that keeps users apart."""
    return render(request, "greeting.html", {"secret": _secret(request)})


@cache_control(private=True, max_age=TEN_MINUTES)
def basket(request: HttpRequest) -> HttpResponse:
    """One user's, by a cookie that is read by hand: no Vary, no Set-Cookie; `private` is all that keeps users apart."""
    session = SessionStore(session_key=request.COOKIES.get("sessionid"))
    user = User.objects.filter(pk=session.get("_auth_user_id")).first()
    return HttpResponse(f"basket of {user or 'nobody'}\n", content_type="text/plain")


def profile(request: HttpRequest) -> HttpResponse:
    """One user's by `Authorization`, fresh for ten minutes: RFC 9111 §3.5 is all that keeps users apart."""
    name = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not name:
        return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    response = HttpResponse(f"profile of {name}\n", content_type="text/plain")
    response["Cache-Control"] = f"max-age={TEN_MINUTES}"
    return response


def _secret(request: HttpRequest) -> str:
    """What only this session may see."""
    return hashlib.sha256(f"{request.user} {request.session.session_key}".encode()).hexdigest()


@cache_control(public=True, max_age=TEN_MINUTES)
def export(_: HttpRequest) -> StreamingHttpResponse:
    """Every post as CSV, streamed."""
    return StreamingHttpResponse(_rows(), content_type="text/csv")


class _Echo:
    def write(self, text: str) -> str:
        return text


def _rows() -> Iterator[str]:
    writer = csv.writer(_Echo())
    for one in Post.objects.order_by("slug").iterator(chunk_size=50):
        yield writer.writerow([one.slug, one.title, one.section, one.published.isoformat(), one.text])


@cache_control(public=True, max_age=TEN_MINUTES)
def offer(request: HttpRequest) -> HttpResponse:
    """A public page that gives every visitor a cookie of their own."""
    response = render(request, "about.html")
    response.set_cookie("visitor", secrets.token_hex(16), max_age=86400)
    return response


@csrf_exempt
@require_POST
def digest(request: HttpRequest) -> HttpResponse:
    """The length and digest of what was sent; Django itself takes a body in chunks for an empty one."""
    chunked = request.headers.get("Transfer-Encoding") == "chunked"
    body = request.META["wsgi.input"].read() if chunked else request.body
    text = f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"
    return HttpResponse(text, content_type="text/plain")


class Latest(Feed):
    """RSS of the latest posts, with the Last-Modified of the newest."""

    title = "Packages"
    link = "/"
    description = "What is installed here"

    def items(self) -> list[Post]:
        """The posts."""
        return list(Post.objects.order_by("-published", "slug")[:30])

    def item_title(self, item: Post) -> str:
        """The title of one."""
        return item.title

    def item_description(self, item: Post) -> str:
        """The text of one."""
        return item.text

    def item_pubdate(self, item: Post) -> object:
        """When it was published."""
        return item.published
