"""The blog's pages, and those that it has for editors and by country."""

from blog_site.urls import urlpatterns as pages
from demo_site import views
from django.urls import path

urlpatterns = [
    path("here/", views.here),
    path("health/", views.health),
    path("api/posts/<slug:slug>", views.api_post),
    *pages,
]
