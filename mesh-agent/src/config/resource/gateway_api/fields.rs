//! The tables of these kinds' fields.

use super::super::fields::{Field, leaf, list, message, no};
use super::super::schema::object;

const NO_SESSION: Field = no(
    "sessionPersistence",
    "requests of one client are not kept together; write a DestinationRule with consistentHash",
);
const PARENT: &[Field] =
    &[leaf("group"), leaf("kind"), leaf("namespace"), leaf("name"), leaf("sectionName"), leaf("port")];
const NO_DEFAULT_GATEWAYS: Field = no("useDefaultGateways", "name the gateways in parentRefs");
const OBJECT: &[Field] = &[leaf("group"), leaf("kind"), leaf("namespace"), leaf("name")];
const MIRROR_BACKEND: &[Field] = &[leaf("group"), leaf("kind"), leaf("namespace"), leaf("name"), leaf("port")];
const PAIR: &[Field] = &[leaf("name"), leaf("value")];
const MODIFIER: &[Field] = &[list("set", PAIR), list("add", PAIR), leaf("remove")];
const PATH: &[Field] = &[leaf("type"), leaf("replaceFullPath"), leaf("replacePrefixMatch")];
const MATCH_VALUE: &[Field] = &[leaf("type"), leaf("name"), leaf("value")];

/// An unsupported `type` is `compile`'s to name: its rule then answers 500.
const FILTER: &[Field] = &[
    leaf("type"),
    message("requestHeaderModifier", MODIFIER),
    message("responseHeaderModifier", MODIFIER),
    message(
        "requestMirror",
        &[
            message("backendRef", MIRROR_BACKEND),
            leaf("percent"),
            message("fraction", &[leaf("numerator"), leaf("denominator")]),
        ],
    ),
    message(
        "requestRedirect",
        &[leaf("scheme"), leaf("hostname"), message("path", PATH), leaf("port"), leaf("statusCode")],
    ),
    message("urlRewrite", &[leaf("hostname"), message("path", PATH)]),
    message(
        "cors",
        &[
            leaf("allowOrigins"),
            leaf("allowCredentials"),
            leaf("allowMethods"),
            leaf("allowHeaders"),
            leaf("exposeHeaders"),
            leaf("maxAge"),
        ],
    ),
    leaf("extensionRef"),
    leaf("externalAuth"),
];
const BACKEND: &[Field] = &[
    leaf("group"),
    leaf("kind"),
    leaf("namespace"),
    leaf("name"),
    leaf("port"),
    leaf("weight"),
    list("filters", FILTER),
];

pub(crate) const HTTP_ROUTE: &[Field] = &object(&[
    list("parentRefs", PARENT),
    NO_DEFAULT_GATEWAYS,
    leaf("hostnames"),
    list(
        "rules",
        &[
            leaf("name"),
            list(
                "matches",
                &[
                    message("path", &[leaf("type"), leaf("value")]),
                    list("headers", MATCH_VALUE),
                    list("queryParams", MATCH_VALUE),
                    leaf("method"),
                ],
            ),
            list("filters", FILTER),
            list("backendRefs", BACKEND),
            message("timeouts", &[leaf("request"), leaf("backendRequest")]),
            message("retry", &[leaf("codes"), leaf("attempts"), leaf("backoff")]),
            NO_SESSION,
        ],
    ),
]);

pub(crate) const GRPC_ROUTE: &[Field] = &object(&[
    list("parentRefs", PARENT),
    NO_DEFAULT_GATEWAYS,
    leaf("hostnames"),
    list(
        "rules",
        &[
            leaf("name"),
            list(
                "matches",
                &[message("method", &[leaf("type"), leaf("service"), leaf("method")]), list("headers", MATCH_VALUE)],
            ),
            list("filters", FILTER),
            list("backendRefs", BACKEND),
            NO_SESSION,
        ],
    ),
]);

pub(crate) const REFERENCE_GRANT: &[Field] = &object(&[
    list("from", &[leaf("group"), leaf("kind"), leaf("namespace")]),
    list("to", &[leaf("group"), leaf("kind"), leaf("name")]),
]);

pub(crate) const GATEWAY_CLASS: &[Field] =
    &object(&[leaf("controllerName"), no("parametersRef", "a class of ours has no parameters"), leaf("description")]);

const VALIDATION: &[Field] = &[list("caCertificateRefs", OBJECT), leaf("mode")];
const PORT_TLS: &[Field] = &[message("validation", VALIDATION)];

pub(crate) const GATEWAY: &[Field] = &object(&[
    leaf("gatewayClassName"),
    list(
        "listeners",
        &[
            leaf("name"),
            leaf("hostname"),
            leaf("port"),
            leaf("protocol"),
            message(
                "tls",
                &[
                    leaf("mode"),
                    list("certificateRefs", OBJECT),
                    no("options", "no TLS option is known; TLS 1.2 and 1.3 are spoken"),
                    message("frontendValidation", VALIDATION),
                ],
            ),
            message(
                "allowedRoutes",
                &[
                    message(
                        "namespaces",
                        &[
                            leaf("from"),
                            message("selector", &[leaf("matchLabels"), list("matchExpressions", REQUIREMENT)]),
                        ],
                    ),
                    list("kinds", &[leaf("group"), leaf("kind")]),
                ],
            ),
        ],
    ),
    no("addresses", "a gateway's address is its pod's"),
    no("infrastructure", "gateway pods are not made from it; label a pod gateway.networking.k8s.io/gateway-name"),
    no("allowedListeners", "ListenerSets are not read"),
    no("defaultScope", "routes name their gateways in parentRefs"),
    no("backendTLS", "write a DestinationRule with tls"),
    message(
        "tls",
        &[
            message(
                "frontend",
                &[message("default", PORT_TLS), list("perPort", &[leaf("port"), message("tls", PORT_TLS)])],
            ),
            no("backend", "write a DestinationRule with tls"),
        ],
    ),
]);

const REQUIREMENT: &[Field] = &[leaf("key"), leaf("operator"), leaf("values")];
