//! VirtualService `http` rules → Envoy's static configuration, as Istio's control plane translates them. Small, and on
//! purpose without a line of ours: what it shares with the agent is Istio's and Envoy's documentation only.

use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::Path;

const TYPE: &str = "type.googleapis.com/";

/// The whole bootstrap: one listener, one virtual host per case, one cluster per backend.
pub(crate) fn bootstrap(
    cases: &[(String, Value)],
    clusters: &[(&str, Option<SocketAddr>, bool)],
    listener: SocketAddr,
    log: &Path,
) -> Value {
    let hosts: Vec<Value> = cases
        .iter()
        .map(|(host, http)| {
            let rules = http.as_array().expect("a list of rules").iter().flat_map(routes).collect::<Vec<_>>();
            json!({"name": host, "domains": [host], "routes": rules})
        })
        .collect();
    let filter = |name: &str, kind: &str| json!({"name": name, "typed_config": {"@type": format!("{TYPE}{kind}")}});
    let manager = json!({
        "@type": format!("{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "access_log": [{"name": "file", "typed_config": {
            "@type": format!("{TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog"),
            "path": log,
            "log_format": {"text_format_source": {
                "inline_string": "%REQ(X-CASE)% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"
            }},
        }}],
        "route_config": {"name": "r", "validate_clusters": false, "virtual_hosts": hosts, "ignore_port_in_host_matching": true},
        // Only for internal requests Envoy heeds its own header fields; since 1.33 nobody is internal by default.
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        "http_filters": [
            filter("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault"),
            filter("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors"),
            filter("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
        ],
    });
    json!({
        "static_resources": {
            "listeners": [{
                "name": "l",
                "address": address(listener),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager", "typed_config": manager
                }]}],
            }],
            "clusters": clusters.iter().map(|(name, addr, http2)| cluster(name, *addr, *http2)).collect::<Vec<_>>(),
        }
    })
}

fn address(addr: SocketAddr) -> Value {
    json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}})
}

fn cluster(name: &str, addr: Option<SocketAddr>, http2: bool) -> Value {
    let endpoints: Vec<Value> = addr.into_iter().map(|a| json!({"endpoint": {"address": address(a)}})).collect();
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    cluster
}

/// One rule is a route per match.
fn routes(rule: &Value) -> Vec<Value> {
    let every = vec![json!({})];
    let matches = rule["match"].as_array().unwrap_or(&every);
    matches.iter().map(|one| route(rule, one)).collect()
}

fn route(rule: &Value, one: &Value) -> Value {
    let mut route = json!({"match": matcher(one)});
    if let Some(redirect) = given(&rule["redirect"]) {
        route["redirect"] = self::redirect(redirect);
    } else if let Some(direct) = given(&rule["directResponse"]) {
        let mut answer = json!({"status": direct["status"]});
        if let Some(text) = direct["body"]["string"].as_str() {
            answer["body"] = json!({"inline_string": text});
        }
        route["direct_response"] = answer;
    } else {
        route["route"] = forward(rule);
    }
    operations(&mut route, [&rule["headers"]]);
    if let [only] = &list(&rule["route"])[..] {
        operations(&mut route, [&rule["headers"], &only["headers"]]);
    }
    let mut filters = Map::new();
    if let Some(cors) = given(&rule["corsPolicy"]) {
        filters.insert("envoy.filters.http.cors".into(), self::cors(cors));
    }
    if let Some(fault) = given(&rule["fault"]) {
        filters.insert("envoy.filters.http.fault".into(), self::fault(fault));
    }
    route["typed_per_filter_config"] = filters.into();
    route
}

fn matcher(one: &Value) -> Value {
    let uri = &one["uri"];
    let mut matcher = if let Some(exact) = given(&uri["exact"]) {
        json!({"path": exact})
    } else if let Some(regex) = given(&uri["regex"]) {
        json!({"safe_regex": {"regex": regex}})
    } else {
        json!({"prefix": given(&uri["prefix"]).unwrap_or(&json!("/"))})
    };
    if one["ignoreUriCase"] == true {
        matcher["case_sensitive"] = json!(false);
    }
    let mut headers = Vec::new();
    for (name, value) in pairs(&one["headers"]) {
        headers.push(header(name, value, false));
    }
    for (name, value) in pairs(&one["withoutHeaders"]) {
        headers.push(header(name, value, true));
    }
    for pseudo in ["method", "authority", "scheme"] {
        if let Some(value) = given(&one[pseudo]) {
            headers.push(header(&format!(":{pseudo}"), value, false));
        }
    }
    matcher["headers"] = headers.into();
    let query = pairs(&one["queryParams"]).into_iter().map(|(name, value)| match string(value) {
        Some(value) => json!({"name": name, "string_match": value}),
        None => json!({"name": name, "present_match": true}),
    });
    matcher["query_parameters"] = query.collect();
    matcher
}

/// `None`: presence.
fn string(value: &Value) -> Option<Value> {
    if let Some(regex) = value["regex"].as_str() {
        return (regex != "*").then(|| json!({"safe_regex": {"regex": regex}}));
    }
    ["exact", "prefix"].iter().find_map(|kind| given(&value[*kind]).map(|text| json!({ *kind: text })))
}

fn header(name: &str, value: &Value, invert: bool) -> Value {
    match string(value) {
        Some(value) => {
            json!({"name": name, "string_match": value, "invert_match": invert, "treat_missing_header_as_empty": invert})
        }
        None => json!({"name": name, "present_match": true, "invert_match": invert}),
    }
}

fn forward(rule: &Value) -> Value {
    let mut action = json!({"timeout": "0s", "max_grpc_timeout": "0s"});
    if let Some(timeout) = given(&rule["timeout"]) {
        action["timeout"] = seconds(timeout);
        action["max_grpc_timeout"] = seconds(timeout);
    }
    let backends: Vec<&Value> = list(&rule["route"]);
    if let [only] = &backends[..] {
        action["cluster"] = only["destination"]["host"].clone();
    } else {
        let weighted = backends.iter().filter(|b| b["weight"].as_u64().unwrap_or(0) > 0).map(|backend| {
            let mut one = json!({"name": backend["destination"]["host"], "weight": backend["weight"]});
            operations(&mut one, [&backend["headers"]]);
            one
        });
        action["weighted_clusters"] = json!({"clusters": weighted.collect::<Vec<_>>()});
    }
    if let Some(uri) = given(&rule["rewrite"]["uri"]) {
        action["prefix_rewrite"] = uri.clone();
    }
    if let Some(regex) = given(&rule["rewrite"]["uriRegexRewrite"]) {
        action["regex_rewrite"] = json!({"pattern": {"regex": regex["match"]}, "substitution": regex["rewrite"]});
    }
    let named = |headers: &Value| headers["request"]["set"]["host"].as_str().map(str::to_owned);
    let of_route = given(&rule["rewrite"]["authority"]).and_then(Value::as_str).map(str::to_owned);
    let of_only = || if let [only] = &backends[..] { named(&only["headers"]) } else { None };
    if let Some(host) = of_route.or_else(|| named(&rule["headers"])).or_else(of_only) {
        action["host_rewrite_literal"] = host.into();
    }
    action["retry_policy"] = retries(&rule["retries"]);
    action
}

fn retries(retries: &Value) -> Value {
    let attempts = retries["attempts"].as_u64();
    if attempts == Some(0) {
        return json!({"retry_on": "", "num_retries": 0});
    }
    let text = retries["retryOn"].as_str().unwrap_or("connect-failure,refused-stream,unavailable,cancelled");
    let (codes, words): (Vec<&str>, Vec<&str>) = text.split(',').partition(|word| word.parse::<u16>().is_ok());
    let codes: Vec<u16> = codes.iter().filter_map(|code| code.parse().ok()).collect();
    let words = [words.join(","), "retriable-status-codes".to_owned()].join(",");
    let mut policy = json!({
        "retry_on": words, "num_retries": attempts.unwrap_or(2), "retriable_status_codes": codes,
        "retry_back_off": {"base_interval": "0.005s"},
    });
    if let Some(timeout) = given(&retries["perTryTimeout"]) {
        policy["per_try_timeout"] = seconds(timeout);
    }
    policy
}

fn redirect(redirect: &Value) -> Value {
    let mut out = json!({});
    for (from, to) in [
        ("uri", "path_redirect"),
        ("prefixRewrite", "prefix_rewrite"),
        ("authority", "host_redirect"),
        ("scheme", "scheme_redirect"),
        ("port", "port_redirect"),
    ] {
        if let Some(value) = given(&redirect[from]) {
            out[to] = value.clone();
        }
    }
    if redirect["derivePort"] == "FROM_REQUEST_PORT" {
        // Every case's Service has port 80, which Istio leaves out.
        out["port_redirect"] = json!(0);
    }
    let code = match redirect["redirectCode"].as_u64().unwrap_or(301) {
        302 => "FOUND",
        303 => "SEE_OTHER",
        307 => "TEMPORARY_REDIRECT",
        308 => "PERMANENT_REDIRECT",
        _ => "MOVED_PERMANENTLY",
    };
    out["response_code"] = json!(code);
    out
}

/// `headers` of a rule and of its only destination: Istio puts them into one list.
fn operations<const N: usize>(to: &mut Value, headers: [&Value; N]) {
    for (direction, add, remove) in [
        ("request", "request_headers_to_add", "request_headers_to_remove"),
        ("response", "response_headers_to_add", "response_headers_to_remove"),
    ] {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for one in headers {
            for (list, action) in [("set", "OVERWRITE_IF_EXISTS_OR_ADD"), ("add", "APPEND_IF_EXISTS_OR_ADD")] {
                for (key, value) in pairs(&one[direction][list]) {
                    if key != "host" {
                        added.push(json!({"header": {"key": key, "value": value}, "append_action": action}));
                    }
                }
            }
            removed.extend(list(&one[direction]["remove"]).into_iter().cloned());
        }
        to[add] = added.into();
        to[remove] = removed.into();
    }
}

fn cors(cors: &Value) -> Value {
    let joined = |field: &str| {
        let all: Vec<&str> = list(&cors[field]).into_iter().filter_map(Value::as_str).collect();
        all.join(",")
    };
    let origins = list(&cors["allowOrigins"]).into_iter().filter_map(string);
    let mut out = json!({
        "@type": format!("{TYPE}envoy.extensions.filters.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": origins.collect::<Vec<_>>(),
        "allow_methods": joined("allowMethods"), "allow_headers": joined("allowHeaders"),
        "expose_headers": joined("exposeHeaders"),
        "forward_not_matching_preflights": cors["unmatchedPreflights"] != "IGNORE",
    });
    if let Some(age) = cors["maxAge"].as_str() {
        out["max_age"] = age.trim_end_matches('s').into();
    }
    if let Some(allow) = given(&cors["allowCredentials"]) {
        out["allow_credentials"] = allow.clone();
    }
    out
}

fn fault(fault: &Value) -> Value {
    let share = |part: &Value| {
        let percent = part["percentage"]["value"].as_f64().unwrap_or(0.0);
        json!({"numerator": (percent * 10_000.0) as u64, "denominator": "MILLION"})
    };
    let mut out = json!({"@type": format!("{TYPE}envoy.extensions.filters.http.fault.v3.HTTPFault")});
    if let Some(delay) = given(&fault["delay"]) {
        out["delay"] = json!({"fixed_delay": seconds(&delay["fixedDelay"]), "percentage": share(delay)});
    }
    if let Some(abort) = given(&fault["abort"]) {
        out["abort"] = json!({"percentage": share(abort)});
        match (abort["httpStatus"].as_u64(), abort["grpcStatus"].as_str()) {
            (Some(status), _) => out["abort"]["http_status"] = status.into(),
            (None, Some("UNAVAILABLE")) => out["abort"]["grpc_status"] = 14.into(),
            (None, other) => panic!("abort without a status this translator knows: {other:?}"),
        }
    }
    out
}

/// `300ms` → `0.3s`
fn seconds(value: &Value) -> Value {
    let text = value.as_str().expect("a duration");
    match text.strip_suffix("ms") {
        Some(millis) => format!("{}s", millis.parse::<f64>().expect("milliseconds") / 1e3).into(),
        None => text.into(),
    }
}

fn given(value: &Value) -> Option<&Value> {
    (!value.is_null()).then_some(value)
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().map(|list| list.iter().collect()).unwrap_or_default()
}

fn pairs(value: &Value) -> Vec<(&String, &Value)> {
    value.as_object().map(|map| map.iter().collect()).unwrap_or_default()
}
