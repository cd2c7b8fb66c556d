"""Where the pages are."""

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import include, path
from wagtail import urls as wagtail_urls
from wagtail.admin import urls as wagtailadmin_urls


def greeting(request):
    """A page that names its user and does not say so: Django knows nothing of cookies that are read in this way."""
    session = SessionStore(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
    user = User.objects.filter(pk=session.get("_auth_user_id")).first()
    words = "Hello, visitor" if user is None else f"Signed in as {user.username}"
    return HttpResponse(f"<!doctype html><html><body>{words}</body></html>")


def contact(request):
    """A form for anybody."""
    if request.method == "POST":
        return HttpResponse(f"Thank you, {request.POST.get('name', '')}")
    return render(request, "wagtail_site/form.html")


urlpatterns = [
    path("admin/", include(wagtailadmin_urls)),
    path("login/", LoginView.as_view(template_name="wagtail_site/form.html")),
    path("contact/", contact),
    path("greeting/", greeting),
    path("", include(wagtail_urls)),
]
