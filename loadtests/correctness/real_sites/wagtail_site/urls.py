"""Where the pages are."""

from django.contrib.auth.views import LoginView
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import include, path
from wagtail import urls as wagtail_urls
from wagtail.admin import urls as wagtailadmin_urls


def contact(request):
    """A form for anybody."""
    if request.method == "POST":
        return HttpResponse(f"Thank you, {request.POST.get('name', '')}")
    return render(request, "wagtail_site/form.html")


urlpatterns = [
    path("admin/", include(wagtailadmin_urls)),
    path("login/", LoginView.as_view(template_name="wagtail_site/form.html")),
    path("contact/", contact),
    path("", include(wagtail_urls)),
]
