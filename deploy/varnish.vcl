# Varnish before Rollcall's API (Varnish 7 with vmod-xkey: Debian's varnish and varnish-modules). Start it with
#     varnishd -a :80 -f /etc/varnish/varnish.vcl -s malloc,256m -p http_gzip_support=off
# Without that last parameter Varnish would ask for gzip alone: the API compresses better itself (zstd, br, gzip).
# Rollcall knows it by CDN_VARNISH_URLS. Change the backend's address and, for a beat on another machine, `purgers`.
vcl 4.1;

import std;
import xkey;

backend api {
    .host = "127.0.0.1";
    .port = "8000";
    .connect_timeout = 2s;
    .first_byte_timeout = 60s;
    .between_bytes_timeout = 60s;
    # Not /readyz: without its database the API still serves what it holds, and says the rest better than Varnish can.
    .probe = {
        .url = "/healthz";
        .interval = 2s;
        .timeout = 2s;
        .window = 4;
        .threshold = 2;
        .initial = 2;
    }
}

# Who may purge: where beat runs.
acl purgers {
    "127.0.0.1";
    "::1";
}

sub vcl_recv {
    if (req.method == "PURGE") {
        # Varnish adds the caller to X-Forwarded-For: a second address there is that of a client behind a proxy of ours.
        if (client.ip !~ purgers || req.http.X-Forwarded-For ~ ",") {
            return (synth(403, "Forbidden"));
        }
        if (req.http.xkey-softpurge) {
            set req.http.xkey-purged = xkey.softpurge(req.http.xkey-softpurge);
        } elseif (req.http.xkey-purge) {
            set req.http.xkey-purged = xkey.purge(req.http.xkey-purge);
        } else {
            return (synth(400, "Name tags in xkey-purge or xkey-softpurge"));
        }
        return (synth(200, "Purged"));
    }

    # From a client these would mean something further down.
    unset req.http.xkey-purged;
    if (req.restarts == 0) {
        unset req.http.X-Any-Age;
    }
    # Each request has an id of its own, also where the answer is one that was kept.
    if (req.http.X-Request-ID !~ "^[\w.:/+=-]{1,128}$") {
        set req.http.X-Request-ID = req.xid;
    }

    if (req.method != "GET" && req.method != "HEAD") {
        return (pass);
    }
    # An export goes through as it comes: Varnish would hold in memory what its reader is too slow for. So does what tells
    # pages of changes.
    if (req.url ~ "^/api/(export/|live)") {
        return (pipe);
    }
    # Somebody's own rights, and what is never kept.
    if (req.http.Authorization || req.url ~ "^/(api/(jobs|performance)|metrics|healthz|readyz|session|sign-in|edit)([/?]|$)") {
        return (pass);
    }

    # Where reading is open the API asks nobody's cookie, and where it is closed Varnish keeps nothing; so a signed-in
    # browser's goes on, and keeps no answers apart. Those of other sites on the domain aren't the API's.
    if (req.http.Cookie !~ "(^|; *)(__Host-)?rollcall_session=") {
        unset req.http.Cookie;
    }
    # One spelling of a question, and of what a client can decode: in the API's own order of preference.
    set req.url = std.querysort(req.url);
    if (req.http.Accept-Encoding) {
        if (req.http.Accept-Encoding ~ ";") {
            # Weights are the API's to judge.
        } elseif (req.http.Accept-Encoding ~ "(?i)(^|[ ,])zstd([ ,]|$)") {
            set req.http.Accept-Encoding = "zstd";
        } elseif (req.http.Accept-Encoding ~ "(?i)(^|[ ,])br([ ,]|$)") {
            set req.http.Accept-Encoding = "br";
        } elseif (req.http.Accept-Encoding ~ "(?i)(^|[ ,])gzip([ ,]|$)") {
            set req.http.Accept-Encoding = "gzip";
        } elseif (req.http.Accept-Encoding !~ "\*") {
            unset req.http.Accept-Encoding;
        }
    }

    # And one spelling of what it takes: lists are JSON for whoever names none of their other formats (browsers each have
    # an Accept of their own), and JSON, NDJSON or CSV, in this order, among equals.
    if (req.http.Accept !~ "(?i)csv|ndjson|text/\*") {
        unset req.http.Accept;
    } elseif (req.http.Accept ~ ";") {
        # Weights are the API's to judge.
    } elseif (req.http.Accept ~ "(?i)(^|[ ,])(application/json|application/\*|\*/\*)([ ,]|$)") {
        unset req.http.Accept;
    } elseif (req.http.Accept ~ "(?i)(^|[ ,])application/x-ndjson([ ,]|$)") {
        set req.http.Accept = "application/x-ndjson";
    } elseif (req.http.Accept ~ "(?i)(^|[ ,])text/(csv|\*)([ ,]|$)") {
        set req.http.Accept = "text/csv";
    } else {
        unset req.http.Accept;
    }

    # A soft-purged answer serves for two seconds while a new one is fetched; any answer serves while the API is down.
    if (std.healthy(req.backend_hint) && !req.http.X-Any-Age) {
        set req.grace = 2s;
    } else {
        set req.grace = 1d;
    }
    return (hash);
}

sub vcl_pipe {
    # The next request on this connection would not be looked at.
    set bereq.http.Connection = "close";
}

sub vcl_hash {
    # Not the host: the API's answers don't depend on the name that it's called by.
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_response {
    if (bereq.uncacheable) {
        return (deliver);
    }
    # An error that is looked at takes the place of the older answer, even if it isn't kept: only where none is there
    # (vcl_synth has looked) does the client get to see it.
    if (beresp.status >= 500 && (bereq.is_bgfetch || !bereq.http.X-Any-Age)) {
        return (abandon);
    }
    if (beresp.status == 200 && beresp.http.Surrogate-Control ~ "max-age=[1-9]") {
        set beresp.ttl = std.duration(regsub(beresp.http.Surrogate-Control, ".*max-age=(\d+).*", "\1s"), 0s);
        set beresp.grace = std.duration(
            regsub(beresp.http.Surrogate-Control, ".*stale-if-error=(\d+).*", "\1s"), 2s);
        set beresp.http.xkey = beresp.http.Surrogate-Key;
        # What the API says of one client's limit is nothing for the next.
        unset beresp.http.RateLimit;
        unset beresp.http.RateLimit-Policy;
        unset beresp.http.RateLimit-Limit;
        unset beresp.http.RateLimit-Remaining;
        unset beresp.http.RateLimit-Reset;
        return (deliver);
    }
    if (beresp.status == 200 && beresp.http.Cache-Control ~ "public" && beresp.http.Cache-Control ~ "max-age=[1-9]") {
        return (deliver);
    }
    # Nothing else is kept. For a second requests for it don't queue up behind each other; but an error of the server
    # leaves no trace, which would hide an older answer that is still there (vcl_deliver).
    set beresp.uncacheable = true;
    set beresp.grace = 0s;
    if (beresp.status >= 500) {
        set beresp.ttl = 0s;
    } else {
        set beresp.ttl = 1s;
    }
    return (deliver);
}

sub vcl_deliver {
    # The API is up and in trouble: an older answer, if there is one, is better than an error.
    if (resp.status >= 500 && req.restarts == 0 && (req.method == "GET" || req.method == "HEAD")
        && !req.http.Authorization) {
        set req.http.X-Any-Age = "1";
        return (restart);
    }
    set resp.http.X-Request-ID = req.http.X-Request-ID;
    unset resp.http.xkey;
    unset resp.http.Surrogate-Control;
    # Ages are ours to keep; browsers ask each time.
    unset resp.http.Age;
    set resp.http.X-CDN = regsub(obj.hits, "^[1-9].*", "hit");
    if (resp.http.X-CDN != "hit") {
        set resp.http.X-CDN = "miss";
    }
}

sub vcl_synth {
    # The API is up and in trouble: an older answer, if there is one, is better than an error.
    if (resp.status == 503 && req.restarts == 0 && req.http.X-Request-ID && !req.http.Authorization
        && (req.method == "GET" || req.method == "HEAD")) {
        set req.http.X-Any-Age = "1";
        return (restart);
    }
    if (req.http.xkey-purged) {
        set resp.http.xkey-purged = req.http.xkey-purged;
        return (deliver);
    }
}

sub vcl_backend_error {
    set beresp.http.Content-Type = "application/problem+json";
    set beresp.http.Cache-Control = "no-store";
    set beresp.http.Retry-After = "5";
    set beresp.body = """{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The API is away."}""";
    set beresp.ttl = 0s;
    return (deliver);
}
