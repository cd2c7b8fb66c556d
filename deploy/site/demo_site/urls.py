"""The blog's pages, and those that it has for editors and by country."""

from blog_site.urls import urlpatterns as pages
from django.urls import path

from demo_site import views

urlpatterns = [
    path("here/", views.here),
    path("health/", views.health),
    path("api/posts/<slug:slug>", views.api_post),
    *pages,
]
