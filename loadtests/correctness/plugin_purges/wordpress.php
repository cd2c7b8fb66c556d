<?php
// A plug-in on WordPress's own HTTP API, its options in the object cache in place of a database:
// wordpress.php WORDPRESS PLUGIN_DIRECTORY MUST_USE_PLUGIN WHAT, with HOME_URL and POP in the environment.
[, $wordpress, $plugin, $must_use, $what] = $argv;
define('ABSPATH', rtrim($wordpress, '/') . '/');
define('WPINC', 'wp-includes');
define('WP_CONTENT_DIR', ABSPATH . 'wp-content');
define('WP_DEBUG', false);
define('WP_NETWORK_ADMIN', true);
$files = 'version compat load plugin class-wp-error functions option cache class-wp-object-cache formatting kses l10n
    general-template link-template class-wp-query query http class-wp-http class-wp-http-streams class-wp-http-curl
    class-wp-http-proxy class-wp-http-cookie class-wp-http-encoding class-wp-http-response
    class-wp-http-requests-response class-wp-http-requests-hooks';
foreach (preg_split('/\s+/', $files) as $file) {
    require_once ABSPATH . WPINC . "/$file.php";
}
class NoDatabase
{
    public $options = 'options';
    public function __call($name, $arguments) { return null; }
}
class Settings
{
    public $options = ['purge_method' => 'get_request', 'purge_amp_urls' => 0];
    public function is_nginx_log_enabled() { return false; }
}
$wpdb = new NoDatabase();
$wp_query = new WP_Query();
wp_cache_init();
$options = ['home' => getenv('HOME_URL'), 'vhp_varnish_ip' => getenv('POP'), 'blog_charset' => 'UTF-8'];
wp_cache_set('alloptions', $options, 'options');
require $must_use;
if (basename($plugin) === 'nginx-helper') {
    define('RT_WP_NGINX_HELPER_CACHE_PATH', '/nonexistent');
    require "$plugin/admin/class-purger.php";
    require "$plugin/admin/class-fastcgi-purger.php";
    $nginx_helper_admin = new Settings();
    $purger = new FastCGI_Purger();
    $what === 'all' ? $purger->purge_all() : $purger->purge_url(home_url($what), false);
} else {
    require "$plugin/varnish-http-purge.php";
    VarnishPurger::purge_url(home_url($what === 'all' ? '/?vhp-regex' : $what));
}
