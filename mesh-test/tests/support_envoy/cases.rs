//! VirtualService rules, and what is asked of them. Both proxies get both.
//!
//! An ask is `METHOD TARGET`, then ` | name: value` for each header field; method `GRPC` is a POST over HTTP/2 with
//! gRPC's content type.

pub(crate) struct Case {
    /// The Service it is asked for; a DNS label.
    pub(crate) name: &'static str,
    pub(crate) http: &'static str,
    pub(crate) asks: &'static [&'static str],
}

const fn case(name: &'static str, http: &'static str, asks: &'static [&'static str]) -> Case {
    Case { name, http, asks }
}

pub(crate) const CASES: &[Case] = &[
    case(
        "paths",
        r#"
- match: [{uri: {exact: /exact}}]
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /PRE}, ignoreUriCase: true}]
  route: [{destination: {host: b}}]
- match: [{uri: {regex: "/v[0-9]+(/.*)?"}}]
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /b/}}, {uri: {exact: /c}}]
  route: [{destination: {host: b}}]"#,
        &[
            "GET /exact",
            "GET /exact?q=1",
            "GET /exact/",
            "GET /prefix",
            "GET /Pre",
            "GET /v12",
            "GET /v12/x?y",
            "GET /v",
            "GET /b/",
            "GET /b",
            "GET /c",
            "GET /",
            "HEAD /exact",
            "DELETE /c?x=%20",
        ],
    ),
    case(
        "headers",
        r#"
- match: [{headers: {x-t: {exact: one}}}]
  route: [{destination: {host: a}}]
- match: [{headers: {x-t: {prefix: tw}}}]
  route: [{destination: {host: b}}]
- match: [{headers: {cookie: {regex: "^(.*?;)?(user=burr)(;.*)?$"}}}]
  route: [{destination: {host: b}}]
- match: [{headers: {x-there: {}}}]
  route: [{destination: {host: a}}]
- match: [{withoutHeaders: {x-not: {exact: foo}, x-absent: {}}}]
  route: [{destination: {host: b}}]"#,
        &[
            "GET / | x-t: one",
            "GET / | X-T: one",
            "GET / | x-t: One",
            "GET / | x-t: two",
            "GET / | cookie: a=1;user=burr;b=2",
            "GET / | cookie: user=jason",
            "GET / | x-there: ",
            "GET / | x-there: 1 | x-absent: 1",
            "GET / | x-not: foo",
            "GET / | x-not: bar",
            "GET / | x-absent: x",
            "GET /",
        ],
    ),
    case(
        "pseudo",
        r#"
- match: [{method: {exact: PUT}}]
  route: [{destination: {host: a}}]
- match: [{method: {regex: "P.*T"}}]
  route: [{destination: {host: b}}]
- match: [{authority: {prefix: pseudo.diff}}]
  redirect: {uri: /matched}"#,
        &["PUT /", "POST /", "PATCH /", "GET /"],
    ),
    case(
        "query",
        r#"
- match: [{queryParams: {v: {exact: "1"}}}]
  route: [{destination: {host: a}}]
- match: [{queryParams: {v: {regex: "[a-z]+"}}}]
  route: [{destination: {host: b}}]
- match: [{queryParams: {there: {}}}]
  route: [{destination: {host: a}}]"#,
        &[
            "GET /?v=1",
            "GET /?v=2&v=1",
            "GET /?v=1&v=2",
            "GET /?v=abc",
            "GET /?there",
            "GET /?there=1",
            "GET /?x=there",
            "GET /?v=%31",
            "GET /",
        ],
    ),
    case(
        "rewrites",
        r#"
- match: [{uri: {prefix: /foo/}}]
  rewrite: {uri: /}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /naive}}]
  rewrite: {uri: /}
  route: [{destination: {host: a}}]
- match: [{uri: {exact: /whole}}]
  rewrite: {uri: /other, authority: rewritten.example}
  route: [{destination: {host: b}}]
- match: [{uri: {prefix: /service}}]
  rewrite: {uriRegexRewrite: {match: "^/service/([^/]+)(/.*)$", rewrite: "\\2/instance/\\1"}}
  route: [{destination: {host: a}}]
- match: [{uri: {regex: "/r.*"}}]
  rewrite: {uri: /regexed}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /o}}]
  rewrite: {uriRegexRewrite: {match: "o", rewrite: "0"}}
  route: [{destination: {host: a}}]
- rewrite: {uri: /x}
  route: [{destination: {host: b}}]"#,
        &[
            "GET /foo/bar?q=/foo/",
            "GET /foo/",
            "GET /naive/bar",
            "GET /naive",
            "GET /whole?a=b",
            "GET /service/s1/v1/api?x=y",
            "GET /service/short",
            "GET /rest/of?it",
            "GET /oho?o=o",
            "GET /all",
        ],
    ),
    case(
        "redirects",
        r#"
- match: [{uri: {prefix: /uri}}]
  redirect: {uri: /new}
- match: [{uri: {prefix: /query}}]
  redirect: {uri: "/new?a=b"}
- match: [{uri: {prefix: /host}}]
  redirect: {authority: other.example, redirectCode: 302}
- match: [{uri: {prefix: /scheme}}]
  redirect: {scheme: https, redirectCode: 308}
- match: [{uri: {prefix: /port}}]
  redirect: {port: 8443, scheme: https, redirectCode: 307}
- match: [{uri: {prefix: /all}}]
  redirect: {authority: other.example, port: 8080, uri: /x, scheme: http, redirectCode: 303}
- match: [{uri: {prefix: /derive}}]
  redirect: {authority: other.example, derivePort: FROM_REQUEST_PORT}
- match: [{uri: {prefix: /prefix}}]
  redirect: {prefixRewrite: /newer}"#,
        &[
            "GET /uri/x?y=z",
            "GET /query?c=d",
            "GET /host/x?y",
            "GET /scheme/a?b",
            "GET /port",
            "POST /all?q",
            "GET /derive/me",
            "GET /prefix/tail?q=1",
        ],
    ),
    case(
        "direct",
        r#"
- match: [{uri: {prefix: /teapot}}]
  directResponse: {status: 418, body: {string: "short and stout"}}
- match: [{uri: {prefix: /bare}}]
  directResponse: {status: 503}
- match: [{uri: {prefix: /headers}}]
  headers: {response: {set: {x-t-direct: "1"}}}
  directResponse: {status: 200, body: {string: "hello"}}"#,
        &["GET /teapot", "POST /teapot", "GET /bare", "GET /headers", "GET /none"],
    ),
    case(
        "operations",
        r#"
- match: [{uri: {prefix: /one}}]
  headers:
    request: {set: {x-t-set: route}, add: {x-t-add: route}, remove: [x-t-gone]}
    response: {set: {x-t-answer: route}, remove: [x-backend]}
  route:
  - destination: {host: a}
    headers:
      request: {set: {x-t-set: backend}, add: {x-t-add: backend}, remove: [x-t-add]}
      response: {add: {x-t-answer: backend}}
- match: [{uri: {prefix: /two}}]
  headers:
    request: {set: {x-t-set: route}, add: {x-t-add: route}, remove: [x-t-gone]}
    response: {set: {x-t-answer: route}}
  route:
  - destination: {host: a}
    weight: 1
    headers: &ops
      request: {set: {x-t-set: backend}, add: {x-t-add: backend}, remove: [x-t-add]}
      response: {add: {x-t-answer: backend}}
  - {destination: {host: a}, weight: 1, headers: *ops}
- match: [{uri: {prefix: /host}}]
  headers: {request: {set: {host: by-header.example}}}
  route: [{destination: {host: b}}]
- match: [{uri: {prefix: /both}}]
  rewrite: {authority: by-rewrite.example}
  headers: {request: {set: {host: by-header.example}}}
  route: [{destination: {host: b}}]
- match: [{uri: {prefix: /last}}]
  route:
  - destination: {host: b}
    headers: {request: {set: {host: by-backend.example}}}"#,
        &[
            "GET /one | x-t-set: client | x-t-add: client | x-t-gone: 1",
            "GET /two | x-t-set: client | x-t-add: client | x-t-gone: 1",
            "GET /host",
            "GET /both",
            "GET /last",
            "GET /none",
        ],
    ),
    case(
        "cors",
        r#"
- match: [{uri: {prefix: /forward}}]
  corsPolicy: &policy
    allowOrigins: [{exact: "https://a.com"}, {regex: "https://.*\\.b\\.com"}]
    allowMethods: [GET, PUT]
    allowHeaders: [x-one, x-two]
    exposeHeaders: [x-three]
    maxAge: 600s
    allowCredentials: true
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /ignore}}]
  corsPolicy:
    allowOrigins: [{prefix: "https://a"}]
    allowMethods: [GET]
    allowHeaders: ["*"]
    exposeHeaders: [x-three]
    maxAge: 60s
    allowCredentials: true
    unmatchedPreflights: IGNORE
  route: [{destination: {host: a}}]"#,
        &[
            "OPTIONS /forward | origin: https://a.com | access-control-request-method: PUT",
            "OPTIONS /forward | origin: https://x.b.com | access-control-request-method: PUT | access-control-request-headers: x-one",
            "OPTIONS /forward | origin: https://evil.com | access-control-request-method: PUT",
            "OPTIONS /forward | origin: https://a.com",
            "GET /forward | origin: https://a.com",
            "GET /forward | origin: https://evil.com",
            "GET /forward",
            "OPTIONS /ignore | origin: https://evil.com | access-control-request-method: PUT",
            "OPTIONS /ignore | origin: https://a.org | access-control-request-method: PUT | access-control-request-headers: x-a, x-b",
            "OPTIONS /ignore | origin: https://a.org | access-control-request-method: PUT",
        ],
    ),
    case(
        "faults",
        r#"
- match: [{uri: {prefix: /http}}]
  fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /grpc}}]
  fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
  route: [{destination: {host: g}}]
- match: [{uri: {prefix: /delay}}]
  fault: {delay: {fixedDelay: 50ms, percentage: {value: 100}}}
  timeout: 10s
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /both}}]
  fault: {delay: {fixedDelay: 20ms, percentage: {value: 100}}, abort: {httpStatus: 503, percentage: {value: 100}}}
  retries: {attempts: 3, retryOn: 5xx}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /never}}]
  fault: {abort: {httpStatus: 418, percentage: {value: 0}}}
  route: [{destination: {host: a}}]
- fault: {abort: {httpStatus: 404, percentage: {value: 100}}}
  route: [{destination: {host: g}}]"#,
        &["GET /http", "GRPC /grpc/m", "GET /grpc", "GET /delay", "GET /both", "GET /never", "GRPC /other/m"],
    ),
    case(
        "retries",
        r#"
- match: [{uri: {prefix: /5xx}}]
  retries: {attempts: 2, retryOn: 5xx}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /gateway}}]
  retries: {attempts: 3, retryOn: gateway-error}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /codes}}]
  retries: {attempts: 2, retryOn: "418,409"}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /4xx}}]
  retries: {attempts: 1, retryOn: retriable-4xx}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /reset}}]
  retries: {attempts: 2, retryOn: reset}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /none}}]
  retries: {attempts: 0}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /refused}}]
  retries: {attempts: 1, retryOn: connect-failure}
  route: [{destination: {host: refused}}]
- match: [{uri: {prefix: /grpc}}]
  retries: {attempts: 2, retryOn: unavailable}
  route: [{destination: {host: g}}]
- route: [{destination: {host: a}}]"#,
        &[
            "GET /5xx | x-do: fail=2",
            "GET /5xx | x-do: fail=3",
            "GET /5xx | x-do: status=404",
            "GET /5xx | x-do: close",
            "GET /gateway | x-do: fail=3",
            "GET /gateway | x-do: status=500",
            "GET /codes | x-do: status=418",
            "GET /codes | x-do: status=503",
            "GET /4xx | x-do: status=409",
            "GET /reset | x-do: close",
            "GET /reset | x-do: status=503",
            "GET /none | x-do: fail=1",
            "GET /none | x-do: close",
            "GET /refused",
            "GET /default | x-do: fail=1",
            "GET /default | x-do: close",
            "GET /5xx | x-do: status=503;set-x-envoy-ratelimited=true",
            "GRPC /grpc/m | x-do: grpc=14",
            "GRPC /grpc/m | x-do: grpc=13",
            "GRPC /grpc/m | x-do: grpc=0",
        ],
    ),
    case(
        "timeouts",
        r#"
- match: [{uri: {prefix: /short}}]
  timeout: 200ms
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /try}}]
  timeout: 5s
  retries: {attempts: 1, perTryTimeout: 100ms, retryOn: 5xx}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /once}}]
  timeout: 5s
  retries: {attempts: 1, perTryTimeout: 100ms, retryOn: connect-failure}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /grpc}}]
  timeout: 200ms
  route: [{destination: {host: g}}]
- match: [{uri: {prefix: /open}}]
  route: [{destination: {host: g}}]
- route: [{destination: {host: a}}]"#,
        &[
            "GET /short | x-do: sleep=1000",
            "GET /short",
            "GET /try | x-do: sleep=1000",
            "GET /once | x-do: sleep=1000",
            "GET /header | x-do: sleep=1000 | x-envoy-upstream-rq-timeout-ms: 150 | x-forwarded-for: 10.0.0.1",
            "GRPC /grpc/m | x-do: sleep=1000",
            "GRPC /open/m | x-do: sleep=1000 | grpc-timeout: 150m",
            "GRPC /grpc/m | x-do: grpc=0 | grpc-timeout: 100m",
            "GRPC /grpc/m | x-do: grpc=0 | grpc-timeout: 9S",
            "GRPC /grpc/m | x-do: grpc=0",
            "GRPC /open/m | x-do: grpc=0 | grpc-timeout: 9S",
        ],
    ),
    case(
        "failures",
        r#"
- match: [{uri: {prefix: /empty}}]
  route: [{destination: {host: empty}}]
- match: [{uri: {prefix: /unknown}}]
  route: [{destination: {host: unknown}}]
- match: [{uri: {prefix: /refused}}]
  retries: {attempts: 0}
  route: [{destination: {host: refused}}]
- match: [{uri: {prefix: /closed}}]
  retries: {attempts: 0}
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /weights}}]
  route: [{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 1}, {destination: {host: b}, weight: 3}]"#,
        &[
            "GET /empty",
            "GRPC /empty/m",
            "GET /unknown",
            "GRPC /unknown/m",
            "GET /refused",
            "GRPC /refused/m",
            "GET /closed | x-do: close",
            "GET /weights",
            "GRPC /nowhere/m",
        ],
    ),
];
