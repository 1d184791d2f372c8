//! Who there is and what each path of theirs does: one table for both demos.

use super::bookinfo::{Colour, Part};

/// A service of a demo.
pub(super) struct Service {
    pub(super) name: &'static str,
    /// Public images begin so: `<prefix>` or `<prefix>-<version>`, without registry and tag.
    image: &'static str,
    routes: &'static [Route],
}

/// The first route whose path fits answers; a service's `/` and `/health` need none.
pub(super) struct Route {
    /// Exact, or all below where it ends with `/*`.
    path: &'static str,
    pub(super) answer: Answer,
    /// Made in this order before the answer.
    pub(super) calls: &'static [Call],
}

#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// Who answered, and what the services behind said; 500 if one of them failed.
    Json,
    Bookinfo(Part),
}

/// A request to another service, by name and port as the original makes it.
pub(super) struct Call {
    pub(super) to: &'static str,
    /// `{id}` is the first number in the caller's path, else 0.
    pub(super) path: &'static str,
    pub(super) timeout_ms: u64,
    /// Made again after a failure, so many times in all.
    pub(super) tries: u8,
}

const fn json(path: &'static str, calls: &'static [Call]) -> Route {
    Route { path, answer: Answer::Json, calls }
}

const fn book(path: &'static str, part: Part, calls: &'static [Call]) -> Route {
    Route { path, answer: Answer::Bookinfo(part), calls }
}

/// Sock Shop's services wait long enough for whatever a mesh may do to their calls.
const fn shop(to: &'static str, path: &'static str) -> Call {
    Call { to, path, timeout_ms: 20_000, tries: 1 }
}

/// productpage waits 3 s for each of two, and asks reviews twice: that is what Bookinfo's delay exercise uncovers.
const DETAILS: Call = Call { to: "details:9080", path: "/details/{id}", timeout_ms: 3_000, tries: 1 };
const REVIEWS: Call = Call { to: "reviews:9080", path: "/reviews/{id}", timeout_ms: 3_000, tries: 2 };
const RATINGS: Call = Call { to: "ratings:9080", path: "/ratings/{id}", timeout_ms: 10_000, tries: 1 };

const SERVICES: &[Service] = &[
    Service {
        name: "productpage",
        image: "examples-bookinfo-productpage",
        routes: &[
            book("/productpage", Part::Page, &[DETAILS, REVIEWS]),
            book("/static/*", Part::Asset, &[]),
            book("/login", Part::Login, &[]),
            book("/logout", Part::Logout, &[]),
            book("/api/v1/products", Part::Products, &[]),
            book("/api/v1/products/*", Part::Product, &[DETAILS, REVIEWS, RATINGS]),
        ],
    },
    Service { name: "details", image: "examples-bookinfo-details", routes: &[book("/details/*", Part::Details, &[])] },
    Service {
        name: "reviews",
        image: "examples-bookinfo-reviews",
        routes: &[book("/reviews/*", Part::Reviews, &[RATINGS])],
    },
    Service { name: "ratings", image: "examples-bookinfo-ratings", routes: &[book("/ratings/*", Part::Ratings, &[])] },
    Service {
        name: "front-end",
        image: "weaveworksdemos/front-end",
        routes: &[
            json("/catalogue", &[shop("catalogue", "/catalogue")]),
            json("/catalogue/*", &[shop("catalogue", "/catalogue")]),
            json("/tags", &[shop("catalogue", "/tags")]),
            json("/cart", &[shop("carts", "/carts/1/items")]),
            json("/cart/*", &[shop("carts", "/carts/1/items")]),
            json("/orders", &[shop("orders", "/orders")]),
            json("/login", &[shop("user", "/login")]),
            json("/customers/*", &[shop("user", "/customers/{id}")]),
        ],
    },
    Service {
        name: "catalogue",
        image: "weaveworksdemos/catalogue",
        routes: &[json("/catalogue", &[]), json("/catalogue/*", &[]), json("/tags", &[])],
    },
    Service { name: "carts", image: "weaveworksdemos/carts", routes: &[json("/carts/*", &[])] },
    Service {
        name: "orders",
        image: "weaveworksdemos/orders",
        routes: &[json(
            "/orders",
            &[
                shop("user", "/customers/{id}"),
                shop("carts", "/carts/1/items"),
                shop("payment", "/paymentAuth"),
                shop("shipping", "/shipping"),
            ],
        )],
    },
    Service {
        name: "user",
        image: "weaveworksdemos/user",
        routes: &[json("/login", &[]), json("/customers/*", &[]), json("/cards/*", &[]), json("/addresses/*", &[])],
    },
    Service { name: "payment", image: "weaveworksdemos/payment", routes: &[json("/paymentAuth", &[])] },
    Service { name: "shipping", image: "weaveworksdemos/shipping", routes: &[json("/shipping", &[])] },
];

impl Service {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        SERVICES.iter().find(|service| service.name == name)
    }

    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        SERVICES.iter().map(|service| service.name)
    }

    pub(super) fn route(&self, path: &str) -> Option<&'static Route> {
        self.routes.iter().find(|route| route.fits(path))
    }
}

impl Route {
    fn fits(&self, path: &str) -> bool {
        match self.path.strip_suffix('*') {
            Some(below) => path.starts_with(below),
            None => path == self.path,
        }
    }

    /// reviews v1 shows no stars and asks nobody for them.
    pub(super) fn calls_of(&self, version: &str) -> &'static [Call] {
        match self.answer {
            Answer::Bookinfo(Part::Reviews) if Colour::of(version) == Colour::None => &[],
            _ => self.calls,
        }
    }
}

/// Service and version behind a public image: `docker.io/istio/examples-bookinfo-reviews-v2:1.20` is reviews v2. The
/// version is empty where the image's name has none.
pub(crate) fn behind_image(image: &str) -> Option<(&'static str, String)> {
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    let name = name.split([':', '@']).next().unwrap_or(name);
    SERVICES.iter().find_map(|service| {
        let (folder, wanted) = service.image.rsplit_once('/').unwrap_or(("", service.image));
        let rest = name.strip_prefix(wanted).filter(|_| folder.is_empty() || image.contains(&format!("{folder}/")))?;
        match rest.strip_prefix('-') {
            Some(version) if version.starts_with('v') => Some((service.name, version.to_owned())),
            _ => rest.is_empty().then(|| (service.name, String::new())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_name_service_and_version() {
        let of = |image: &str| behind_image(image).map(|(service, version)| format!("{service} {version}"));
        assert_eq!(of("registry.istio.io/release/examples-bookinfo-reviews-v3:1.20.3").as_deref(), Some("reviews v3"));
        assert_eq!(of("examples-bookinfo-ratings-v2").as_deref(), Some("ratings v2"));
        assert_eq!(of("weaveworksdemos/front-end:0.3.12").as_deref(), Some("front-end "));
        assert_eq!(of("weaveworksdemos/catalogue-db:0.3.0"), None, "a database is no service of the table");
        assert_eq!(of("docker.io/library/user:1"), None);
        assert_eq!(of("registry.istio.io/release/examples-bookinfo-mongodb:1.20.3"), None);
    }

    #[test]
    fn calls_go_to_services_and_paths_of_the_table() {
        for service in SERVICES {
            for call in service.routes.iter().flat_map(|route| route.calls) {
                let to = Service::named(call.to.split(':').next().unwrap());
                let path = call.path.replace("{id}", "1");
                assert!(to.is_some_and(|to| to.route(&path).is_some()), "{} calls {}{path}", service.name, call.to);
            }
        }
    }
}
