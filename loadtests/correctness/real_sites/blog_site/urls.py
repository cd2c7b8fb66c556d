"""Where the pages are."""

from blog_site import views
from blog_site.models import Comment, Post
from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.contrib.sitemaps import GenericSitemap
from django.contrib.sitemaps.views import sitemap
from django.urls import path

admin.site.register([Post, Comment])
SITEMAP = GenericSitemap({"queryset": Post.objects.order_by("slug"), "date_field": "published"})

urlpatterns = [
    path("", views.index),
    path("post/<slug:slug>/", views.post),
    path("post/<slug:slug>/comments/", views.comments),
    path("section/<slug:name>/", views.section),
    path("archive/<int:year>/<int:month>/", views.archive),
    path("search/", views.search),
    path("about/", views.about),
    path("account/", views.account),
    path("greeting/", views.greeting),
    path("basket/", views.basket),
    path("profile/", views.profile),
    path("offer/", views.offer),
    path("export.csv", views.export),
    path("digest/", views.digest),
    path("feed/", views.Latest()),
    path("sitemap.xml", sitemap, {"sitemaps": {"posts": SITEMAP}}),
    path("login/", LoginView.as_view(template_name="login.html")),
    path("logout/", LogoutView.as_view()),
    path("admin/", admin.site.urls),
]
